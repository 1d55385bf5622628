"""Recipes: every option of a training run, as frozen dataclasses. The string under a field is its help."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import tyro

from palaestra.agents.digirl.config import DigiRLConfig
from palaestra.agents.flow.imitation import ImitationConfig
from palaestra.agents.flow.pi_rl import PiRLConfig
from palaestra.agents.vla.adapters import Tuning
from palaestra.agents.vla.augmentation import AugmentationConfig
from palaestra.agents.vla.grounding import GroundingConfig
from palaestra.agents.vlm.sft import SFTConfig
from palaestra.launch.build import build, read_json
from palaestra.launch.config_conversation import ConversationRecipe
from palaestra.launch.config_found_rl import FoundRLRecipe as FoundRLRecipe
from palaestra.launch.config_found_rl import TeacherConfig as TeacherConfig
from palaestra.launch.config_found_rl import validate_found_rl
from palaestra.launch.config_tuning import TuningRecipe
from palaestra.launch.config_world import WorldConfig as WorldConfig


@dataclass(frozen=True)
class PolicyConfig:
    """The flow policy over the state vector."""

    horizon: int = 8
    """H, the actions that the network predicts; at least the chunk."""
    steps: int = 4
    """K, the denoising transitions of a decision."""
    hidden: int = 256
    """Width of the action expert."""
    layers: int = 3
    """Residual layers of the action expert."""
    noise_bounds: tuple[float, float] = (0.08, 0.16)
    """Flow-Noise: smallest and largest standard deviation of a transition."""


@dataclass(frozen=True)
class DemonstrationConfig:
    """What imitation starts from."""

    source: str = "expert"
    """`expert` lets the world's scripted expert play; or a LeRobotDataset folder; or ManiSkill's trajectory.h5."""
    episodes: int = 16
    """Demonstrations taken."""
    seed: int = 1000
    """The scripted expert's start states are drawn from this seed; the same for every seed of the run."""
    noise: float = 0.0
    """Imperfection of the scripted expert: see `palaestra.envs.manipulation.experts`."""


@dataclass(frozen=True)
class RewardConfig:
    """What is rewarded: a weighted sum."""

    success: float = 1.0
    """Weight of 1 when the task first succeeds in an episode."""
    progress: float = 0.0
    """Weight of the increase of the world's own reward from action to action."""
    world: float = 0.0
    """Weight of the world's own reward; where success ends an episode, a dense one pays for dawdling."""


@dataclass(frozen=True)
class Recipe:
    """A training run, whole: few-shot imitation, then π_RL."""

    name: str = "reach"
    """What the run is called in tables."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """The worlds."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The network."""
    demonstrations: DemonstrationConfig = field(default_factory=DemonstrationConfig)
    """The data of imitation."""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    """Supervised fine-tuning."""
    pi_rl: PiRLConfig = field(default_factory=PiRLConfig)
    """Reinforcement."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """What reinforcement maximises."""
    iterations: int = 40
    """Rollouts that are learnt from."""
    decisions: int = 8
    """T, decisions of each world in a rollout."""
    every: int = 10
    """Iterations between boundaries, where the policy is evaluated and saved and all worlds start afresh."""
    episodes: int = 100
    """Episodes of an evaluation at a boundary."""
    final_episodes: int = 200
    """Episodes of the evaluations before and after reinforcement."""
    stop_at: float = 1.0
    """Stop early once a boundary's success rate reaches this; above 1 never stops."""
    seed: int = 0
    """Of everything random, the evaluation's start states apart."""
    threads: int = 1
    """Threads of torch in the learner; small networks are fastest with one."""
    videos: int = 2
    """Episodes filmed at the end, where the world can be rendered."""
    trackers: tuple[Literal["wandb", "trackio"], ...] = ()
    """Trackers besides TensorBoard and metrics.jsonl, which are always written."""


@dataclass(frozen=True)
class VLAConfig(PolicyConfig):
    """The policy over pictures and instructions, on a vision-language backbone."""

    head: Literal["flow", "tokens"] = "flow"
    """What makes actions: an action expert that denoises (π0), or the backbone itself, token by token (OpenVLA)."""
    bins: int = 256
    """tokens: how many words there are for a number of an action."""
    hidden: int = 128
    """Width of the action expert."""
    base: str = ""
    """Folder of the backbone's checkpoint, or of a π0, π0.5 or SmolVLA that LeRobot saved, which has an expert already;
    pi0, pi05 or smolvla for a tiny one of that kind; where empty, a tiny backbone. Tiny ones have random weights."""
    image_size: int = 32
    """Side in pixels to which the tiny backbone resizes pictures."""
    width: int = 128
    """Width of the tiny backbone."""
    imitation: Tuning = "full"
    """What of the backbone imitation trains: nothing (frozen), adapters (lora) or all (full)."""
    reinforcement: Tuning = "frozen"
    """What of the backbone reinforcement trains."""
    rank: int = 8
    """lora: rank of an adapter."""

    @property
    def adapters(self) -> int:
        """Rank of the backbone's adapters; 0 where neither stage trains any."""
        return self.rank if "lora" in (self.imitation, self.reinforcement) else 0


@dataclass(frozen=True)
class VLARecipe(Recipe):
    """A training run of a vision-language-action policy, whole: few-shot imitation, then π_RL."""

    name: str = "vla-tabletop"
    """What the run is called in tables."""
    policy: VLAConfig = field(default_factory=VLAConfig)
    """The network."""
    grounding: GroundingConfig = field(default_factory=GroundingConfig)
    """Before demonstrations, the whole backbone learns to point at what instructions name."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Of the pictures that grounding and imitation show."""


@dataclass(frozen=True)
class JudgeConfig:
    """Whose verdicts are learnt from. What is reported is always the world's own."""

    kind: Literal["state", "noisy", "model"] = "state"
    """The world's state; the same with errors on purpose; or a vision-language model on a server."""
    false_positive: float = 0.1
    """Of `noisy`: share of failures called successes."""
    false_negative: float = 0.1
    """Of `noisy`: share of successes called failures. Both at 0.5 are a coin, from which nothing can be learnt."""
    server: str = "http://127.0.0.1:8000"
    """Of `model`: the address; start one with `palaestra serve --model judge=...`."""
    model: str = "judge"
    """Of `model`: its name there."""


@dataclass(frozen=True)
class DigiRLRecipe:
    """DigiRL, whole: imitation of an expert, an offline stage, then rounds of playing and learning."""

    name: str = "digirl-phone"
    """What the run is called in tables."""
    world: WorldConfig = field(
        default_factory=lambda: WorldConfig(
            id="android/ladder-v0", count=64, chunk=1, options={"preset": "drift(0)", "max_steps": 10}
        )
    )
    """The phones, one episode of each in a round."""
    device: str = "cpu"
    """Where the model lives: cpu or cuda; phones are simulated on the CPU."""
    evaluation: dict[str, int | float | bool | str] = field(default_factory=lambda: {"split": "reworded"})
    """Options of the phones that are evaluated on, beside the others: instructions that training never sees, in words
    that it does."""
    unseen: dict[str, int | float | bool | str] = field(default_factory=lambda: {"split": "test"})
    """Options of further phones that are evaluated on at the end of a stage: tasks that training never sees. Where they
    hold words that it never sees either, a model must be able to read; the tiny one cannot."""
    demonstration: dict[str, int | float | bool | str] = field(default_factory=lambda: {"preset": "calm"})
    """Options of the phones that the expert is shown on, beside the others: tamer ones."""
    demonstrations: int = 28
    """Episodes of the expert on tamer phones that are imitated."""
    live_demonstrations: int = 14
    """Further ones on the phones of the run. All are learnt from again in the offline stage, beside what was played."""
    slips: float = 0.2
    """Chance of an expert's step to go astray, by a tap on anything else: demonstrations then show the way back."""
    cameras: tuple[str, ...] = ("screen",)
    """Pictures that the agent looks at; the value functions also see the step before."""
    base: str = ""
    """Folder of the checkpoint to start from; where empty, a tiny one with random weights is built."""
    image_size: int = 48
    """Side in pixels to which the tiny checkpoint resizes pictures."""
    vocabulary: int = 900
    """Tokens of the tiny checkpoint, set phrases apart."""
    width: int = 64
    """Of the tiny checkpoint's text decoder."""
    layers: int = 2
    """Of the tiny checkpoint's text decoder."""
    longest: int = 60
    """Tokens that an action may have."""
    temperature: float = 1.0
    """Of the actor's sampling, in training and in evaluation as in the paper."""
    imitation: SFTConfig = field(
        default_factory=lambda: SFTConfig(steps=240, learning_rate=2e-3, grouped=False)
    )
    """Supervised fine-tuning on the demonstrations; no steps take `base` as it is."""
    actor: SFTConfig = field(
        default_factory=lambda: SFTConfig(schedule="linear", warmup=10, learning_rate=2e-3, weight_decay=0.0)
    )
    """The actor's optimiser; its number of steps is that of the run's updates, whatever stands here."""
    learner: Annotated[DigiRLConfig, tyro.conf.arg(name="")] = field(default_factory=DigiRLConfig)
    """What is learnt from what."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """Who says what succeeded."""
    offline_episodes: int = 512
    """Episodes of the imitator that the offline stage learns from; it is the first iteration."""
    capacity: int = 1500
    """The newest episodes that are learnt from."""
    iterations: int = 21
    """The offline stage, then rounds; 1 is the offline variant."""
    every: int = 10
    """Rounds between boundaries, where the policy is evaluated and saved."""
    episodes: int = 64
    """Episodes of an evaluation at a boundary."""
    final_episodes: int = 256
    """Episodes of the evaluation at the end of a stage."""
    stop_at: float = 2.0
    """Stop early once a boundary's success rate reaches this; above 1 never stops."""
    seed: int = 0
    """Of everything random, the evaluation's start states and the demonstrations apart."""
    threads: int = 1
    """Threads of torch."""
    videos: int = 2
    """Episodes filmed at the end."""
    trackers: tuple[Literal["wandb", "trackio"], ...] = ()
    """Trackers besides TensorBoard and metrics.jsonl, which are always written."""

    @property
    def horizon(self) -> int:
        """H, the most steps of an episode."""
        return int(self.world.options.get("max_steps", 20))


AnyRecipe = Recipe | FoundRLRecipe | DigiRLRecipe
"""A recipe of reinforcement."""


AnyKind = AnyRecipe | TuningRecipe | ConversationRecipe
"""A recipe of any kind."""
R = TypeVar("R")


@dataclass(frozen=True)
class TrainOptions(Generic[R]):
    """What `palaestra train` takes: a recipe, and where the run goes."""

    recipe: Annotated[R, tyro.conf.arg(name="")]
    run: Path | None = None
    """Folder of the run; by default runs/<recipe>-<seed>-<time>."""


EVALUATION_SEED = 777
"""Start states of every evaluation come from this seed, whatever the run's: rates of different runs are paired."""


def validate(recipe: AnyKind) -> None:
    """Raise ValueError on what cannot work, before anything slow starts."""
    if isinstance(recipe, TuningRecipe | ConversationRecipe):
        recipe.validate()
        return
    positive = ["iterations", "every", "episodes", "final_episodes", "threads"]
    positive += ["demonstrations", "offline_episodes"] if isinstance(recipe, DigiRLRecipe) else ["decisions"]
    for name in positive:
        if getattr(recipe, name) < 1:
            raise ValueError(f"{name} is {getattr(recipe, name)}; it must be at least 1.")
    world = recipe.world
    if world.count < 1 or world.chunk < 1:
        raise ValueError(f"world.count is {world.count} and world.chunk {world.chunk}; both must be at least 1.")
    if isinstance(recipe, FoundRLRecipe):
        validate_found_rl(recipe)
    elif isinstance(recipe, DigiRLRecipe):
        _validate_digirl(recipe)
    else:
        _validate_pi_rl(recipe)


def _validate_digirl(recipe: DigiRLRecipe) -> None:
    if recipe.world.chunk != 1:
        raise ValueError(f"world.chunk is {recipe.world.chunk}; an agent that acts in words says one action: take 1.")
    if recipe.base and not (Path(recipe.base) / "config.json").is_file():
        raise ValueError(f"base is {recipe.base!r}, which holds no config.json: give the folder of a checkpoint.")
    if not recipe.imitation.steps and not recipe.base:
        raise ValueError("imitation.steps is 0: give a base that acts already, such as the folder actor/ of a run.")
    if not 0 <= recipe.slips < 1:
        raise ValueError(f"slips is {recipe.slips}; it is a chance, at least 0 and below 1.")
    judge = recipe.judge
    if not 0 <= judge.false_positive <= 1 or not 0 <= judge.false_negative <= 1:
        raise ValueError(
            f"judge.false_positive is {judge.false_positive} and judge.false_negative {judge.false_negative}; both "
            "are shares, in [0, 1]."
        )
    if recipe.learner.batch % recipe.learner.fit:
        raise ValueError(f"batch is {recipe.learner.batch}, which fit = {recipe.learner.fit} does not divide.")


def _validate_pi_rl(recipe: Recipe) -> None:
    world, policy = recipe.world, recipe.policy
    if policy.horizon < world.chunk:
        raise ValueError(
            f"policy.horizon is {policy.horizon} but world.chunk {world.chunk}: the network must predict every action "
            f"that is played. Take --policy.horizon {world.chunk} or more."
        )
    if isinstance(recipe, VLARecipe) and recipe.grounding.steps and not world.id.startswith("tabletop/"):
        raise ValueError(f"{world.id} does not say where its things are: take --grounding.steps 0.")
    low, high = policy.noise_bounds
    if not 0 < low <= high:
        raise ValueError(f"policy.noise_bounds are {low} and {high}; they must be positive and ascending.")
    if recipe.pi_rl.advantage == "group" and world.count % recipe.pi_rl.group:
        raise ValueError(
            f"world.count is {world.count}, which pi_rl.group = {recipe.pi_rl.group} does not divide: "
            "the worlds of a group start alike."
        )
    if not any(dataclasses.astuple(recipe.reward)):
        raise ValueError("reward.success, reward.progress and reward.world are all 0: there is nothing to maximise.")


def to_json(recipe: AnyKind) -> str:
    """Return a recipe as JSON, as a run's `config.json` holds it."""
    return json.dumps(dataclasses.asdict(recipe), indent=2) + "\n"


def from_json(path: Path) -> AnyRecipe:
    """Read a recipe back; an unknown or misspelt key, or a value of another type, is refused by name."""
    data = read_json(path)
    keys = data if isinstance(data, dict) else {}
    policy = keys.get("policy")
    kind: type[AnyRecipe] = VLARecipe if isinstance(policy, dict) and "image_size" in policy else Recipe
    if "teacher" in keys or "offline_episodes" in keys:
        kind = FoundRLRecipe if "teacher" in keys else DigiRLRecipe
    recipe = build(kind, data, path.name)
    assert isinstance(recipe, kind)
    return recipe
