"""The action expert of π0, π0.5 and SmolVLA: a small transformer beside the keys and values of a backbone.

Its parameters have the names that LeRobot's checkpoints give them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from palaestra.agents.vla.network import rotated

THETA = 10_000.0
"""Base of the rotary embedding (Su et al. 2021) in Gemma, and in SmolVLA whatever its backbone was trained with."""


@dataclass(frozen=True)
class Shape:
    """Sizes of an expert, as its tensors tell them."""

    width: int
    depth: int
    inner: int
    """Width of the perceptrons."""
    heads: int
    groups: int
    """Heads of keys and values."""
    head: int
    """Width of a head."""


def rotation(place: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the rotary embedding at places [N, S], each [N, S, head] float32."""
    index = torch.arange(0, head, 2, device=place.device, dtype=torch.float32)
    angle = place[..., None].float() / THETA ** (index / head)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def time_embedding(t: Tensor, width: int, shortest: float, longest: float) -> Tensor:
    """Return sines, then cosines, of t at periods from `shortest` to `longest`, geometrically spaced, [N, width].

    Computed in double precision: the shortest period is 4e-3, so that a step of t is many turns.
    """
    share = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=t.device)
    period = shortest * (longest / shortest) ** share
    angle = t.double()[:, None] * (2 * math.pi / period)
    return torch.cat([angle.sin(), angle.cos()], 1).to(t.dtype)


class Norm(nn.Module):
    """Root-mean-square norm in float32: scaled by a weight (Llama), by 1 + weight (Gemma), or by a condition (π0.5).

    The condition gives scale, shift and the gate of the residual (adaRMS, openpi).
    """

    def __init__(self, width: int, kind: Literal["llama", "gemma", "adaptive"], epsilon: float) -> None:
        super().__init__()
        self.kind, self.epsilon = kind, epsilon
        if kind == "adaptive":
            self.dense = nn.Linear(width, 3 * width)
        else:
            self.weight = nn.Parameter(torch.zeros(width) if kind == "gemma" else torch.ones(width))

    def forward(self, hidden: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the normalised [N, S, W] and the gate [N, 1, W], or None."""
        value = nn.functional.rms_norm(hidden.float(), hidden.shape[-1:], eps=self.epsilon)
        if self.kind == "llama":
            return (value * self.weight.float()).to(hidden.dtype), None
        if self.kind == "gemma":
            return (value * (1 + self.weight.float())).to(hidden.dtype), None
        assert condition is not None
        scale, shift, gate = self.dense(condition.to(self.dense.weight.dtype))[:, None].chunk(3, -1)
        return (value * (1 + scale.float()) + shift.float()).to(hidden.dtype), gate.to(hidden.dtype)


class Attention(nn.Module):
    """Attention of the suffix over prefix and suffix; or, where it crosses, over the prefix alone."""

    def __init__(self, shape: Shape, crosses: bool) -> None:
        super().__init__()
        self.shape, self.crosses = shape, crosses
        outer, inner = shape.heads * shape.head, shape.groups * shape.head
        entry = inner if crosses else shape.width
        self.q_proj = nn.Linear(shape.width, outer, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(entry, inner, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(outer, shape.width, bias=False)

    def forward(
        self, hidden: Tensor, keys: Tensor, values: Tensor, sees: Tensor, turned: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return what the suffix [N, S, W] finds, [N, S, W].

        Args:
            hidden: Normalised.
            keys: [N, G, P, d], the prefix's; where the layer crosses they are mapped once more.
            values: [N, G, P, d].
            sees: [N, 1, S, P + S] bool; where the layer crosses [N, 1, S, P].
            turned: Cosines and sines of the suffix's places.
        """
        query = rotated(self._heads(self.q_proj(hidden)), turned)
        if self.crosses:
            keys, values = (
                self._heads(part(given.transpose(1, 2).flatten(2)))
                for part, given in ((self.k_proj, keys), (self.v_proj, values))
            )
        else:
            key, value = rotated(self._heads(self.k_proj(hidden)), turned), self._heads(self.v_proj(hidden))
            keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        grouped = self.shape.heads != self.shape.groups
        seen = nn.functional.scaled_dot_product_attention(query, keys, values, sees, enable_gqa=grouped)
        found: Tensor = self.o_proj(seen.transpose(1, 2).flatten(2))
        return found

    def _heads(self, part: Tensor) -> Tensor:
        heads: Tensor = part.unflatten(2, (-1, self.shape.head)).transpose(1, 2)
        return heads


class Perceptron(nn.Module):
    """The gated perceptron of a layer."""

    def __init__(self, shape: Shape, gelu: bool) -> None:
        super().__init__()
        self.gelu = gelu
        self.gate_proj, self.up_proj = (nn.Linear(shape.width, shape.inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return [N, S, W]."""
        gate = self.gate_proj(hidden)
        gate = nn.functional.gelu(gate, approximate="tanh") if self.gelu else nn.functional.silu(gate)
        mapped: Tensor = self.down_proj(gate * self.up_proj(hidden))
        return mapped


class Layer(nn.Module):
    """One layer of the expert."""

    def __init__(
        self, shape: Shape, kind: Literal["llama", "gemma", "adaptive"], epsilon: float, crosses: bool
    ) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.width, kind, epsilon)
        self.self_attn = Attention(shape, crosses)
        self.post_attention_layernorm = Norm(shape.width, kind, epsilon)
        self.mlp = Perceptron(shape, gelu=kind != "llama")

    def forward(
        self,
        hidden: Tensor,
        keys: Tensor,
        values: Tensor,
        sees: Tensor,
        turned: tuple[Tensor, Tensor],
        condition: Tensor | None,
    ) -> Tensor:
        """Return the suffix one layer on, see `Attention.forward`."""
        normal, gate = self.input_layernorm(hidden, condition)
        hidden = _added(hidden, self.self_attn(normal, keys, values, sees, turned), gate)
        normal, gate = self.post_attention_layernorm(hidden, condition)
        return _added(hidden, self.mlp(normal), gate)


class Expert(nn.Module):
    """All layers and the last norm."""

    def __init__(
        self, shape: Shape, kind: Literal["llama", "gemma", "adaptive"], epsilon: float, crossing: frozenset[int]
    ) -> None:
        """Build an expert.

        Args:
            shape: Its sizes.
            kind: Of its norms, which says its perceptrons too.
            epsilon: Of its norms.
            crossing: Layers that attend to the prefix alone.
        """
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(Layer(shape, kind, epsilon, i in crossing) for i in range(shape.depth))
        self.norm = Norm(shape.width, kind, epsilon)
        self.checkpointing = False
        """Whether layers are computed again in the backward pass instead of being remembered."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the layers' weights."""
        return next(self.layers.parameters()).dtype

    def forward(
        self,
        hidden: Tensor,
        keys: tuple[Tensor, ...],
        values: tuple[Tensor, ...],
        real: Tensor,
        own: Tensor,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Return the suffix [N, S, W] after all layers, float32.

        Args:
            hidden: [N, S, W].
            keys: A layer each, [N, G, P, d].
            values: A layer each, [N, G, P, d].
            real: [N, P] bool: which of the prefix is no padding.
            own: [S, S] bool: which of the suffix sees which.
            condition: [N, W] of adaptive norms.
        """
        hidden = hidden.to(self.dtype)
        count, length = hidden.shape[:2]
        prefix = real[:, None, None].expand(-1, 1, length, -1)
        both = torch.cat([prefix, own.expand(count, 1, -1, -1)], 3)
        place = torch.arange(length, device=real.device).expand(count, -1)
        behind = rotation(real.sum(1, keepdim=True) + place, self.shape.head)
        first = rotation(place, self.shape.head)
        for layer, key, value in zip(self.layers, keys, values, strict=True):
            crosses = layer.self_attn.crosses  # type: ignore[union-attr]
            sees, turned = (prefix, first) if crosses else (both, behind)
            given = (hidden, key.to(hidden.dtype), value.to(hidden.dtype), sees, turned, condition)
            if self.checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, *given, use_reentrant=False)
            else:
                hidden = layer(*given)
        last: Tensor = self.norm(hidden, condition)[0]
        return last.float()


def _added(hidden: Tensor, found: Tensor, gate: Tensor | None) -> Tensor:
    return hidden + found if gate is None else hidden + found * gate
