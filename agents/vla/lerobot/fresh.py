"""Untrained π0, π0.5 and SmolVLA of any size, for worlds: to be trained here and written as LeRobot would.

Sizes are told as a checkpoint tells them, by its tensors' shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces

from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.vla.lerobot import pi0, smolvla
from palaestra.agents.vla.lerobot.expert import Shape
from palaestra.agents.vla.lerobot.format import ACTION, CAMERA, DEFAULTS, STATE, Kind, Settings, settings
from palaestra.agents.vla.lerobot.network import LeRobotNetwork, Source
from palaestra.agents.vla.lerobot.processors import fresh_processors, unfitted
from palaestra.agents.vla.lerobot.words import Words
from palaestra.envs.core import WorldSpec


@dataclass(frozen=True)
class Size:
    """How large a policy is."""

    text: Shape
    """The language model."""
    expert: Shape
    eyes: tuple[int, int, int]
    """Width, depth and inner width of the vision tower."""
    image: int
    """Side of the square that pictures are brought to."""
    patch: int
    """Side of a patch, in pixels."""
    vocabulary: int
    joined: int = 1
    """SmolVLA: the side of the square of patches that become one token."""


PI0 = Size(
    Shape(2048, 18, 16384, 8, 1, 256), Shape(1024, 18, 4096, 8, 1, 256), (1152, 27, 4304), 224, 14, 257152
)
"""π0 and π0.5: PaliGemma 3B and an expert of 0.3 B."""
SMOLVLA = Size(
    Shape(960, 16, 2560, 15, 5, 64), Shape(720, 16, 2048, 15, 5, 64), (768, 12, 3072), 512, 16, 49280, 4
)
"""SmolVLA: the first 16 layers of SmolVLM2 500M, and an expert three quarters as wide."""
TINY: dict[Kind, Size] = {
    "pi0": Size(Shape(64, 3, 128, 8, 1, 16), Shape(32, 3, 64, 8, 1, 16), (64, 2, 96), 32, 8, 640),
    "smolvla": Size(Shape(64, 4, 128, 2, 1, 64), Shape(48, 4, 96, 2, 1, 64), (64, 2, 96), 32, 8, 640, 2),
}
TINY["pi05"] = TINY["pi0"]


def fresh_policy(
    kind: Kind,
    spec: WorldSpec,
    size: Size,
    tokenizer: Any,
    horizon: int,
    steps: int = 10,
    wide: int = 32,
    noise_bounds: tuple[float, float] = (0.08, 0.16),
    rank: int = 0,
) -> FlowPolicy:
    """Return an untrained policy for worlds, its statistics still to be fitted.

    Args:
        kind: Which policy.
        spec: Worlds with pictures, proprioception, text and a box of actions.
        size: How large it is.
        tokenizer: Of `transformers`, its vocabulary no larger than the size's.
        horizon: H.
        steps: K.
        wide: The width that proprioception and actions are padded to.
        noise_bounds: Flow-Noise: smallest and largest standard deviation of a transition.
        rank: Of adapters of the language model; 0 for none.

    Raises:
        ValueError: The worlds show less, or the tokenizer has more words.
    """
    action = spec.action
    if not spec.images or not spec.text or spec.state is None:
        raise ValueError(f"{spec.id} lacks pictures, text or proprioception, which {kind} reads.")
    if not isinstance(action, spaces.Box) or len(action.shape) != 1:
        raise ValueError(f"{spec.id} takes actions {action}; a flow policy needs a one-dimensional Box.")
    if len(tokenizer) > size.vocabulary:
        raise ValueError(f"the tokenizer has {len(tokenizer)} words; the policy of this size has {size.vocabulary}.")
    made = _settings(kind, spec, action, size, horizon, steps, wide)
    processors = fresh_processors(made)
    built = smolvla if kind == "smolvla" else pi0
    # LeRobot's file has the heads of vocabularies that no policy reads; its reader wants them there.
    head = (size.vocabulary, size.text.width if kind == "smolvla" else size.expert.width)
    unused = {name: torch.zeros(1).expand(head) for name in built.UNUSED}
    source = Source(made, processors, Words(tokenizer, processors.longest), unused)
    network: LeRobotNetwork = built.build(
        _shapes(kind, size), source, unfitted(made, STATE), noise_bounds=noise_bounds
    )
    if rank:
        network.adapt(rank)
    return FlowPolicy(network, action.low, action.high, spec.chunk, steps, unfitted(made, ACTION))


def tiny_policy(
    kind: Kind,
    spec: WorldSpec,
    horizon: int,
    steps: int = 10,
    noise_bounds: tuple[float, float] = (0.08, 0.16),
    rank: int = 0,
) -> FlowPolicy:
    """Return an untrained tiny policy with a tokenizer of its own; see `fresh_policy`."""
    from palaestra.agents.vlm.tiny import CORPUS, train_tokenizer

    size = TINY[kind]
    tokenizer = train_tokenizer(CORPUS, size.vocabulary, 2048)
    return fresh_policy(kind, spec, size, tokenizer, horizon, steps, noise_bounds=noise_bounds, rank=rank)


def _settings(
    kind: Kind, spec: WorldSpec, action: spaces.Box, size: Size, horizon: int, steps: int, wide: int
) -> Settings:
    """Return what the policy's `config.json` says."""
    smol = kind == "smolvla"
    seen = {CAMERA + name: {"type": "VISUAL", "shape": [c, h, w]} for name, (h, w, c) in spec.images.items()}
    return settings(
        kind,
        {
            "type": kind,
            **DEFAULTS[kind],
            "input_features": {**seen, STATE: {"type": "STATE", "shape": [spec.state]}},
            "output_features": {ACTION: {"type": "ACTION", "shape": list(action.shape)}},
            "chunk_size": horizon,
            "n_action_steps": spec.chunk,
            "max_state_dim": max(wide, spec.state or 0),
            "max_action_dim": max(wide, action.shape[0]),
            "num_steps" if smol else "num_inference_steps": steps,
            "resize_imgs_with_padding" if smol else "image_resolution": [size.image, size.image],
            **({"num_vlm_layers": size.text.depth} if smol else {}),
        },
        spec.id,
    )


def _shapes(kind: Kind, size: Size) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that tell a policy's sizes."""
    smol = kind == "smolvla"
    names = smolvla.NAMES if smol else pi0.NAMES
    language = names["backbone."] + ("text_model." if smol else "language_model.")
    tower = names["backbone."] + "vision_model." if smol else names["backbone.vision_tower."]
    width, deep, inner = size.eyes
    side = size.image // size.patch
    found: dict[str, tuple[int, ...]] = {
        language + "embed_tokens.weight": (size.vocabulary, size.text.width),
        tower + "embeddings.patch_embedding.weight": (width, 3, size.patch, size.patch),
        tower + "embeddings.position_embedding.weight": (side**2, width),
        tower + "encoder.layers.0.mlp.fc1.weight": (inner, width),
        names["backbone."] + "connector.modality_projection.proj.weight": (size.text.width, width * size.joined**2),
    }
    found |= {f"{tower}encoder.layers.{index}.": () for index in range(deep)}
    for prefix, shape in ((language, size.text), (names["expert."], size.expert)):
        first = f"{prefix}layers.0."
        found |= {f"{prefix}layers.{index}.": () for index in range(shape.depth)}
        found[first + "self_attn.q_proj.weight"] = (shape.heads * shape.head, shape.width)
        found[first + "self_attn.k_proj.weight"] = (shape.groups * shape.head, shape.width)
        found[first + "mlp.gate_proj.weight"] = (shape.inner, shape.width)
    return found
