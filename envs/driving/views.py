"""What worlds show: their state vectors, and beside them bird's-eye views or the scenes that those are painted from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from torch import Tensor

from palaestra.envs.driving.arena import Arena
from palaestra.envs.driving.bev import CHANNELS, Scene
from palaestra.envs.driving.observe import WIDTH
from palaestra.envs.driving.painter import Painter
from palaestra.envs.driving.state import State
from palaestra.envs.recorded import Recorded

Observed = Tensor | dict[str, Tensor]
"""A state vector a world, or that beside views or scenes."""
View = Literal["state", "bev", "scene"]


class Views:
    """What all worlds showed last.

    Two canvases of bird's-eye views take turns: each stays while the next is painted. A start is painted over its
    world's last view, since a copy of all the others' would cost as much as painting them.
    """

    def __init__(self, arena: Arena, signals: Tensor, view: View, pixels: int) -> None:
        """Draw the atlas where views are painted; see `painter.Painter`."""
        self.view: View = view
        self.painter = None if view == "state" else Painter(arena, signals, pixels)
        self._canvases: list[tuple[Tensor, Callable[..., object]]] = []
        self._last: dict[str, Tensor] = {}

    def space(self, vehicles: int, walkers: int) -> gymnasium.Space[Any]:
        """Return the space of what one world shows, with so many vehicles (the ego counted) and walkers."""
        state = gymnasium.spaces.Box(-np.inf, np.inf, (WIDTH,), np.float32)
        if self.painter is None:
            return state
        if self.view == "scene":
            rows = gymnasium.spaces.Box(-np.inf, np.inf, (Scene.width(vehicles, walkers),), np.float32)
            return gymnasium.spaces.Dict({"scene": rows, "state": state})
        side = self.painter.pixels
        views = gymnasium.spaces.Box(0, 255, (side, side, CHANNELS), np.uint8)
        return gymnasium.spaces.Dict({"bev": views, "state": state})

    def all(self, state: State, vectors: Tensor) -> Observed:
        """Return what all worlds show, whose state vectors are [W, 88]."""
        shown = {"state": vectors}
        if self.view == "scene":
            shown["scene"] = Scene.of(state).flat()
        elif self.painter is not None:
            shown["bev"] = self._painted(self.painter, Scene.of(state))
        self._last = shown
        return self._shown()

    def _painted(self, painter: Painter, scene: Scene) -> Tensor:
        """Return the canvas that was shown last but one, painted anew; on a GPU, by a recorded painter."""
        parts = [getattr(scene, entry.name) for entry in fields(scene)]
        if len(self._canvases) < 2:
            canvas = painter.blank(len(scene.map))

            def paint(*parts: Tensor) -> tuple[()]:
                painter.paint(Scene(*parts), canvas)
                return ()

            recorded = paint if canvas.device.type == "cpu" else Recorded(paint, {}, *parts)
            self._canvases.insert(0, (canvas, recorded))
        else:
            self._canvases.reverse()
        canvas, again = self._canvases[0]
        again(*parts)
        return canvas

    @property
    def known(self) -> bool:
        """Whether anything was shown yet."""
        return bool(self._last)

    def some(self, state: State, rows: Tensor, vectors: Sequence[Tensor]) -> Observed:
        """Return what all worlds showed last but for some ([N] int64), whose state vectors are now these [N, 88]."""
        if not len(rows):
            return self._shown()
        shown = {"state": self._last["state"].index_copy(0, rows, torch.cat(tuple(vectors)))}
        if self.view == "scene":
            shown["scene"] = self._last["scene"].index_copy(0, rows, Scene.of(state)[rows].flat())
        elif self.painter is not None:
            shown["bev"] = self._last["bev"].index_copy_(0, rows, self.painter.paint(Scene.of(state)[rows]))
        self._last = shown
        return self._shown()

    def _shown(self) -> Observed:
        return self._last["state"] if self.painter is None else dict(self._last)
