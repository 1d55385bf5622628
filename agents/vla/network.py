"""The action expert over a vision-language backbone: a flow network that samplers and learners take as any other.

The suffix is [proprioception; noisy actions]. Each of its layers attends to the keys and values of one layer of the
backbone beside its own (π0). Blocks are causal: the prefix does not see the suffix, so that it is computed once;
proprioception does not see the actions; actions see all. Beside proprioception enters what the backbone concluded: the
mean of its outputs, which keys and values hold only in pieces, and where it points.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palaestra.agents.flow.network import NoiseHead, mlp, time_embedding
from palaestra.agents.flow.samplers import Field
from palaestra.agents.vla.backbone import Backbone, Prefix
from palaestra.agents.vla.reader import Reader


class ExpertLayer(nn.Module):
    """One layer of the expert: attention over prefix and suffix, then a gated perceptron."""

    def __init__(self, hidden: int, heads: int, groups: int, head: int) -> None:
        super().__init__()
        self.groups, self.head = groups, head
        self.before, self.between = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
        self.query = nn.Linear(hidden, heads * head, bias=False)
        self.key, self.value = (nn.Linear(hidden, groups * head, bias=False) for _ in range(2))
        self.leave = nn.Linear(heads * head, hidden, bias=False)
        self.up, self.gate = (nn.Linear(hidden, 2 * hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * hidden, hidden, bias=False)

    def forward(
        self, hidden: Tensor, keys: Tensor, values: Tensor, sees: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return the suffix [N, S, W] one layer on.

        Args:
            hidden: [N, S, W].
            keys: [N, G, P, d], the prefix's.
            values: [N, G, P, d].
            sees: [N, 1, S, P + S] bool.
            rotation: Cosines and sines [N, S, d] of the suffix's places.
        """
        normal = self.before(hidden)
        query, key, value = (
            part(normal).unflatten(2, (-1, self.head)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        query, key = rotated(query, rotation), rotated(key, rotation)
        keys, values = torch.cat([keys.to(key.dtype), key], 2), torch.cat([values.to(value.dtype), value], 2)
        grouped = query.shape[1] != self.groups
        seen = nn.functional.scaled_dot_product_attention(query, keys, values, sees, enable_gqa=grouped)
        hidden = hidden + self.leave(seen.transpose(1, 2).flatten(2))
        normal = self.between(hidden)
        gated: Tensor = hidden + self.down(nn.functional.silu(self.gate(normal)) * self.up(normal))
        return gated


class VLANetwork(Reader):
    """Pictures, an instruction and proprioception to the velocity of a chunk of actions."""

    def __init__(
        self,
        backbone: Backbone,
        state: int,
        horizon: int,
        width: int,
        hidden: int = 128,
        layers: int = 3,
        noise_bounds: tuple[float, float] = (0.08, 0.16),
    ) -> None:
        """Build an untrained expert.

        Args:
            backbone: What reads pictures and instructions.
            state: Numbers of the proprioception, 0 for none.
            horizon: H.
            width: Numbers of an action.
            hidden: Width of the expert.
            layers: Of the expert: as many of the backbone's last ones are attended to.
            noise_bounds: Flow-Noise: smallest and largest standard deviation of a transition.

        Raises:
            ValueError: The backbone has fewer layers.
        """
        super().__init__(backbone, state)
        text = backbone.text
        if not 1 <= layers <= text.num_hidden_layers:
            raise ValueError(f"layers is {layers}; the backbone has {text.num_hidden_layers}: take 1 to as many.")
        self.horizon, self.width = horizon, width
        heads, groups = text.num_attention_heads, text.num_key_value_heads
        head = getattr(text, "head_dim", None) or text.hidden_size // heads
        self.enter_state = nn.Linear(backbone.width + state, hidden)
        self.enter = mlp([width + 32, hidden, hidden])
        self.layers = nn.ModuleList(ExpertLayer(hidden, heads, groups, head) for _ in range(layers))
        self.norm = nn.RMSNorm(hidden)
        self.leave = nn.Linear(hidden, width)
        self.noise = NoiseHead(hidden, horizon, width, noise_bounds)
        nn.init.zeros_(self.leave.bias)

    def field(self, context: Prefix, x: Tensor, t: Tensor) -> Field:
        """Return velocity [N, H, D], standard deviation [N, H, D] and the mean of the actions' features [N, W]."""
        time = time_embedding(t)[:, None].expand(-1, self.horizon, -1)
        actions = self.enter(torch.cat([x, time], 2))
        hidden = torch.cat([self.enter_state(self.summary(context))[:, None], actions], 1)
        sees, place = _suffix(context.real, hidden.shape[1])
        rotation = self.backbone.rotation(hidden, place)
        skipped = len(context.keys) - len(self.layers)
        for index, layer in enumerate(self.layers, skipped):
            hidden = layer(hidden, context.keys[index], context.values[index], sees, rotation)
        seen = self.norm(hidden[:, 1:])
        features = seen.mean(1)
        return Field(self.leave(seen), self.noise(features), features)


def _suffix(real: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return what a suffix of `length` tokens sees [N, 1, S, P + S] and its places behind the prefix [N, S]."""
    own = torch.ones(length, length, dtype=torch.bool, device=real.device)
    own[0, 1:] = False
    count = len(real)
    before = real[:, None, None, :].expand(-1, 1, length, -1)
    place = real.sum(1, keepdim=True) + torch.arange(length, device=real.device)
    return torch.cat([before, own.expand(count, 1, -1, -1)], 3), place


def rotated(part: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Return queries or keys [N, heads, S, d] rotated to their places."""
    cosine, sine = (table[:, None].to(part.dtype) for table in rotation)
    left, right = part.chunk(2, -1)
    return part * cosine + torch.cat([-right, left], -1) * sine
