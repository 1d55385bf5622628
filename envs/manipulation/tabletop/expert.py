"""A scripted expert: a pure function from tables to actions, that remembers nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.envs.manipulation.tabletop.catalogue import Task
from palaestra.envs.manipulation.tabletop.scene import LOW, SIZE, SPEED, Table

CARRY = 0.35
"""Height at which the tool travels."""
NEAR = 0.04
"""How close the tool goes to where it wants to be before it comes down."""


def expert_action(table: Table, task: Task) -> Tensor:
    """Return actions [B, 4] that solve the task from wherever things are."""
    index = table.next()[:, None]
    target = table.objects.gather(1, index[..., None].expand(-1, 1, 3))[:, 0]
    goal = table.goals.gather(1, index[..., None].expand(-1, 1, 2))[:, 0]
    if task == "push":
        return _push(table.tool, target[:, :2], goal)
    return _carry(table, target, goal, index[:, 0], task)


def _carry(table: Table, target: Tensor, goal: Tensor, index: Tensor, task: Task) -> Tensor:
    """Go above the object, down, shut, up and to the goal, open."""
    tool, done = table.tool, table.placed().all(1)
    holds = table.held == index
    over = torch.linalg.vector_norm(tool[:, :2] - target[:, :2], dim=1) < NEAR
    there = torch.linalg.vector_norm(target[:, :2] - goal, dim=1) < NEAR
    grasps = over & (tool[:, 2] < 0.8 * LOW) & ~table.closed
    travel = 0.0 if task == "drawer" else CARRY
    carry = torch.cat([goal, torch.full_like(goal[:, :1], travel)], 1)
    approach = torch.where(over[:, None], 0.0, CARRY)
    approach = torch.cat([target[:, :2], approach], 1)
    aim = torch.where(holds[:, None], carry, approach)
    aim = torch.where(done[:, None], tool, aim)
    shut = torch.where(holds, ~there, grasps) & ~done
    return torch.cat([_towards(tool, aim), torch.where(shut, 1.0, -1.0)[:, None]], 1)


def _push(tool: Tensor, target: Tensor, goal: Tensor) -> Tensor:
    """Go behind the object above it, come down, push straight on."""
    way = goal - target
    distance = torch.linalg.vector_norm(way, dim=1, keepdim=True)
    heading = way / distance.clamp(min=1e-6)
    from_tool = target - tool[:, :2]
    ahead = (from_tool * heading).sum(1, keepdim=True)
    beside = torch.linalg.vector_norm(from_tool - ahead * heading, dim=1, keepdim=True)
    low, placed = tool[:, 2:] < LOW, (ahead > 0.2 * SIZE) & (beside < 0.03)
    behind = target - heading * 1.5 * SIZE
    # The tool never comes past the object's middle, whence it would push it back, and stops when it is on its goal.
    pushing = torch.cat([target - heading * (SIZE - distance).clamp(min=0.3 * SIZE), torch.zeros_like(ahead)], 1)
    down = torch.cat([behind, torch.zeros_like(ahead)], 1)
    above = torch.cat([behind, torch.full_like(ahead, CARRY)], 1)
    over = torch.linalg.vector_norm(tool[:, :2] - behind, dim=1, keepdim=True) < 0.03
    travel = torch.where((tool[:, 2:] < LOW + 0.05) & ~over, torch.cat([tool[:, :2], above[:, 2:]], 1), above)
    aim = torch.where(low & placed, pushing, torch.where(over, down, travel))
    return torch.cat([_towards(tool, aim), torch.ones_like(ahead)], 1)


def _towards(tool: Tensor, aim: Tensor) -> Tensor:
    """Return the move [B, 3] that brings the tool to its aim, or as near as a step can."""
    move = (aim - tool) / SPEED
    return move / move.abs().amax(1, keepdim=True).clamp(min=1)
