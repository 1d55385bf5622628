"""Found-RL's base beside Stable-Baselines3's SAC and PPO: the same driving worlds, steps, seeds and evaluation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from palaestra.agents.core import Policy
    from palaestra.envs.core import Worlds
    from palaestra.launch.config import FoundRLRecipe

Learn = Callable[["FoundRLRecipe", "Worlds", int], "Policy"]


def learners(
    recipe: FoundRLRecipe | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    output: Path | None = Path("results/bench-learners.json"),
) -> dict[str, Any]:
    """Train each learner on a recipe's worlds, for as many steps as the recipe takes, and evaluate it likewise.

    All hold a decision for the worlds' chunk and see the same state vector; Stable-Baselines3's normalise it by
    `VecNormalize`, ours by random play. Rewards, endings and cut-offs are the worlds' own.

    Args:
        recipe: Of Found-RL; found-rl-driving where not given.
        seeds: One training each.
        output: Where the result is written, None for nowhere.

    Returns:
        One entry a learner and seed: success with its interval, and processor seconds of training.
    """
    import torch

    from palaestra.launch.files import write_atomically
    from palaestra.launch.recipes import FOUND_RL_DRIVING
    from palaestra.launch.result import provenance
    from palaestra.launch.train import make_worlds

    base = recipe or FOUND_RL_DRIVING
    torch.set_num_threads(base.threads)
    tests = make_worlds(base)
    try:
        entries = [_entry(name, replace(base, seed=seed), tests) for seed in seeds for name in LEARNERS]
    finally:
        tests.close()
    result = {"bench": "learners", "recipe": base.name, "env_steps": steps_of(base), "entries": entries, **provenance()}
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, (json.dumps(result, indent=2) + "\n").encode())
    return result


def _entry(name: str, recipe: FoundRLRecipe, tests: Worlds) -> dict[str, Any]:
    """Train one learner, and return what it reaches and costs."""
    import torch

    from palaestra.launch.config import EVALUATION_SEED
    from palaestra.launch.evaluate import evaluate
    from palaestra.launch.train import make_worlds

    torch.manual_seed(recipe.seed)
    worlds, began = make_worlds(recipe, training=True), time.process_time()
    try:
        policy = LEARNERS[name](recipe, worlds, steps_of(recipe))
        spent = time.process_time() - began
    finally:
        worlds.close()
    found = evaluate(tests, policy, recipe.final_episodes, EVALUATION_SEED, f"{name}, seed {recipe.seed}")
    print(found.summary)
    return {
        "learner": name,
        "seed": recipe.seed,
        "success_once": found.rate("success_once"),
        "interval": list(found.interval("success_once") or ()),
        "episodes": recipe.final_episodes,
        "train_cpu": spent,
    }


def steps_of(recipe: FoundRLRecipe) -> int:
    """Return the single actions that a recipe plays, if no episode ends within a chunk."""
    return recipe.iterations * recipe.decisions * recipe.world.count * recipe.world.chunk


def our_base(recipe: FoundRLRecipe, worlds: Worlds, steps: int) -> Policy:
    """Train our SAC without guidance."""
    from palaestra.agents.found_rl.learner import FoundRL
    from palaestra.agents.rollout import Collector
    from palaestra.rewards.core import WeightedSum, WorldReward

    decisions = steps // (worlds.count * worlds.spec.chunk)
    config = replace(recipe.learner, guidance="none")
    learner = FoundRL(worlds.spec, worlds.count, config, decisions, recipe.world.device)
    collector = Collector(worlds, WeightedSum({"world": (1.0, WorldReward())}))
    collector.reset(recipe.seed)
    for _ in range(decisions):
        learner.learn(collector.collect(learner, 1))
    return learner.policy


def sb3_sac(recipe: FoundRLRecipe, worlds: Worlds, steps: int) -> Policy:
    """Train Stable-Baselines3's SAC with the recipe's settings where it has them."""
    from stable_baselines3 import SAC

    learner = recipe.learner

    def make(env: Any) -> BaseAlgorithm:
        return SAC(
            "MlpPolicy",
            env,
            learning_rate=learner.actor_rate,
            buffer_size=learner.capacity,
            learning_starts=learner.warmup,
            batch_size=learner.batch,
            tau=learner.average,
            gamma=learner.discount,
            gradient_steps=learner.updates,
            policy_kwargs={"net_arch": [learner.hidden, learner.hidden]},
            seed=recipe.seed,
            device=recipe.world.device,
        )

    return _stable(recipe, worlds, steps, make)


def sb3_ppo(recipe: FoundRLRecipe, worlds: Worlds, steps: int) -> Policy:
    """Train Stable-Baselines3's PPO with its defaults, the recipe's discount and rollouts of 16 decisions."""
    from stable_baselines3 import PPO

    def make(env: Any) -> BaseAlgorithm:
        return PPO(
            "MlpPolicy",
            env,
            n_steps=16,
            batch_size=recipe.learner.batch,
            gamma=recipe.learner.discount,
            seed=recipe.seed,
            device=recipe.world.device,
        )

    return _stable(recipe, worlds, steps, make)


def _stable(recipe: FoundRLRecipe, worlds: Worlds, steps: int, make: Callable[[Any], BaseAlgorithm]) -> Policy:
    from stable_baselines3.common.vec_env import VecNormalize

    from palaestra.agents.baselines import SB3Policy, SB3VecEnv

    env = VecNormalize(SB3VecEnv(worlds, recipe.seed), norm_reward=False)
    model = make(env).learn(steps // worlds.spec.chunk)
    env.training = False
    return SB3Policy(model, chunk=worlds.spec.chunk)


LEARNERS: dict[str, Learn] = {"palaestra SAC": our_base, "SB3 SAC": sb3_sac, "SB3 PPO": sb3_ppo}
"""By name."""
