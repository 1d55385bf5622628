"""The recipe of VRAG-RL: every option of such a run. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from palaestra.agents.grpo.imitation import ImitationConfig
from palaestra.agents.grpo.learner import GRPOConfig
from palaestra.agents.grpo.presets import preset
from palaestra.agents.grpo.pretrain import PretrainConfig
from palaestra.envs.retrieval.expert import ExpertConfig
from palaestra.envs.retrieval.world import PageWorldConfig
from palaestra.rewards.retrieval import RetrievalRewardConfig


@dataclass(frozen=True)
class VragRecipe:
    """Seeing and pointing, imitation of a teacher, then reinforcement, on rendered pages."""

    name: str = "vrag-pages"
    """What the run is called in tables."""
    base: str = ""
    """A stage0.safetensors of another run, so that seeing and pointing need not be learnt again."""
    imitated: str = ""
    """An imitated.safetensors of another run, so that only reinforcement is left."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Stage 0: seeing, reading and pointing."""
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    """The teacher."""
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    """Stage 1."""
    world: PageWorldConfig = field(default_factory=PageWorldConfig)
    """The rules. --world.crop False is the ablation "search only"."""
    objective: str = "vrag"
    """Member of the policy-gradient family: see agents/grpo/presets.py."""
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    """Stage 2."""
    reward: RetrievalRewardConfig = field(default_factory=RetrievalRewardConfig)
    """Weights. --reward.retrieval 0 --reward.answer 0.9 is the ablation "answer only"."""
    updates: int = 40
    """Batches of conversations to learn from; 0 stops after imitation."""
    prompts: int = 32
    """Questions a batch; each is answered by a group of conversations."""
    longest: int = 16
    """Tokens of a turn of the agent."""
    questions: int = 400
    """Held-out questions of the evaluations before and after."""
    watched: int = 100
    """Held-out questions of the evaluations on the way."""
    every: int = 10
    """Updates between those."""
    seed: int = 0
    """Of weights, demonstrations and prompts; the corpus is the same for every seed."""
    threads: int = 1
    """Threads of torch: a model so small is slower with more."""

    def validate(self) -> None:
        """Raise ValueError or LookupError on what cannot work, before anything slow starts."""
        preset(self.objective)
        for name in ("prompts", "longest", "questions", "watched", "every", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.updates < 0:
            raise ValueError(f"updates is {self.updates}; it must be at least 0.")
        if self.grpo.group < 2:
            raise ValueError(
                f"grpo.group is {self.grpo.group}: conversations are compared within a group, so at least 2."
            )
        for name, file in (("base", "stage0"), ("imitated", "imitated")):
            path = getattr(self, name)
            if path and not Path(path).is_file():
                raise ValueError(f"{name} is {path!r}, which is no file: give the {file}.safetensors of another run.")
