"""A tiny open_clip model in open_clip's own folder format, to be trained and loaded just as a large one is.

The folder holds `open_clip_config.json` and `open_clip_model.safetensors`, so that
`open_clip.create_model_and_transforms("local-dir:" + path)` reads it. The tokenizer is CLIP's own byte-pair encoding,
whose 49,408 merges ship with open_clip: no network is needed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
VOCABULARY = 49_408
"""Of CLIP's tokenizer. Most of a tiny model's parameters are its embedding."""


def build_tiny_clip(
    path: Path,
    *,
    seed: int = 0,
    image_size: int = 64,
    patch: int = 8,
    width: int = 96,
    layers: int = 3,
    text_width: int = 32,
    context: int = 32,
    dimension: int = 64,
) -> Path:
    """Write a randomly initialised open_clip model, by default of 2.0 million parameters.

    Args:
        path: Of the folder, created where it is missing.
        seed: Of the weights; the global generator is left as it was.
        image_size: Pixels of the square that pictures are resized to.
        patch: Pixels of a patch's side; it divides the image size.
        width: Of the vision tower, a multiple of 32 (the width of a head).
        layers: Of each tower.
        text_width: Of the text tower, a multiple of 32.
        context: Tokens that a text may have.
        dimension: Of the embeddings.

    Returns:
        `path`.

    Raises:
        ValueError: Sizes that do not divide.
    """
    if image_size % patch or width % 32 or text_width % 32:
        raise ValueError(
            f"image_size {image_size} must be a multiple of patch {patch}, and width {width} and text_width "
            f"{text_width} multiples of 32, the width of a head."
        )
    from open_clip.model import CLIP

    vision = {"image_size": image_size, "layers": layers, "width": width, "head_width": 32, "patch_size": patch}
    text = {
        "context_length": context,
        "vocab_size": VOCABULARY,
        "width": text_width,
        "heads": text_width // 32,
        "layers": layers,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(dimension, vision, text)
    return save_clip(path, model, {"embed_dim": dimension, "vision_cfg": vision, "text_cfg": text}, image_size)


def save_clip(path: Path, model: torch.nn.Module, config: dict[str, Any], image_size: int) -> Path:
    """Write an open_clip model to a folder in open_clip's format; return the folder."""
    from open_clip.transform import PreprocessCfg
    from safetensors.torch import save_file

    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path / WEIGHTS)
    document = {"model_cfg": config, "preprocess_cfg": asdict(PreprocessCfg(size=image_size))}
    (path / CONFIG).write_text(json.dumps(document, indent=2) + "\n")
    return path
