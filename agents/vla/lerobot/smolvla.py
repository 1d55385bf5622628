"""SmolVLA (arXiv 2506.01844): the first layers of SmolVLM2, and an expert that attends to them in two ways by turns.

Every second layer of the expert crosses: it attends to the backbone's keys and values alone, mapped once more. The
others attend to them and to the actions before, for SmolVLA's actions are causal. Proprioception is the last
token of the prefix, which neither pictures nor words see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from palaestra.agents.vla.adapters import Tuning
from palaestra.agents.vla.backbone import Prefix
from palaestra.agents.vla.lerobot.expert import THETA, Expert, Shape, time_embedding
from palaestra.agents.vla.lerobot.network import LeRobotNetwork, Source, depth
from palaestra.agents.vla.lerobot.pictures import fitted
from palaestra.agents.vla.lerobot.statistics import Statistics

NAMES = {
    "backbone.": "model.vlm_with_expert.vlm.model.",
    "expert.": "model.vlm_with_expert.lm_expert.",
    "": "model.",
}
"""Prefixes of parameters, and of the tensors of a checkpoint that they are."""
TIED: dict[str, str] = {}
UNUSED = ("model.vlm_with_expert.vlm.lm_head.weight",)
HEAD = 64
"""Width of a head, in the language models of all SmolVLM2."""
BORDER = -1.0
"""Black."""


class SmolVLANetwork(LeRobotNetwork):
    """SmolVLA."""

    @property
    def language(self) -> Any:
        """Llama."""
        return self.backbone.text_model

    def _join(self, width: int) -> None:
        self.state_proj = nn.Linear(int(self.settings["max_state_dim"]), self.backbone.config.text_config.hidden_size)
        self.action_time_mlp_in, self.action_time_mlp_out = nn.Linear(2 * width, width), nn.Linear(width, width)

    def tune(self, tuning: Tuning) -> None:
        """Choose what of the backbone is trained, and with it the proprioception's way in, which lies before it."""
        super().tune(tuning)
        self.state_proj.requires_grad_(not self.settled)

    def _pictures(self, pictures: list[Tensor]) -> Tensor:
        size = self.settings.image_size
        seen = torch.cat([fitted(picture, size, centred=False, border=BORDER) for picture in pictures])
        weight = next(self.backbone.vision_model.parameters())
        tokens: Tensor = self.backbone.connector(self.backbone.vision_model(seen.to(weight.dtype)).last_hidden_state)
        return torch.cat(tokens.chunk(len(pictures)), 1) * math.sqrt(tokens.shape[-1])

    def _words(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.language.get_input_embeddings()(ids)
        return embedded * math.sqrt(embedded.shape[-1])

    def _read(self, embedded: Tensor, real: Tensor, state: Tensor) -> Prefix:
        last = self.state_proj(self.padded(state))[:, None]
        embedded = torch.cat([embedded, last.to(embedded.dtype)], 1)
        real = nn.functional.pad(real, (0, 1), value=True)
        sees = real[:, None, None].repeat(1, 1, real.shape[1], 1)
        sees[:, :, :-1, -1] = False
        return self._run(embedded, sees, real, state)

    def _suffix(self, context: Prefix, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        actions = self.action_in_proj(x)
        periods = float(self.settings["min_period"]), float(self.settings["max_period"])
        time = time_embedding(t, actions.shape[2], *periods)[:, None].expand_as(actions)
        mixed = self.action_time_mlp_in(torch.cat([actions, time], 2))
        own = torch.ones(self.horizon, self.horizon, dtype=torch.bool, device=x.device).tril()
        return self.action_time_mlp_out(nn.functional.silu(mixed)), own, None


def build(
    shapes: Mapping[str, tuple[int, ...]], source: Source, normaliser: Statistics, **options: Any
) -> SmolVLANetwork:
    """Return a network of the sizes that a checkpoint's tensors have, its weights still to be read.

    Args:
        shapes: Of the tensors, by LeRobot's names.
        source: What else the checkpoint says.
        normaliser: Of the state.
        options: Of the network.

    Raises:
        KeyError: A tensor that tells a size is missing.
    """
    from transformers import SmolVLMConfig, SmolVLMModel

    language, tower = NAMES["backbone."] + "text_model.", NAMES["backbone."] + "vision_model."
    text = _shape(shapes, language)
    hidden, channels, patch, _ = shapes[tower + "embeddings.patch_embedding.weight"]
    places = shapes[tower + "embeddings.position_embedding.weight"][0]
    joined = shapes[NAMES["backbone."] + "connector.modality_projection.proj.weight"][1] // hidden
    config = SmolVLMConfig(
        text_config={
            "model_type": "llama", "vocab_size": shapes[language + "embed_tokens.weight"][0],
            "hidden_size": text.width, "intermediate_size": text.inner, "num_hidden_layers": text.depth,
            "num_attention_heads": text.heads, "num_key_value_heads": text.groups, "head_dim": text.head,
            "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
            "pad_token_id": None,
        },
        vision_config={
            "hidden_size": hidden, "num_channels": channels, "patch_size": patch,
            "intermediate_size": shapes[tower + "encoder.layers.0.mlp.fc1.weight"][0],
            "num_hidden_layers": depth(shapes, tower + "encoder.layers."),
            # SmolVLM2's two vision towers: SigLIP base (heads of 64) and so400m (16 heads of 72).
            "num_attention_heads": 16 if hidden == 1152 else max(1, hidden // 64),
            "image_size": patch * round(places**0.5),
        },
        scale_factor=round(joined**0.5),
    )  # fmt: skip
    every = int(source.settings["self_attn_every_n_layers"])
    crossing = frozenset(i for i in range(text.depth) if every <= 0 or i % every)
    expert = Expert(_shape(shapes, NAMES["expert."]), "llama", 1e-5, crossing)
    return SmolVLANetwork(source, SmolVLMModel(config), expert, normaliser, **options)


def _shape(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Shape:
    """Return the sizes of a Llama by its first layer, which crosses nothing."""
    first = prefix + "layers.0."
    outer, width = shapes[first + "self_attn.q_proj.weight"]
    groups, inner = shapes[first + "self_attn.k_proj.weight"][0], shapes[first + "mlp.gate_proj.weight"][0]
    return Shape(width, depth(shapes, prefix + "layers."), inner, outer // HEAD, groups // HEAD, HEAD)
