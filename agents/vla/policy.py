"""Vision-language-action policies of worlds: a checkpoint or a tiny one, an expert, and what of it is trained."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gymnasium import spaces

from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.vla.backbone import Backbone
from palaestra.agents.vla.network import VLANetwork
from palaestra.agents.vlm.checkpoint import Checkpoint, read_checkpoint
from palaestra.envs.core import WorldSpec

LONGEST = 64
"""Tokens that an instruction may have."""


def backbone_checkpoint(base: str, image_size: int) -> Checkpoint:
    """Return the checkpoint in the folder `base`, or where that is empty a tiny untrained one, always the same.

    Args:
        base: A folder.
        image_size: Side to which the tiny one resizes pictures.

    Raises:
        WeightsError: The folder holds no checkpoint.
    """
    if base:
        path = Path(base)
        return read_checkpoint(path, processor=path, adapter=None, device="cpu", dtype="auto")
    from palaestra.agents.vlm.tiny import build_tiny_vlm

    with tempfile.TemporaryDirectory() as folder:
        path = build_tiny_vlm(Path(folder) / "tiny", image_size=image_size)
        return read_checkpoint(path, processor=path, adapter=None, device="cpu", dtype="auto")


def vla_policy(
    spec: WorldSpec,
    checkpoint: Checkpoint,
    horizon: int,
    steps: int = 4,
    hidden: int = 128,
    layers: int = 3,
    noise_bounds: tuple[float, float] = (0.08, 0.16),
    rank: int = 0,
) -> FlowPolicy:
    """Return a flow policy over pictures, instructions and proprioception, its backbone frozen and its expert fresh.

    Raises:
        ValueError: The worlds show no pictures or no text, or their actions are not a one-dimensional box.
    """
    if not spec.images or not spec.text:
        raise ValueError(f"{spec.id} shows no pictures or no text; a vision-language-action policy needs both.")
    action = spec.action
    if not isinstance(action, spaces.Box) or len(action.shape) != 1:
        raise ValueError(f"{spec.id} takes actions {action}; a flow policy needs a one-dimensional Box.")
    backbone = Backbone(checkpoint, spec.images, LONGEST, rank)
    network = VLANetwork(backbone, spec.state or 0, horizon, action.shape[0], hidden, layers, noise_bounds)
    return FlowPolicy(network, action.low, action.high, spec.chunk, steps)
