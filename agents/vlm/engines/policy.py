"""A trained policy as an engine: many worlds, in any process, decided for in one pass of one network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from palaestra.agents.core import Policy
from palaestra.agents.vlm.core import Act, Action, Ask, AskError, WeightsError
from palaestra.envs.core import Observation, WorldSpec


class PolicyEngine:
    """Answers `Act` with a policy's decision, as the policy would be deployed.

    The policy draws its randomness from torch's global generators: what it decides depends on what else this process
    draws, and two asks with the same observation may be answered differently.
    """

    def __init__(
        self, policy: Policy, spec: WorldSpec, version: str, reload: Callable[[Path], Policy] | None = None
    ) -> None:
        """Serve a policy.

        Args:
            policy: What decides.
            spec: The worlds it was made for.
            version: The name of its weights; `weights_version` gives one.
            reload: Builds a policy from another file or folder of weights; None where they cannot be replaced.
        """
        self.policy, self.spec, self.version, self.reload = policy, spec, version, reload

    def check(self, ask: Ask) -> None:
        """Refuse what is no `Act` of one world of this kind.

        That is other shapes or dtypes, numbers that are not finite, or an instruction that the policy cannot read.
        """
        if not isinstance(ask, Act):
            raise AskError(f"a policy acts; it cannot answer {type(ask).__name__}.")
        spec, seen = self.spec, ask.observation
        wanted = {} if spec.state is None else {"state": f"torch.float32 [1, {spec.state}]"}
        wanted |= {f"image {name!r}": f"torch.uint8 [1, {h}, {w}, {c}]" for name, (h, w, c) in spec.images.items()}
        got = {} if seen.state is None else {"state": _kind(seen.state)}
        got |= {f"image {name!r}": _kind(picture) for name, picture in seen.images.items()}
        for name in wanted | got:
            if wanted.get(name) != got.get(name):
                expected, found = wanted.get(name, "none"), got.get(name, "none")
                raise AskError(f"the policy of {spec.id} expects as {name}: {expected}, got {found}.")
        if len(seen.text) != int(spec.text):
            raise AskError(f"the policy of {spec.id} expects {int(spec.text)} texts a world, got {len(seen.text)}.")
        if seen.state is not None and not bool(torch.isfinite(seen.state).all()):
            broken = (~torch.isfinite(seen.state[0])).nonzero().flatten().tolist()
            raise AskError(f"the state holds numbers that are not finite, at {broken[:8]} of {spec.state}.")
        try:
            self.size(ask)
        except ValueError as error:
            raise AskError(str(error)) from error

    def size(self, ask: Ask) -> int:
        """Return how many tokens the policy reads, where it says so: short instructions are not padded to long ones."""
        measure = getattr(self.policy, "size", None)
        return 1 if measure is None or not isinstance(ask, Act) else int(measure(ask.observation))

    def answer(self, asks: Sequence[Ask]) -> list[Action | Exception]:
        """Decide for all worlds at once: one chunk of actions a world, or one text."""
        observations = [ask.observation for ask in asks if isinstance(ask, Act)]
        with torch.inference_mode():
            action = self.policy.act(Observation.concatenate(observations)).action
        if not isinstance(action, Tensor):
            return [Action(text) for text in action]
        # Copied outside inference mode, so that who asked may train with them.
        rows = action.to("cpu", torch.float32, copy=True)
        finite = torch.isfinite(rows).flatten(1).all(1).tolist()
        return [
            Action(row) if good else FloatingPointError("the policy's action is not finite.")
            for row, good in zip(rows, finite, strict=True)
        ]

    def load(self, path: Path) -> PolicyEngine:
        """Return an engine with other weights for the same worlds.

        Raises:
            WeightsError: This engine has no way to load any, or these do not fit.
        """
        if self.reload is None:
            raise WeightsError(f"the policy of {self.spec.id} was given as an object: it has no way to load {path}.")
        try:
            policy = self.reload(path)
        except Exception as error:
            raise WeightsError(f"{path} does not fit the policy of {self.spec.id}: {error}") from error
        return PolicyEngine(policy, self.spec, weights_version(policy, path.name), self.reload)


def weights_version(policy: Policy, otherwise: str) -> str:
    """Return a digest of a module's weights, 12 hexadecimal digits; `otherwise` where the policy is no module."""
    if not isinstance(policy, nn.Module):
        return otherwise
    sha = hashlib.blake2b(digest_size=6)
    for name, tensor in sorted(policy.state_dict().items()):
        sha.update(f"{name} {_kind(tensor)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
