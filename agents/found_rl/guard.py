"""Whether a teacher's labels are any good, measured by what comes of following them.

Some worlds are driven by an imitator, which has learnt nothing but the labels. Its labels are trusted while

* they can be foretold from what is seen (labels drawn at random cannot), and
* the imitator earns significantly more than the policy itself does in the other worlds.

Guidance that has made the policy as good as the imitator has done its work, and ends likewise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.agents.found_rl.config import GuardConfig

FORGET = 0.02
"""Share by which newer labels replace older ones in the estimate of how predictable they are."""


class Guard:
    """Collects the evidence and gives the verdict."""

    def __init__(self, config: GuardConfig, worlds: int, device: torch.device | str) -> None:
        """Watch some worlds, of which the first few follow the advice.

        Raises:
            ValueError: There are too few worlds to spare any.
        """
        self.config = config
        self.probes = max(1, round(config.share * worlds))
        if config.on and self.probes >= worlds:
            raise ValueError(
                f"the guard needs some of {worlds} worlds to follow the advice: make more, or give --guard.on False."
            )
        self.tensors = {
            "returns": torch.zeros(worlds),
            "alive": torch.ones(worlds, dtype=torch.bool),
            "samples": torch.zeros(config.memory, worlds),
            "windows": torch.zeros((), dtype=torch.int64),
            "decisions": torch.zeros((), dtype=torch.int64),
            "errors": torch.zeros(2, dtype=torch.float64),
            "open": torch.tensor(not config.on),
        }
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}

    @property
    def open(self) -> bool:
        """Whether the labels are trusted."""
        return bool(self.tensors["open"])

    @property
    def predictability(self) -> float:
        """The share of the labels' variance that the imitator foretells; 0 before there are labels."""
        error, variance = self.tensors["errors"].tolist()
        return 1 - error / variance if variance > 0 else 0.0

    def hear(self, foretold: Tensor, labels: Tensor) -> None:
        """Take new labels [N, A] and what the imitator expected of them, [N, A], before it has learnt from them."""
        if len(labels) < 2:
            return
        error = (labels - foretold).square().mean()
        batch = torch.stack((error, labels.var(0).mean())).double()
        self.tensors["errors"].lerp_(batch.to(self.tensors["errors"].device), FORGET)

    def watch(self, reward: Tensor, over: Tensor) -> None:
        """Take what every world earned by a decision, [W], and where that was an episode's last, [W] bool."""
        tensors, config = self.tensors, self.config
        tensors["returns"] += reward * tensors["alive"]
        tensors["alive"] &= ~over
        tensors["decisions"] += 1
        if int(tensors["decisions"]) % config.window:
            return
        tensors["samples"][int(tensors["windows"]) % config.memory] = tensors["returns"]
        tensors["windows"] += 1
        tensors["returns"].zero_()
        tensors["alive"].fill_(True)
        if config.on:
            tensors["open"].fill_(self._trusted())

    def restart(self) -> None:
        """Forget the windows that have begun: the worlds start afresh."""
        self.tensors["returns"].zero_()
        self.tensors["alive"].fill_(True)
        self.tensors["decisions"].zero_()

    def advantage(self) -> tuple[float, float] | None:
        """Return by how much following the advice earns more, and that difference's standard error."""
        full = self.tensors["samples"][: int(self.tensors["windows"])]
        sides = full[:, : self.probes].flatten(), full[:, self.probes :].flatten()
        if min(len(side) for side in sides) < max(2, self.config.least):
            return None
        error = sum((side.var() / len(side) for side in sides), torch.zeros(())).sqrt()
        return float(sides[0].mean() - sides[1].mean()), float(error)

    def metrics(self) -> dict[str, float]:
        """Return the evidence under guard/."""
        found = {"guard/open": float(self.open), "guard/predictability": self.predictability}
        if (advantage := self.advantage()) is not None:
            found["guard/advantage"], found["guard/error"] = advantage
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Return the evidence."""
        return dict(self.tensors)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore it."""
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])

    def _trusted(self) -> bool:
        if self.predictability < self.config.predictable or (advantage := self.advantage()) is None:
            return False
        gain, error = advantage
        return gain > self.config.confidence * error
