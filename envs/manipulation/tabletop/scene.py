"""The state of B tables, how episodes start, and how the gripper moves things: kinematics, no forces."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from palaestra.envs.manipulation.tabletop.catalogue import (
    HANDLE,
    HELD_OUT,
    HELD_OUT_WORDINGS,
    RECEPTACLES,
    SCENES,
    WORDINGS,
    Split,
    Task,
)
from palaestra.envs.streams import draw

SPEED = 0.2
"""How far an action of 1 moves the tool along an axis; the table is [-1, 1]²."""
TOP = 0.6
"""How high the tool can rise."""
REACH = 0.12
"""Fingers that close on an object no farther than this from the tool, across, hold it."""
LOW = 0.15
"""How low the tool must be to hold, or to push."""
SIZE = 0.12
"""Half an object's width."""
ROOM = 0.2
"""Half a receptacle's width; an object is on it when its middle is no farther from the receptacle's."""
RAIL = 0.6
"""How far a drawer's handle slides."""
CELLS = 4
"""Things start in different cells of a grid of so many a side."""


@dataclass(frozen=True, slots=True)
class Table:
    """B tables with N objects and R receptacles."""

    tool: Tensor
    """[B, 3]: x and y in [-1, 1], height in [0, `TOP`]."""
    closed: Tensor
    """[B] bool: the fingers."""
    held: Tensor
    """[B] int64: the object between the fingers, -1 for none."""
    objects: Tensor
    """[B, N, 3]: middles; the height is above the table's top."""
    kinds: Tensor
    """[B, N] int64, of `OBJECTS`."""
    receptacles: Tensor
    """[B, R, 2]."""
    receptacle_kinds: Tensor
    """[B, R] int64, of `RECEPTACLES`."""
    goals: Tensor
    """[B, N, 2]: where objects belong."""
    wanted: Tensor
    """[B, N] bool: which objects the instruction is about."""
    scene: Tensor
    """[B] int64, of `SCENES`."""
    light: Tensor
    """[B]: brightness, about 1."""
    wording: Tensor
    """[B] int64, of `WORDINGS`."""

    def where(self, mask: Tensor, other: Table) -> Table:
        """Return the tables of `mask` ([B] bool) and others elsewhere."""
        values = []
        for entry in fields(self):
            mine, its = getattr(self, entry.name), getattr(other, entry.name)
            values.append(torch.where(mask.view(-1, *[1] * (mine.dim() - 1)), mine, its))
        return Table(*values)

    def __getitem__(self, rows: Tensor) -> Table:
        return Table(*(getattr(self, entry.name)[rows] for entry in fields(self)))

    def placed(self) -> Tensor:
        """Return which objects lie where they belong, [B, N] bool; unwanted ones always do."""
        near: Tensor = torch.linalg.vector_norm(self.objects[:, :, :2] - self.goals, dim=-1) < ROOM
        free = torch.arange(self.kinds.shape[1], device=self.held.device) != self.held[:, None]
        return (near & free) | ~self.wanted

    def way(self) -> Tensor:
        """Return how far wanted objects are from their goals, and the tool from the next one to move, [B]."""
        far = torch.linalg.vector_norm(self.objects[:, :, :2] - self.goals, dim=-1) * self.wanted
        index = self.next()
        target = self.objects.gather(1, index[:, None, None].expand(-1, 1, 3))[:, 0]
        tool = torch.linalg.vector_norm(self.tool - target, dim=1)
        way: Tensor = far.sum(1) + 0.5 * torch.where(self.placed().all(1), 0.0, tool)
        return way

    def next(self) -> Tensor:
        """Return the first object that is not placed, 0 where all are, [B] int64."""
        return (~self.placed()).int().argmax(1)


def start(
    stream: Tensor, task: Task, split: Split, objects: int, receptacles: int, kinds: int, scenes: int
) -> Table:
    """Return tables at the start of an episode, a pure function of well-mixed numbers [B].

    Args:
        stream: [B] int64.
        task: What is asked for.
        split: What is unseen.
        objects: N.
        receptacles: R, as many as the wanted objects or more.
        kinds: Of objects, and of receptacles, that training draws from.
        scenes: That training draws from.
    """
    count, wanted = len(stream), 2 if task == "sort" else 1

    def uniform(salt: int, width: int) -> Tensor:
        return draw(stream[:, None], torch.arange(salt, salt + width, device=stream.device)[None])

    object_kinds = _some_kinds(uniform(1, 16), objects, min(kinds, 16 - HELD_OUT))
    if split == "object":
        unseen = 16 - HELD_OUT + uniform(20, HELD_OUT).argsort(1)
        object_kinds[:, :wanted] = unseen[:, :wanted]
    total = len(RECEPTACLES)
    receptacle_kinds = _some_kinds(uniform(30, total), receptacles, min(kinds, total - HELD_OUT))
    if split == "receptacle":
        unseen = total - HELD_OUT + uniform(50, HELD_OUT).argsort(1)
        receptacle_kinds[:, :wanted] = unseen[:, :wanted]
    places = _places(uniform(60, CELLS * CELLS), uniform(80, 2 * (objects + receptacles)))
    positions = torch.cat([places[:, :objects], torch.zeros(count, objects, 1, device=stream.device)], 2)
    goals = places[:, :objects].clone()
    goals[:, :wanted] = places[:, objects : objects + wanted]
    other = uniform(110, 5)
    texture = split == "texture"
    known, all_scenes = min(scenes, len(SCENES) - HELD_OUT), len(SCENES)
    scene = (other[:, 0] * HELD_OUT).long() + all_scenes - HELD_OUT if texture else (other[:, 0] * known).long()
    light = 0.65 + 0.1 * other[:, 1] if texture else 0.9 + 0.2 * other[:, 1]
    known = len(WORDINGS[task]) - HELD_OUT_WORDINGS
    wording = known + (other[:, 2] * HELD_OUT_WORDINGS).long() if split == "wording" else (other[:, 2] * known).long()
    angle, middle = 2 * torch.pi * other[:, 3], 0.3 * other[:, 4]
    radius = 0.75 + 0.2 * other[:, 4] if split == "start" else middle
    tool = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.full_like(radius, 0.4)], 1)
    table = Table(
        tool=tool,
        closed=torch.zeros(count, dtype=torch.bool, device=stream.device),
        held=torch.full((count,), -1, device=stream.device),
        objects=positions,
        kinds=object_kinds,
        receptacles=places[:, objects:],
        receptacle_kinds=receptacle_kinds,
        goals=goals,
        wanted=torch.arange(objects, device=stream.device).expand(count, -1) < wanted,
        scene=scene,
        light=light,
        wording=wording,
    )
    return _with_drawer(table, uniform(120, 2)) if task == "drawer" else table


def _some_kinds(uniform: Tensor, count: int, kinds: int) -> Tensor:
    """Return `count` different kinds below `kinds`, [B, count], from numbers [B, at least `kinds`]."""
    return uniform[:, :kinds].argsort(1)[:, :count]


def _places(cells: Tensor, jitter: Tensor) -> Tensor:
    """Return places [B, M, 2] in different cells, from numbers [B, `CELLS`²] and [B, 2 M]."""
    chosen = cells.argsort(1)[:, : jitter.shape[1] // 2]
    corner = torch.stack([chosen % CELLS, chosen // CELLS], 2).float()
    # A cell is 0.45 wide: what two neighbours hold stays apart by an object's width at least.
    place: Tensor = (corner - CELLS / 2 + 0.5 + 0.3 * (jitter.unflatten(1, (-1, 2)) - 0.5)) * 0.45
    return place


def _with_drawer(table: Table, uniform: Tensor) -> Table:
    """Return the tables with a drawer's handle as object 0, shut (to be opened) or open (to be shut)."""
    opens = uniform[:, 0] < 0.5
    x = (uniform[:, 1] - 0.5) * 1.2
    inside, outside = torch.stack([x, torch.full_like(x, 0.9)], 1), torch.stack([x, torch.full_like(x, 0.9 - RAIL)], 1)
    objects, goals, kinds = table.objects.clone(), table.goals.clone(), table.kinds.clone()
    objects[:, 0, :2] = torch.where(opens[:, None], inside, outside)
    goals[:, 0] = torch.where(opens[:, None], outside, inside)
    kinds[:, 0] = HANDLE
    return replace(table, objects=objects, goals=goals, kinds=kinds)


def step(table: Table, action: Tensor, task: Task) -> Table:
    """Return the tables one action [B, 4] later: the tool's move along x, y and z, and the fingers (positive shuts).

    Shutting fingers take hold of the nearest object in reach; opening ones drop it. In `push` they stay shut and hold
    nothing: a low tool shoves what it meets. A drawer's handle keeps to its rail, and the tool that holds it too.
    """
    limit = action.new_tensor([1, 1, TOP])
    tool = torch.minimum(torch.maximum(table.tool + SPEED * action[:, :3], action.new_tensor([-1, -1, 0])), limit)
    if task == "push":
        closed = torch.ones_like(table.closed)
        return replace(table, tool=tool, closed=closed, objects=_pushed(table.objects, tool))
    closed = action[:, 3] > 0
    index = torch.arange(table.kinds.shape[1], device=tool.device)
    distance = torch.linalg.vector_norm(table.objects[:, :, :2] - tool[:, None, :2], dim=-1)
    nearest = distance.min(1)
    takes = closed & ~table.closed & (nearest.values < REACH) & (tool[:, 2] < LOW)
    held = torch.where(closed, torch.where(takes, nearest.indices, table.held), -1)
    mine = (index == held[:, None])[..., None]
    if task == "drawer":
        handle, goal = table.objects[:, 0], table.goals[:, 0]
        on_rail = torch.stack([handle[:, 0], tool[:, 1].clamp(0.9 - RAIL, 0.9), torch.zeros_like(goal[:, 0])], 1)
        tool = torch.where((held == 0)[:, None], on_rail, tool)
    lying = table.objects * torch.tensor([1.0, 1.0, 0.0], device=tool.device)  # what is let go of falls at once
    return replace(table, tool=tool, closed=closed, held=held, objects=torch.where(mine, tool[:, None], lying))


def _pushed(objects: Tensor, tool: Tensor) -> Tensor:
    """Return objects [B, N, 3] that a tool [B, 3] which is low has shoved out of its way, on the table."""
    apart = objects[:, :, :2] - tool[:, None, :2]
    distance = torch.linalg.vector_norm(apart, dim=-1, keepdim=True).clamp(min=1e-6)
    met = (distance < SIZE) & (tool[:, None, 2:] < LOW)
    place = torch.where(met, tool[:, None, :2] + apart / distance * SIZE, objects[:, :, :2]).clamp(-1, 1)
    return torch.cat([place, objects[:, :, 2:]], 2)
