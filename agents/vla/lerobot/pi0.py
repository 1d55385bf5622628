"""π0 (arXiv 2410.24164) and π0.5 (arXiv 2504.16054): PaliGemma and a Gemma expert, as LeRobot's port has them.

π0's suffix is [proprioception; noisy actions], time mixed into the actions; the block of proprioception does not see
the actions. π0.5 writes proprioception into the prompt, and time conditions the norms of its expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from palaestra.agents.vla.backbone import Prefix
from palaestra.agents.vla.lerobot.expert import Expert, Shape, time_embedding
from palaestra.agents.vla.lerobot.network import LeRobotNetwork, Source, depth
from palaestra.agents.vla.lerobot.pictures import fitted
from palaestra.agents.vla.lerobot.statistics import Statistics

NAMES = {
    "backbone.vision_tower.": "model.paligemma_with_expert.paligemma.model.vision_tower.vision_model.",
    "backbone.": "model.paligemma_with_expert.paligemma.model.",
    "expert.": "model.paligemma_with_expert.gemma_expert.model.",
    "": "model.",
}
"""Prefixes of parameters, and of the tensors of a checkpoint that they are."""
EMBEDDING = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
TIED = {"model.paligemma_with_expert.paligemma.lm_head.weight": EMBEDDING}
"""Two names of one tensor, of which LeRobot saves either."""
UNUSED = ("model.paligemma_with_expert.gemma_expert.lm_head.weight",)
HEADS, EYES = 8, 16
"""Heads of queries in Gemma's sizes here, and in PaliGemma's vision tower; there is one of keys and values."""
BORDER = -3.0
"""LeRobot borders a picture with -1 before it brings it from [0, 1] to [-1, 1]."""


class PI0Network(LeRobotNetwork):
    """π0 or π0.5."""

    @property
    def language(self) -> Any:
        """Gemma."""
        return self.backbone.language_model

    def _join(self, width: int) -> None:
        if self.settings.kind == "pi0":
            self.state_proj = nn.Linear(int(self.settings["max_state_dim"]), width)
            self.action_time_mlp_in, self.action_time_mlp_out = nn.Linear(2 * width, width), nn.Linear(width, width)
        else:
            self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)

    def _pictures(self, pictures: list[Tensor]) -> Tensor:
        size = self.settings.image_size
        seen = torch.cat([fitted(picture, size, centred=True, border=BORDER) for picture in pictures])
        weight = next(self.backbone.vision_tower.parameters())
        tokens: Tensor = self.backbone.get_image_features(pixel_values=seen.to(weight.dtype)).pooler_output
        return torch.cat(tokens.chunk(len(pictures)), 1)

    def _words(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.language.embed_tokens(ids)  # scales by √E, as Gemma does
        return embedded

    def _read(self, embedded: Tensor, real: Tensor, state: Tensor) -> Prefix:
        sees = real[:, None, None].expand(-1, 1, real.shape[1], -1)
        return self._run(embedded, sees, real, state)

    def _suffix(self, context: Prefix, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        actions = self.action_in_proj(x)
        periods = float(self.settings["min_period"]), float(self.settings["max_period"])
        time = time_embedding(t, actions.shape[2], *periods)
        silu = nn.functional.silu
        if self.settings.kind == "pi05":
            condition = silu(self.time_mlp_out(silu(self.time_mlp_in(time))))
            return actions, _blocks(0, self.horizon, x.device), condition
        mixed = torch.cat([actions, time[:, None].expand_as(actions)], 2)
        mixed = self.action_time_mlp_out(silu(self.action_time_mlp_in(mixed)))
        state = self.state_proj(self.padded(context.state))[:, None]
        return torch.cat([state, mixed], 1), _blocks(1, self.horizon, x.device), None


def _blocks(states: int, actions: int, device: torch.device) -> Tensor:
    """Return which of a suffix sees which, [S, S] bool: actions see all, proprioception does not see the actions."""
    sees = torch.ones(states + actions, states + actions, dtype=torch.bool, device=device)
    sees[:states, states:] = False
    return sees


def build(shapes: Mapping[str, tuple[int, ...]], source: Source, normaliser: Statistics, **options: Any) -> PI0Network:
    """Return a network of the sizes that a checkpoint's tensors have, its weights still to be read.

    Args:
        shapes: Of the tensors, by LeRobot's names, without those of `TIED` that are missing.
        source: What else the checkpoint says.
        normaliser: Of the state.
        options: Of the network.

    Raises:
        KeyError: A tensor that tells a size is missing.
    """
    from transformers import PaliGemmaConfig, PaliGemmaModel

    kind = source.settings.kind
    language, tower = NAMES["backbone."] + "language_model.", NAMES["backbone.vision_tower."]
    text = _shape(shapes, language)
    vocabulary = shapes[EMBEDDING][0]
    inner, channels, patch, _ = shapes[tower + "embeddings.patch_embedding.weight"]
    config = PaliGemmaConfig(
        text_config={
            "model_type": "gemma", "vocab_size": vocabulary, "hidden_size": text.width,
            "intermediate_size": text.inner, "num_hidden_layers": text.depth, "num_attention_heads": text.heads,
            "num_key_value_heads": text.groups, "head_dim": text.head,
        },
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": inner, "num_channels": channels, "patch_size": patch,
            "intermediate_size": shapes[tower + "encoder.layers.0.mlp.fc1.weight"][0],
            "num_hidden_layers": depth(shapes, tower + "encoder.layers."), "num_attention_heads": EYES,
            "image_size": source.settings.image_size[0], "vision_use_head": False, "projection_dim": text.width,
        },
        projection_dim=text.width,
    )  # fmt: skip
    shape = _shape(shapes, NAMES["expert."])
    expert = Expert(shape, "adaptive" if kind == "pi05" else "gemma", 1e-6, frozenset())
    return PI0Network(source, PaliGemmaModel(config), expert, normaliser, **options)


def _shape(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Shape:
    """Return the sizes of a Gemma by its first layer."""
    first = prefix + "layers.0."
    outer, width = shapes[first + "self_attn.q_proj.weight"]
    inner, groups = shapes[first + "mlp.gate_proj.weight"][0], 1
    return Shape(width, depth(shapes, prefix + "layers."), inner, HEADS, groups, outer // HEADS)
