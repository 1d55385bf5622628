"""Recipes of agents that talk to worlds of tools: every option of such a run. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from palaestra.agents.grpo.curriculum import CurriculumConfig
from palaestra.agents.grpo.imitation import ImitationConfig
from palaestra.agents.grpo.learner import GRPOConfig
from palaestra.agents.grpo.presets import PRESETS, preset
from palaestra.agents.grpo.pretrain import PretrainConfig
from palaestra.envs.retrieval.expert import ExpertConfig
from palaestra.envs.retrieval.world import PageWorldConfig
from palaestra.launch.build import build, read_json
from palaestra.rewards.retrieval import RetrievalRewardConfig

TINY = "tiny"
"""As a model, it stands for a small one with random weights, whose tokenizer is made of the rows."""


@dataclass(frozen=True)
class AnswerJudgeConfig:
    """Who says whether an answer is right. Rates that are reported are always those of `exact`."""

    kind: Literal["exact", "numeric", "anls", "model"] = "exact"
    """The same text up to case, articles and punctuation; the same number within 5 %; a similar text; or a model."""
    server: str = "http://127.0.0.1:8000"
    """model: its address; start one with `palaestra serve --model judge=...`."""
    model: str = "judge"
    """model: its name there."""


@dataclass(frozen=True)
class ConversationRecipe:
    """Imitation of a teacher, then reinforcement, whatever the world."""

    name: str
    """What the run is called in tables."""
    imitated: str = ""
    """An imitated.safetensors of another run, so that only reinforcement is left."""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    """Supervised fine-tuning on what a teacher said."""
    objective: str = "vrag"
    """Member of the policy-gradient family: see agents/grpo/presets.py."""
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    """Reinforcement."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Which prompts are played, and which groups are learnt from."""
    iterations: int = 40
    """Batches of conversations to learn from."""
    prompts: int = 32
    """Tasks a batch; each is played by a group of conversations."""
    longest: int = 16
    """Tokens of a turn of the agent."""
    every: int = 10
    """Iterations between boundaries, where the agent is evaluated and saved."""
    episodes: int = 100
    """Held-out tasks of an evaluation at a boundary."""
    final_episodes: int = 400
    """Held-out tasks of the evaluations before and after."""
    stop_at: float = 2.0
    """Stop early once a boundary's success rate reaches this; above 1 never stops."""
    seed: int = 0
    """Of weights, demonstrations and prompts; the tasks are the same for every seed."""
    threads: int = 1
    """Threads of torch: a model so small is slower with more."""
    trackers: tuple[Literal["wandb", "trackio"], ...] = ()
    """Trackers besides TensorBoard and metrics.jsonl, which are always written."""

    def validate(self) -> None:
        """Raise ValueError or LookupError on what cannot work, before anything slow starts."""
        advantage = preset(self.objective).advantage
        for name in ("iterations", "prompts", "longest", "every", "episodes", "final_episodes", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.grpo.group < 2 and advantage not in ("gae", "reinforce++"):
            alone = ", ".join(name for name, one in PRESETS.items() if one.advantage in ("gae", "reinforce++"))
            raise ValueError(
                f"grpo.group is {self.grpo.group}: {self.objective} compares conversations within a group, so at least "
                f"2; {alone} do not."
            )
        _require_file("imitated", self.imitated, "imitated")


@dataclass(frozen=True)
class VragRecipe(ConversationRecipe):
    """VRAG-RL: seeing and pointing, imitation of a teacher, then reinforcement, on rendered pages."""

    name: str = "vrag-pages"
    """What the run is called in tables."""
    base: str = ""
    """A stage0.safetensors of another run, so that seeing and pointing need not be learnt again."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Seeing, reading and pointing, before anything else."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    """The teacher."""
    world: PageWorldConfig = field(default_factory=PageWorldConfig)
    """The rules. --world.crop False is the ablation "search only"."""
    reward: RetrievalRewardConfig = field(default_factory=RetrievalRewardConfig)
    """Weights. --reward.retrieval 0 --reward.answer 0.9 is the ablation "answer only"."""
    judge: AnswerJudgeConfig = field(default_factory=AnswerJudgeConfig)
    """Whose verdict on answers is learnt from."""

    def validate(self) -> None:
        """Raise ValueError or LookupError on what cannot work, before anything slow starts."""
        super().validate()
        _require_file("base", self.base, "stage0")


@dataclass(frozen=True)
class LedgerRecipe(ConversationRecipe):
    """A world of text alone: look prices up, calculate, answer."""

    name: str = "ledger"
    """What the run is called in tables."""
    imitation: ImitationConfig = field(
        default_factory=lambda: ImitationConfig(trajectories=2000, epochs=16, learning_rate=3e-3)
    )
    """Supervised fine-tuning on what a teacher said."""
    mistakes: float = 0.5
    """Share of demonstrations in which the teacher calculates with the wrong operator: what imitation gets wrong."""
    turns: int = 4
    """Calls that are carried out in an episode; one more turn may follow, of which only an answer counts."""
    iterations: int = 30
    """Batches of conversations to learn from."""
    final_episodes: int = 200
    """Held-out tasks of the evaluations before and after."""


@dataclass(frozen=True)
class ToolsRecipe(ConversationRecipe):
    """Any world of tools, and any checkpoint: imitation of what a teacher said, where one did, then reinforcement."""

    name: str = "tools"
    """What the run is called in tables."""
    world: str = "retrieval/ledger-v0"
    """A name that `palaestra list` shows, or module:Class."""
    rows: str = ""
    """JSON Lines, an episode each: what the world's `reset` takes, and perhaps "says", a teacher's texts, by turns."""
    held_out: str = ""
    """The same, for evaluations."""
    model: str = TINY
    """Folder of an image-text-to-text or text checkpoint; "tiny" is a small one with random weights."""
    rank: int = 0
    """Of low-rank adapters; 0 trains every weight."""
    turns: int = 8
    """Calls that are carried out in an episode."""
    solved: float = 1.0
    """What the world pays at least for an episode that counts as a success."""
    device: str = "cpu"
    """Where the model lives: cpu or cuda."""
    imitation: ImitationConfig = field(default_factory=lambda: ImitationConfig(trajectories=500, batch=16))
    """Supervised fine-tuning on what a teacher said."""
    objective: str = "dapo"
    """Member of the policy-gradient family: see agents/grpo/presets.py. This one needs no second copy of the model."""
    longest: int = 64
    """Tokens of a turn of the agent."""
    final_episodes: int = 200
    """Held-out rows of the evaluations before and after; all of them where there are fewer."""

    def validate(self) -> None:
        """Raise ValueError or LookupError on what cannot work, before anything slow starts."""
        super().validate()
        for name in ("rows", "held_out"):
            if not Path(getattr(self, name)).is_file():
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, which is no file: give JSON Lines, an object an episode, with "
                    f"what the reset of {self.world} takes, and perhaps what a teacher says."
                )
        if self.model != TINY and not (Path(self.model) / "config.json").is_file():
            raise ValueError(f"model is {self.model!r}, which holds no config.json: give a checkpoint's folder.")
        if self.rank < 0 or self.turns < 1:
            raise ValueError(f"rank is {self.rank}, expected 0 or more, and turns {self.turns}, expected 1 or more.")


def conversation_from_json(path: Path) -> ConversationRecipe | None:
    """Read such a recipe back; None where the file holds a recipe of another kind."""
    data = read_json(path)
    if not isinstance(data, dict) or "curriculum" not in data:
        return None
    kind = VragRecipe if "pretrain" in data else ToolsRecipe if "held_out" in data else LedgerRecipe
    recipe = build(kind, data, path.name)
    assert isinstance(recipe, ConversationRecipe)
    return recipe


def _require_file(name: str, path: str, file: str) -> None:
    if path and not Path(path).is_file():
        raise ValueError(f"{name} is {path!r}, which is no file: give the {file}.safetensors of another run.")
