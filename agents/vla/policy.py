"""Vision-language-action policies of worlds: a checkpoint or a tiny one, an expert, and what of it is trained."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gymnasium import spaces

from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.vla.backbone import Backbone
from palaestra.agents.vla.network import VLANetwork
from palaestra.agents.vla.token_policy import TokenNetwork, TokenPolicy
from palaestra.agents.vla.tokens import BINS
from palaestra.agents.vlm.checkpoint import Checkpoint, read_checkpoint
from palaestra.envs.core import WorldSpec

LONGEST = 64
"""Tokens that an instruction may have."""
INSTRUCTIONS = (
    "put the red cube on the white plate", "place the green ball on the purple tray",
    "pick up the blue wedge and put it on the orange mat", "move the yellow cross to the black plate",
    "the red ball goes on the pink tray, the green cube on the brown mat", "set the blue cube down on the white tray",
    "push the yellow ball until it is on the purple plate", "slide the red wedge onto the orange tray",
    "shove the green cross to the black mat", "without lifting it, move the blue ball to the pink plate",
    "use the fingers to push the yellow cube to the brown plate", "open the drawer by the handle",
    "close the drawer all the way", "the drawer should be open",
)  # fmt: skip
"""What the tiny checkpoint's tokenizer learns its words from; any other text takes more tokens."""


def backbone_checkpoint(base: str, image_size: int, width: int = 128) -> Checkpoint:
    """Return the checkpoint in the folder `base`, or where that is empty a tiny untrained one, always the same.

    Args:
        base: A folder.
        image_size: Side to which the tiny one resizes pictures.
        width: Of the tiny one.

    Raises:
        WeightsError: The folder holds no checkpoint.
    """
    if base:
        path = Path(base)
        return read_checkpoint(path, processor=path, adapter=None, device="cpu", dtype="auto")
    from palaestra.agents.vlm.tiny import build_tiny_vlm

    with tempfile.TemporaryDirectory() as folder:
        path = build_tiny_vlm(Path(folder) / "tiny", image_size=image_size, width=width, corpus=INSTRUCTIONS)
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
    points: int = 0,
) -> FlowPolicy:
    """Return a flow policy over pictures, instructions and proprioception, its backbone frozen and its expert fresh.

    Raises:
        ValueError: The worlds show no pictures or no text, or their actions are not a one-dimensional box.
    """
    action = _actions(spec)
    backbone = Backbone(checkpoint, spec.images, LONGEST, rank, points)
    network = VLANetwork(backbone, spec.state or 0, horizon, action.shape[0], hidden, layers, noise_bounds)
    return FlowPolicy(network, action.low, action.high, spec.chunk, steps)


def token_policy(
    spec: WorldSpec, checkpoint: Checkpoint, horizon: int, bins: int = BINS, rank: int = 0, points: int = 0
) -> TokenPolicy:
    """Return a policy that says its actions token by token, its backbone frozen and the actions' words fresh.

    Raises:
        ValueError: The worlds show no pictures or no text, or their actions are not a one-dimensional box with bounds.
    """
    action = _actions(spec)
    backbone = Backbone(checkpoint, spec.images, LONGEST, rank, points)
    network = TokenNetwork(backbone, spec.state or 0, horizon, action.shape[0], bins)
    return TokenPolicy(network, action.low, action.high, spec.chunk)


def _actions(spec: WorldSpec) -> spaces.Box:
    """Return the box of actions of worlds that show what a vision-language-action policy needs."""
    if not spec.images or not spec.text:
        raise ValueError(f"{spec.id} shows no pictures or no text; a vision-language-action policy needs both.")
    action = spec.action
    if not isinstance(action, spaces.Box) or len(action.shape) != 1:
        raise ValueError(f"{spec.id} takes actions {action}; the policy needs a one-dimensional Box.")
    return action
