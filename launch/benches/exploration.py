"""What exploration costs: success of one imitated policy by its ODE and by Flow-SDE at several noise levels and K."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palaestra.agents.core import Decision
    from palaestra.agents.flow.pi_rl import PiRL
    from palaestra.envs.core import Observation, Worlds
    from palaestra.envs.episode import Episode
    from palaestra.launch.config import Recipe


class Explorer:
    """A learner's exploring behaviour as a policy, so that it can be evaluated like one."""

    def __init__(self, learner: PiRL) -> None:
        self.learner = learner

    def act(self, observation: Observation) -> Decision:
        """Decide as in a rollout."""
        return self.learner.act(observation)


def exploration(
    recipe: str = "pi-rl-push-cube",
    steps: Sequence[int] = (1, 2, 4, 8),
    levels: Sequence[float] = (0.2, 0.5, 0.8),
    episodes: int = 200,
    output: Path | None = Path("results/bench-exploration.json"),
) -> dict[str, Any]:
    """Measure the gap between the deployed ODE and stochastic rollouts before reinforcement (π_RL §5, ablations).

    Args:
        recipe: Whose demonstrations, imitation and worlds.
        steps: Numbers of denoising transitions K; each gets an imitation of its own.
        levels: Noise levels a of Flow-SDE, every transition stochastic.
        episodes: How many episodes each rate is taken over; all play the same start states.
        output: Where the result is written, None for nowhere.

    Returns:
        One entry a policy and sampler: K, the level (None for the ODE), success once and Wilson's 95 % interval.
    """
    import torch

    from palaestra.launch.config import Recipe
    from palaestra.launch.demonstrations import demonstrations
    from palaestra.launch.files import write_atomically
    from palaestra.launch.recipes import recipe_named
    from palaestra.launch.result import provenance
    from palaestra.launch.train import make_worlds

    base = recipe_named(recipe)
    if not isinstance(base, Recipe):
        raise ValueError(f"{recipe} does not train a flow policy, whose exploration this bench measures.")
    torch.set_num_threads(base.threads)
    shown = demonstrations(base.demonstrations, base.world)
    worlds = make_worlds(base)
    try:
        entries = [entry for count in steps for entry in _rates(base, worlds, shown, count, levels, episodes)]
    finally:
        worlds.close()
    result = {"bench": "exploration", "recipe": recipe, "episodes": episodes, "entries": entries, **provenance()}
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, (json.dumps(result, indent=2) + "\n").encode())
    return result


def _rates(
    base: Recipe, worlds: Worlds, shown: Sequence[Episode], count: int, levels: Sequence[float], episodes: int
) -> list[dict[str, Any]]:
    """Return the entries of one K: imitate, then evaluate the ODE and every level."""
    import torch

    from palaestra.agents.flow.imitation import imitate
    from palaestra.agents.flow.pi_rl import PiRL
    from palaestra.launch.config import EVALUATION_SEED
    from palaestra.launch.evaluate import evaluate
    from palaestra.launch.train import make_flow_policy

    torch.manual_seed(base.seed)
    policy = make_flow_policy(replace(base, policy=replace(base.policy, steps=count)), worlds.spec)
    for _ in imitate(policy, shown, base.imitation):
        pass
    first = worlds.reset(base.seed).observation
    actors: dict[float | None, Any] = {None: policy}
    for noise in levels:
        actors[noise] = Explorer(PiRL(policy, replace(base.pi_rl, sampler="sde", form="full", level=noise), first))
    entries = []
    for level, actor in actors.items():
        found = evaluate(worlds, actor, episodes, EVALUATION_SEED, f"K = {count}, level {level}")
        rate, interval = found.rate("success_once"), list(found.interval("success_once") or ())
        entries.append({"steps": count, "level": level, "success_once": rate, "interval": interval})
        print(found.summary)
    return entries
