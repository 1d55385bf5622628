"""The learner: DrQ-v2 or SAC on replayed transitions, guided by a teacher's labels where there are any."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.agents.core import Decision, Rollout
from palaestra.agents.found_rl.advice import Advisor
from palaestra.agents.found_rl.config import FoundRLConfig
from palaestra.agents.found_rl.guard import Guard
from palaestra.agents.found_rl.guidance import cosine, hold_then_fall
from palaestra.agents.found_rl.networks import Actor
from palaestra.agents.found_rl.policy import DrivingPolicy
from palaestra.agents.found_rl.replay import Replay
from palaestra.agents.found_rl.update import Updater
from palaestra.agents.metrics import Meter
from palaestra.agents.optimiser import under
from palaestra.envs.core import Observation, WorldSpec

REFIT = 1.25
"""The state's scale is fitted anew each time the replay has grown by this factor: random play hardly moves a car."""


class FoundRL:
    """Explores, remembers, asks and learns. Rollouts are single decisions of all worlds."""

    def __init__(
        self,
        spec: WorldSpec,
        worlds: int,
        config: FoundRLConfig,
        decisions: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Make an untrained one.

        Args:
            spec: Of the worlds.
            worlds: How many are played together.
            config: How it learns.
            decisions: Of the whole run; exploration and guidance fade over it.
            device: Where replay and networks live.
        """
        self.config, self.decisions = config, decisions
        self._policy = DrivingPolicy(spec, config.hidden).to(device)
        self.replay = Replay(spec, worlds, config.capacity, self._policy.width, device)
        self.guard = Guard(config.guard, worlds, device) if config.margins or config.actions else None
        imitator = Actor(self._policy.encoder.width, self._policy.width, config.hidden).to(device)
        self.imitator = imitator if self.guard is not None and config.guard.on else None
        self.updater = Updater(self._policy, self.imitator, config, device)
        self.advisor: Advisor | None = None
        """Who gives labels; set it where there is a teacher."""
        self.decided = 0
        self.scaled_to = 0
        """How many transitions the state's scale was fitted to last."""
        self._fresh = True

    @property
    def policy(self) -> DrivingPolicy:
        """The policy as it is deployed."""
        return self._policy

    @property
    def fitted(self) -> bool:
        """Whether learning has begun."""
        return self.scaled_to > 0

    @property
    def progress(self) -> float:
        """The share of the run that is over."""
        return self.decided / self.decisions

    def restart(self) -> None:
        """Say that the worlds start afresh: what is outstanding is given up."""
        self._fresh = True
        if self.advisor is not None:
            self.advisor.drop()
        if self.guard is not None:
            self.guard.restart()

    @torch.no_grad()
    def act(self, observation: Observation) -> Decision:
        """Decide for all worlds, exploring, and ask the teacher about some of what they show."""
        if self._fresh:
            self.replay.begin(observation)
            self._fresh = False
        action = self._explore(observation)
        if self.advisor is not None:
            asks = self.advisor.query.config
            disagreement = self._disagreement(observation, action) if asks.kind == "disagreement" else None
            self.advisor.ask(self.decided, action, disagreement)
        return Decision(self._policy.held(action))

    def _explore(self, observation: Observation) -> Tensor:
        """Return actions [W, A]: random ones at first; those of the imitator in the guard's worlds."""
        worlds, width = len(observation), self._policy.width
        device = self.replay.current.device
        if not self.fitted:
            return 2 * torch.rand(worlds, width, device=device) - 1
        features = self._policy.encoder(observation)
        mean, log_std = self._policy.actor(features)
        if self.config.algorithm == "sac" and self.config.guidance != "bc":
            action = torch.tanh(mean + log_std.exp() * torch.randn_like(mean))
        else:
            noise = self.noise * torch.randn_like(mean)
            action = (torch.tanh(mean) + noise).clamp(-1, 1)
        if self.imitator is not None and self.guard is not None and self._weight_left():
            probes = self.guard.probes
            action[:probes] = torch.tanh(self.imitator(features[:probes])[0])
        return action

    @property
    def noise(self) -> float:
        """DrQ-v2's exploration now."""
        first, last = self.config.noise
        return first + (last - first) * min(1.0, self.progress / max(self.config.noise_end, 1e-9))

    def _disagreement(self, observation: Observation, action: Tensor) -> Tensor | None:
        if not self.fitted:
            return None
        values: Tensor = self.updater.critics(self._policy.encoder(observation), action)
        return values.std(0)

    def weights(self) -> tuple[float, float]:
        """Return what VMR's λ and AWAG's η are now by their schedules, the guard left aside."""
        config, progress = self.config, self.progress
        margin = hold_then_fall(progress, config.margin_hold, config.margin_end) if config.margins else 0.0
        action = config.action_weight * cosine(progress, config.action_end) if config.actions else 0.0
        return margin, action

    def _weight_left(self) -> bool:
        return any(self.weights())

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Remember one decision of all worlds, take the labels that are due, and improve.

        Raises:
            ValueError: The rollout holds several decisions.
            FloatingPointError: A loss is not finite.
        """
        if len(rollout.played) != 1:
            raise ValueError(f"this learner takes rollouts of 1 decision, got {len(rollout.played)}: set decisions=1.")
        good, ended = rollout.mask[0], rollout.ended[0]
        self.replay.close(
            rollout.action[0, :, 0],
            rollout.reward[0],
            rollout.terminated[0],
            rollout.truncated[0],
            good,
            rollout.final,
            rollout.last,
        )
        self.decided += 1
        if self.guard is not None:
            self.guard.watch(rollout.reward[0] * good, ended | ~good)
        self._take_labels()
        ready = self.replay.ready
        if ready < self.config.warmup:
            return {}
        if ready >= REFIT * self.scaled_to:
            self._fit_scale()
        return self._improve()

    def _take_labels(self) -> None:
        """Let the advisor write what has come; the guard looks at it before the imitator learns from it."""
        if self.advisor is None:
            return
        labels = self.advisor.collect(self.decided)
        if labels is None or self.imitator is None or self.guard is None or not self.fitted:
            return
        with torch.no_grad():
            features = self._policy.encoder(self.replay.observation(labels.slot))
            self.guard.hear(torch.tanh(self.imitator(features)[0]), labels.value)

    def _fit_scale(self) -> None:
        """Fit the state's scale to all that play has shown."""
        state = self.replay.tensors.get("state")
        if state is not None:
            self._policy.encoder.scale.fit(state[self.replay.tensors["ready"]])
        self.scaled_to = self.replay.ready

    def _improve(self) -> dict[str, float]:
        """Take the gradient steps of one decision; return metrics."""
        meter, margin, action = Meter(), *self.weights()
        trusted = self.guard is None or self.guard.open
        for _ in range(self.config.updates):
            self.updater.step(self.replay, margin * trusted, action * trusted, self.noise, meter)
        metrics = {f"train/{name}": value for name, value in meter.means().items()}
        metrics["replay/transitions"] = float(self.replay.ready)
        if self.advisor is not None:
            metrics |= self.advisor.metrics()
            metrics |= {f"replay/{name}": value for name, value in self.replay.shares().items()}
        if self.guard is not None:
            metrics |= self.guard.metrics()
            metrics |= {"train/margin_weight": margin * trusted, "train/action_weight": action * trusted}
        return metrics

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        parts = {
            "policy": self._policy.state_dict(),
            "updater": self.updater.state_dict(),
            "replay": self.replay.state_dict(),
            "counter": {"decided": torch.tensor(self.decided), "scaled_to": torch.tensor(self.scaled_to)},
        }
        if self.advisor is not None:
            parts["advisor"] = self.advisor.state_dict()
        if self.guard is not None:
            parts["guard"] = self.guard.state_dict()
        return parts

    def state_dict(self) -> dict[str, Tensor]:
        """Return policy, critics, optimisers, replay and evidence as named tensors. What is outstanding is not kept."""
        return {f"{part}.{name}": value for part, tensors in self._parts().items() for name, value in tensors.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`; raises on any missing, unknown or misshaped entry."""
        unknown = sorted({key.split(".", 1)[0] for key in state} ^ self._parts().keys())
        if unknown:
            raise ValueError(f"the state is of another learner: {', '.join(unknown)} in only one of them.")
        self._policy.load_state_dict(under("policy.", state))
        self.updater.load_state_dict(under("updater.", state))
        self.replay.load_state_dict(under("replay.", state))
        if self.advisor is not None:
            self.advisor.load_state_dict(under("advisor.", state))
        if self.guard is not None:
            self.guard.load_state_dict(under("guard.", state))
        counter = under("counter.", state)
        self.decided, self.scaled_to = int(counter["decided"]), int(counter["scaled_to"])
        self._fresh = True
