"""Starting runs and taking them on, and what a recipe's worlds and policy are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaestra.agents.core import Policy
from palaestra.agents.flow.imitation import imitate
from palaestra.agents.flow.pi_rl import PiRL
from palaestra.agents.flow.policy import FlowPolicy, state_policy
from palaestra.agents.rollout import Collector
from palaestra.agents.vla.lerobot.checkpoint import is_policy, policy_for
from palaestra.agents.vla.lerobot.format import DEFAULTS
from palaestra.agents.vla.lerobot.fresh import tiny_policy
from palaestra.agents.vla.lerobot.network import LeRobotNetwork
from palaestra.agents.vla.policy import backbone_checkpoint, token_policy, vla_policy
from palaestra.agents.vla.reader import Reader
from palaestra.agents.vla.token_learner import TokenRL
from palaestra.agents.vla.token_policy import TokenPolicy
from palaestra.envs.core import Worlds, WorldSpec
from palaestra.envs.manipulation.tabletop.pointing import PLACES
from palaestra.envs.registry import make
from palaestra.launch import checkpoint
from palaestra.launch.config import (
    AnyKind,
    AnyRecipe,
    DigiRLRecipe,
    FoundRLRecipe,
    Recipe,
    VLARecipe,
    from_json,
    to_json,
    validate,
)
from palaestra.launch.config_conversation import ConversationRecipe, conversation_from_json
from palaestra.launch.config_tuning import TuningRecipe, tuning_from_json
from palaestra.launch.demonstrations import demonstrations
from palaestra.launch.files import write_atomically
from palaestra.launch.run import Run, WorldsRun
from palaestra.rewards.core import WeightedSum, WorldReward
from palaestra.rewards.shaping import ProgressReward
from palaestra.rewards.success import SuccessReward

if TYPE_CHECKING:
    from palaestra.agents.found_rl.policy import DrivingPolicy


def train(recipe: AnyKind, run: Path) -> Path:
    """Start a run of any recipe in a new folder and take it to its end; return the folder.

    Raises:
        FileExistsError: The folder already holds a run.
        ValueError: The recipe cannot work.
    """
    validate(recipe)
    if (run / "config.json").exists():
        raise FileExistsError(f"{run} already holds a run: resume it with --resume {run}, or choose another --run.")
    run.mkdir(parents=True, exist_ok=True)
    write_atomically(run / "config.json", to_json(recipe).encode())
    return _play(recipe, run)


def resume(run: Path) -> Path:
    """Take a run on from its newest checkpoint, from the beginning where it has none; return the folder."""
    recipe = read_recipe(run)
    validate(recipe)
    return _play(recipe, run)


def read_recipe(run: Path) -> AnyKind:
    """Return the recipe of a run, of whatever kind."""
    path = run / "config.json"
    return tuning_from_json(path) or conversation_from_json(path) or from_json(path)


def _play(recipe: AnyKind, run: Path) -> Path:
    if isinstance(recipe, TuningRecipe):
        from palaestra.launch.tuning import tune

        return tune(recipe, run)
    if isinstance(recipe, ConversationRecipe):
        from palaestra.launch.conversation import converse_and_learn

        return converse_and_learn(recipe, run)
    return _run(recipe, run).play()


def _run(recipe: AnyRecipe, run: Path) -> Run:
    if isinstance(recipe, FoundRLRecipe):
        from palaestra.launch.found_rl import FoundRLRun

        return FoundRLRun(recipe, run)
    if isinstance(recipe, DigiRLRecipe):
        from palaestra.launch.digirl import DigiRLRun

        return DigiRLRun(recipe, run)
    return PiRLRun(recipe, run)


def evaluation_options(recipe: AnyRecipe) -> dict[str, Any]:
    """Return the options of the worlds that a recipe evaluates in; some recipes change those that they train in."""
    return dict(recipe.world.options) | ({} if isinstance(recipe, Recipe) else recipe.evaluation)


def training_options(recipe: AnyRecipe) -> dict[str, Any]:
    """Return the options of the worlds that a recipe trains in."""
    return dict(recipe.world.options) | (recipe.training if isinstance(recipe, FoundRLRecipe) else {})


def make_worlds(recipe: AnyRecipe, count: int | None = None, training: bool = False) -> Worlds:
    """Return the worlds of a recipe.

    Args:
        recipe: Which worlds.
        count: How many; by default as many as the recipe says.
        training: Whether they are trained in; some recipes evaluate in others (other maps).
    """
    world = recipe.world
    options = training_options(recipe) if training else evaluation_options(recipe)
    return make(
        world.id,
        count or world.count,
        chunk=world.chunk,
        workers=world.workers,
        device=world.device,
        **options,
    )


def make_policy(recipe: Recipe | FoundRLRecipe, spec: WorldSpec) -> FlowPolicy | TokenPolicy | DrivingPolicy:
    """Return the untrained policy of a recipe."""
    if isinstance(recipe, FoundRLRecipe):
        from palaestra.agents.found_rl.policy import DrivingPolicy

        return DrivingPolicy(spec, recipe.learner.hidden).to(recipe.world.device)
    if isinstance(recipe, VLARecipe):
        return make_vla_policy(recipe, spec)
    return make_flow_policy(recipe, spec)


def make_flow_policy(recipe: Recipe, spec: WorldSpec) -> FlowPolicy:
    """Return the untrained policy of a recipe over the state vector."""
    policy = recipe.policy
    built = state_policy(spec, policy.horizon, policy.steps, policy.hidden, policy.layers, policy.noise_bounds)
    return built.to(recipe.world.device)


def make_vla_policy(recipe: VLARecipe, spec: WorldSpec) -> FlowPolicy | TokenPolicy:
    """Return the untrained policy on its backbone, of which is trained what reinforcement trains.

    Raises:
        ValueError: The base is no such policy or backbone, or the worlds are not what it was made for.
    """
    policy = recipe.policy
    if policy.base in DEFAULTS or (policy.base and is_policy(Path(policy.base))):
        return _make_lerobot_policy(recipe, spec)
    checkpoint = backbone_checkpoint(policy.base, policy.image_size, policy.width)
    points = PLACES if recipe.grounding.steps else 0
    built: FlowPolicy | TokenPolicy
    if policy.head == "tokens":
        built = token_policy(spec, checkpoint, policy.horizon, policy.bins, policy.adapters, points)
    else:
        built = vla_policy(
            spec, checkpoint, policy.horizon, policy.steps, policy.hidden, policy.layers, policy.noise_bounds,
            policy.adapters, points,
        )  # fmt: skip
    assert isinstance(built.network, Reader)
    built.network.tune(policy.reinforcement)
    return built.to(recipe.world.device)


def _make_lerobot_policy(recipe: VLARecipe, spec: WorldSpec) -> FlowPolicy:
    """Return a π0, π0.5 or SmolVLA: a tiny untrained one by its name, or one that LeRobot saved."""
    policy = recipe.policy
    if policy.head != "flow" or recipe.grounding.steps:
        raise ValueError(
            f"policy.base is {policy.base}, of LeRobot's kind, which has an action expert and was not made to point: "
            "take --policy.head flow --grounding.steps 0."
        )
    if policy.base in DEFAULTS:
        built = tiny_policy(policy.base, spec, policy.horizon, policy.steps, policy.noise_bounds, policy.adapters)
    else:
        built = policy_for(spec, Path(policy.base), policy.steps, policy.noise_bounds, policy.adapters)
    assert isinstance(built.network, LeRobotNetwork)
    built.network.tune(policy.reinforcement)
    return built.to(recipe.world.device)


def load_policy(
    run: Path, recipe: AnyRecipe, spec: WorldSpec, name: str | None = None
) -> Policy:
    """Return a trained policy: of the checkpoint `name`, or of the newest.

    Raises:
        CheckpointError: There is none, or it belongs to another recipe or world.
    """
    folder = checkpoint.latest(run) if name is None else run / "checkpoints" / name
    if folder is None:
        raise checkpoint.CheckpointError(f"{run} holds no finished checkpoint: train it first.")
    tensors, _ = checkpoint.load(folder)
    if isinstance(recipe, DigiRLRecipe):
        from palaestra.launch.digirl import load_actor

        return load_actor(run, recipe, tensors)
    prefix = "learner.policy."
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    policy = make_policy(recipe, spec)
    checkpoint.require_same_layout(policy.state_dict(), found, str(folder))
    policy.load_state_dict(found)
    return policy


class PiRLRun(WorldsRun):
    """Few-shot imitation, then reinforcement by π_RL."""

    recipe: Recipe
    learner: PiRL | TokenRL

    def build(self) -> None:
        """Make everything that learns."""
        recipe = self.recipe
        self.worlds = make_worlds(recipe)
        self.reward = WeightedSum(
            {
                name: (weight, reward)
                for name, weight, reward in (
                    ("success", recipe.reward.success, SuccessReward(recipe.world.count)),
                    ("progress", recipe.reward.progress, ProgressReward(recipe.world.count)),
                    ("world", recipe.reward.world, WorldReward()),
                )
                if weight
            }
        )
        self.group = recipe.pi_rl.group if recipe.pi_rl.advantage == "group" else 1
        self.collector = Collector(self.worlds, self.reward)
        policy = make_policy(recipe, self.worlds.spec)
        first = self.worlds.reset(self.start_seed(), self.group).observation
        if isinstance(policy, TokenPolicy):
            self.learner = TokenRL(policy, recipe.pi_rl, first)
        else:
            assert isinstance(policy, FlowPolicy)
            self.learner = PiRL(policy, recipe.pi_rl, first)

    def prepare(self) -> dict[str, float]:
        """Fit the policy to demonstrations."""
        recipe, started = self.recipe, time.perf_counter()
        say = self.tracker.console.print
        say(f"imitation: {recipe.demonstrations.episodes} demonstrations from {recipe.demonstrations.source}")
        episodes = demonstrations(recipe.demonstrations, recipe.world)
        metrics: dict[str, float] = {}
        augment = None
        if isinstance(recipe, VLARecipe):
            metrics = self._ground(recipe)
            self._reader().tune(recipe.policy.imitation)
            augment = recipe.augmentation if recipe.augmentation.active else None
        metrics |= self._follow(imitate(self.learner.policy, episodes, recipe.imitation, augment))
        if isinstance(recipe, VLARecipe):
            self._reader().tune(recipe.policy.reinforcement)
        metrics["time/imitation"] = time.perf_counter() - started
        return metrics

    def _reader(self) -> Reader | LeRobotNetwork:
        network = self.learner.policy.network
        assert isinstance(network, Reader | LeRobotNetwork)
        return network

    def _ground(self, recipe: VLARecipe) -> dict[str, float]:
        """Teach the backbone to point, where the recipe asks for it; return metrics."""
        if not recipe.grounding.steps:
            return {}
        from palaestra.launch.grounding import grounded

        reader = self._reader()
        assert isinstance(reader, Reader)
        self.tracker.console.print(f"grounding: {recipe.grounding.steps} steps, once for all seeds")
        return self._follow(grounded(recipe, reader.backbone))

    def _follow(self, steps: Iterator[dict[str, float]]) -> dict[str, float]:
        """Take supervised training to its end, or to Ctrl-C, and return its last metrics."""
        metrics: dict[str, float] = {}
        for progress in steps:
            if self.stopping:
                raise KeyboardInterrupt
            metrics = {name: value for name, value in progress.items() if "/" in name}
        return metrics

    def restart(self) -> None:
        """Start all worlds afresh, the rows of a group alike."""
        self.collector.reset(self.start_seed(), self.group)

    def iterate(self) -> dict[str, float]:
        """Collect one rollout and learn from it; return metrics that account for the time it took."""
        started = time.perf_counter()
        whole = self.group > 1
        if whole:
            self.restart()
        rollout = self.collector.collect(self.learner, self.recipe.decisions, whole)
        collected = time.perf_counter()
        metrics = self.learner.learn(rollout)
        seconds = self.collector.seconds | {"learn": time.perf_counter() - collected}
        self.iteration += 1
        self.env_steps += int(rollout.played.sum())
        metrics |= self.rollout_metrics(rollout)
        seconds["other"] = time.perf_counter() - started - sum(seconds.values())
        return metrics | {f"time/{name}": value for name, value in seconds.items()}
