"""Every option of the learner. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Guidance = Literal["none", "vmr", "awag", "vmr+awag", "ccaa", "bc"]
Quality = Literal["oracle", "noisy", "blind", "partial", "random"]
Kind = Literal["every", "random", "unsafe", "disagreement"]


@dataclass(frozen=True)
class QueryConfig:
    """Which views the teacher is asked about."""

    kind: Kind = "every"
    """every: each world's every k-th view; random: a share; unsafe: danger is near; disagreement: the share of views at
    which the critics disagree most."""
    every: int = 1
    """every: k."""
    share: float = 1.0
    """random, disagreement: the share of views asked about."""
    most_a_second: float = 0.0
    """Asks a second at most, whatever the kind; 0 for no limit."""
    outstanding: int = 4096
    """Asks without an answer at most; beyond it nothing is asked, so that a server that hangs costs nothing."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"query.every is {self.every}; it must be at least 1.")
        if not 0 < self.share <= 1:
            raise ValueError(f"query.share is {self.share}; it must be above 0 and at most 1.")
        if self.most_a_second < 0 or self.outstanding < 1:
            raise ValueError(
                f"query.most_a_second is {self.most_a_second} and query.outstanding {self.outstanding}; they must be "
                "at least 0 and at least 1."
            )


@dataclass(frozen=True)
class GuardConfig:
    """When to stop listening to the teacher: some worlds are driven by what its labels teach by imitation alone."""

    on: bool = True
    """Whether advice is guarded; it is then used only once it has proved good."""
    share: float = 0.125
    """Share of the worlds that follow the advice while guidance lasts, to measure it."""
    window: int = 16
    """Decisions after which a world's return counts as one sample."""
    memory: int = 4
    """Windows that are remembered."""
    least: int = 16
    """Samples of either kind of worlds before there is a verdict."""
    confidence: float = 1.64
    """Standard errors by which the advice must do better than the policy itself."""
    predictable: float = 0.02
    """Share of the labels' variance that must be predictable from what is seen; random labels have none."""


@dataclass(frozen=True)
class FoundRLConfig:
    """How the policy learns, and what the teacher's labels add."""

    algorithm: Literal["sac", "drqv2"] = "sac"
    """Exploration by entropy, or by noise that is told to fade."""
    guidance: Guidance = "none"
    """vmr: value margins in the critic; awag: weighted actions in the actor; ccaa: a bonus in the reward; bc: imitation
    of the labels, without rewards; none: the base that they are compared with."""
    literal: bool = False
    """The released code's forms of the guidance losses instead of the formulas' (absolute advantages, log-probability,
    an unmasked margin)."""
    margin: float = 2.0
    """vmr: m, by how much a label is to be worth more than the action taken."""
    margin_hold: float = 0.2
    """vmr: share of the run up to which its weight is 1 (0.05 in the paper's run of a million steps)."""
    margin_end: float = 0.7
    """vmr: share of the run from which it is 0 (0.15 there)."""
    action_weight: float = 1.0
    """awag: η at the start (0.03 in the released DrQ-v2, 0.01 in its SAC)."""
    action_end: float = 0.6
    """awag: share of the run over which η falls to 0 by a cosine (0.3 there)."""
    temperature: float = 2.0
    """awag: β."""
    most_weight: float = 20.0
    """awag: the largest weight of a label."""
    guard: GuardConfig = GuardConfig()
    """Protection from bad labels."""
    query: QueryConfig = QueryConfig(every=4)
    """What is asked."""
    hidden: int = 128
    """Width of actor and critics."""
    capacity: int = 200_000
    """Transitions that the replay holds."""
    warmup: int = 1_000
    """Decisions at random before anything is learnt."""
    updates: int = 8
    """Gradient steps after each decision of all worlds."""
    batch: int = 256
    """Transitions a gradient step."""
    discount: float = 0.92
    """γ, a decision. Values look 1 / (1 - γ) decisions ahead, 6 s of driving in half-seconds: the farther, the more
    gradient steps until they are true, as the targets follow slowly."""
    average: float = 0.02
    """τ of the target critics."""
    actor_rate: float = 1e-3
    """Adam's step size of the actor."""
    critic_rate: float = 1e-3
    """Adam's step size of the critics, the encoder and the imitator."""
    saturation: float = 0.01
    """Weight of the squared pre-tanh action, which keeps the tanh from saturating."""
    gradient_clip: float = 10.0
    """Largest norm of a network's gradient."""
    entropy: float = 1.0
    """sac: the first temperature α; it adapts towards an entropy of -A nats for A numbers in an action. A small one,
    such as 0.05, ends exploration before the critics know what a collision costs."""
    noise: tuple[float, float] = (0.6, 0.1)
    """drqv2: standard deviation of exploration at the start and from `noise_end` on."""
    noise_end: float = 0.6
    """drqv2: share of the run over which it falls."""
    shift: int = 4
    """Pixels by which pictures are shifted at random before a gradient step; 0 leaves them."""

    def __post_init__(self) -> None:
        for name in ("hidden", "capacity", "warmup", "updates", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount is {self.discount}; it must be at least 0 and below 1.")
        if self.margin_end < self.margin_hold:
            raise ValueError(f"margin_end is {self.margin_end}, before margin_hold, {self.margin_hold}.")
        if self.most_weight < 1 or self.temperature <= 0:
            raise ValueError(
                f"most_weight is {self.most_weight} and temperature {self.temperature}; at least 1 and above 0."
            )

    @property
    def margins(self) -> bool:
        """Whether labels move the critics."""
        return self.guidance in ("vmr", "vmr+awag")

    @property
    def actions(self) -> bool:
        """Whether labels move the actor."""
        return self.guidance in ("awag", "vmr+awag")
