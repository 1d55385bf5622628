"""The same ManiSkill step on a CPU, with less work around the physics.

Of the 2.2 to 7 ms that a bare state step takes, PhysX's five sub-steps take 0.1. The rest is Python and torch
calls on tensors of a few numbers: a quaternion product of two poses is 40 tensor operations and 0.3 ms, a pose
read from SAPIEN is converted four times, each joint target goes through a tensor of its own, and contacts are
read anew for each finger.

`quicken` gives a simulator's own objects subclasses that do this in NumPy: the same float32 operations in the
same order, so the results are the same bits (tested against bare ManiSkill, task by task). It touches the
objects of one simulator and nobody else's; tasks, rewards and observations stay ManiSkill's own code.

It also mends one flaw: a reset leaves the last episode's contacts in place, so that a task that asks whether
the cube is grasped heard of the last episode's grasp in the new one's first view.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.agents.base_agent import BaseAgent
from mani_skill.agents.controllers import PDEEPosController, PDJointPosController, PDJointPosMimicController
from mani_skill.agents.multi_agent import MultiAgent
from mani_skill.agents.robots.panda.panda import Panda
from mani_skill.envs.scene import ManiSkillScene
from mani_skill.utils import sapien_utils
from mani_skill.utils.structs import Actor, Link, Pose
from torch import Tensor


def quicken(simulator: Any) -> None:
    """Make a CPU simulator of one world step faster, with the same results. Call it again after a new scene."""
    scene = simulator.scene
    if scene.gpu_sim_enabled or scene.num_envs != 1:
        raise ValueError("quicken is for one world on the CPU: a GPU simulator works on whole batches already.")
    scene.__class__ = _Scene
    scene.forget_contacts()
    links = [link for articulation in scene.articulations.values() for link in articulation.links]
    for thing in (*scene.actors.values(), *links):
        if len(thing._objs) == 1:
            thing.__class__ = _QUICK.get(type(thing), type(thing))
    for robot in simulator.agent.agents if isinstance(simulator.agent, MultiAgent) else [simulator.agent]:
        if robot is not None:
            robot.__class__ = _quick_robot(robot.__class__)
            for controller in getattr(robot.controller, "controllers", {"": robot.controller}).values():
                controller.__class__ = _QUICK.get(type(controller), type(controller))


class _Pose(Pose):  # type: ignore[misc]
    """One pose, whose algebra runs on NumPy scalars in the order of ManiSkill's tensor operations."""

    @property
    def _numbers(self) -> Any:
        return self.raw_pose.numpy()[0]

    def __mul__(self, other: Any) -> Any:
        other = other if isinstance(other, Pose) else Pose.create(other)
        if len(other) != 1:
            return super().__mul__(other)
        mine, theirs = self._numbers, other.raw_pose.numpy()[0]
        position = mine[:3] + _rotated(mine[3:], theirs[:3])
        rotation = _product(mine[3:], theirs[3:])
        if rotation[0] < 0:
            rotation = [-number for number in rotation]
        return _pose(position, rotation)

    def inv(self) -> Any:
        numbers = self._numbers
        rotation = np.concatenate((numbers[3:4], -numbers[4:]))
        return _pose(_rotated(rotation, -numbers[:3]), rotation)

    def to_transformation_matrix(self) -> Tensor:
        q = self.raw_pose[..., 3:]
        two = (2.0 / (q * q).sum(-1)).numpy()[0]
        r, i, j, k = self._numbers[3:]
        matrix = np.zeros((1, 4, 4), np.float32)
        matrix[0, :3] = (
            (1 - two * (j * j + k * k), two * (i * j - k * r), two * (i * k + j * r), 0),
            (two * (i * j + k * r), 1 - two * (i * i + k * k), two * (j * k - i * r), 0),
            (two * (i * k - j * r), two * (j * k + i * r), 1 - two * (i * i + j * j), 0),
        )
        matrix[0, :3, 3] = self._numbers[:3]
        matrix[0, 3, 3] = 1
        return torch.from_numpy(matrix)


def _pose(position: Any, rotation: Any) -> _Pose:
    numbers = np.empty((1, 7), np.float32)
    numbers[0, :3] = position
    numbers[0, 3:] = rotation
    return _Pose(torch.from_numpy(numbers))


def _product(a: Any, b: Any) -> list[Any]:
    """Return the product of two quaternions, real part first, as four float32."""
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return [
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ]


def _rotated(q: Any, point: Any) -> Any:
    """Return a point [3] turned by a unit quaternion."""
    turned = _product(_product(q, (np.float32(0), *point)), (q[0], -q[1], -q[2], -q[3]))
    return np.array(turned[1:], np.float32)


class _Actor(Actor):  # type: ignore[misc]
    @property
    def pose(self) -> Any:
        pose = self._objs[0].pose
        return _pose(pose.p, pose.q)

    @pose.setter
    def pose(self, value: Any) -> None:
        Actor.pose.fset(self, value)


class _Link(Link):  # type: ignore[misc]
    @property
    def pose(self) -> Any:
        pose = self._objs[0].entity_pose
        return _pose(pose.p, pose.q)

    @pose.setter
    def pose(self, value: Any) -> None:
        Link.pose.fset(self, value)


class _Scene(ManiSkillScene):  # type: ignore[misc]
    """A scene that reads its contacts at most once a sub-step."""

    _contacts: list[tuple[Any, Any, Any]] | None = None

    def step(self) -> None:
        self._contacts = None
        self.px.step()

    def forget_contacts(self) -> None:
        """Drop the last episode's contacts: nothing has touched anything before the first step."""
        self._contacts = []

    def get_pairwise_contact_impulses(self, obj1: Any, obj2: Any) -> Tensor:
        if self._contacts is None:
            contacts = self.px.get_contacts()
            self._contacts = [(c.bodies[0].entity, c.bodies[1].entity, c) for c in contacts]
        first, second = obj1._bodies[0].entity, obj2._bodies[0].entity
        pairs = []
        for one, other, contact in self._contacts:
            if one == first and other == second:
                pairs.append((contact, True))
            elif one == second and other == first:
                pairs.append((contact, False))
        if not pairs:
            return torch.zeros(1, 3)
        impulse = sapien_utils.compute_total_impulse(pairs)
        return torch.from_numpy(impulse.astype(np.float32)[None])


class _Robot(BaseAgent):  # type: ignore[misc]
    """Mixed into a robot's own class. Actions have been checked by who calls."""

    def set_action(self, action: Tensor) -> None:
        self.controller.set_action(action)

    def before_simulation_step(self) -> None:
        if self._interpolates:
            super().before_simulation_step()

    @cached_property
    def _interpolates(self) -> bool:
        parts = getattr(self.controller, "controllers", {"": self.controller}).values()
        return any(getattr(part.config, "interpolate", True) for part in parts)


class _Gripper(Panda):  # type: ignore[misc]
    """Mixed into the Panda robots."""

    def is_grasping(self, object: Any, min_force: float = 0.5, max_angle: float = 85) -> Tensor:
        """Say no as soon as a finger does not press; ask ManiSkill for the directions when both do."""
        for finger in (self.finger1_link, self.finger2_link):
            force = self.scene.get_pairwise_contact_forces(finger, object)
            if not bool(torch.linalg.norm(force, axis=1) >= min_force):
                return torch.zeros(1, dtype=torch.bool)
        grasping: Tensor = super().is_grasping(object, min_force, max_angle)
        return grasping


@cache
def _quick_robot(robot: Any) -> Any:
    """Return a robot's class with the quick methods before its own, except those that it has changed itself."""
    mixins: list[Any] = []
    if robot.set_action is BaseAgent.set_action:
        mixins.append(_Robot)
    if getattr(robot, "is_grasping", None) is Panda.is_grasping:
        mixins.append(_Gripper)
    return type(robot.__name__, (*mixins, robot), {}) if mixins else robot


class _JointPos(PDJointPosController):  # type: ignore[misc]
    @cached_property
    def _columns(self) -> Any:
        return self.active_joint_indices.numpy()

    @cached_property
    def _motors(self) -> list[Any]:
        return [joint._objs[0] for joint in self.joints]

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        low, high = self.action_space_low, self.action_space_high
        return 0.5 * (high + low), 0.5 * (high - low)

    @property
    def qpos(self) -> Tensor:
        return torch.from_numpy(self.articulation._objs[0].qpos[None, self._columns])

    def _clip_and_scale_action(self, action: Tensor) -> Tensor:
        offset, scale = self._scale
        return offset + scale * torch.clip(action, -1, 1)

    def set_drive_targets(self, targets: Tensor) -> None:
        for motor, target in zip(self._motors, targets.numpy()[0, :, None], strict=True):
            motor.drive_target = target


class _Mimic(_JointPos, PDJointPosMimicController):  # type: ignore[misc]
    @cached_property
    def _indices(self) -> tuple[Any, Any, Any, Any, Any]:
        tensors = (
            self.control_joint_indices,
            self.mimic_joint_indices,
            self.mimic_control_joint_indices,
            self._multiplier,
            self._offset,
        )
        return tuple(tensor.numpy() for tensor in tensors)

    def set_action(self, action: Tensor) -> None:
        if self.config.interpolate:
            super().set_action(action)
            return
        control, mimic, followed, multiplier, offset = self._indices
        moved = self._preprocess_action(action).numpy()
        self._step = 0
        self._start_qpos = self.qpos
        target = self._target_qpos.numpy()  # shares the tensor's memory
        if self.config.use_delta:
            start = target if self.config.use_target else self._start_qpos.numpy()
            moved = start[:, control] + moved
        target[:, control] = moved
        target[:, mimic] = target[:, followed] * multiplier[None] + offset[None]
        self.set_drive_targets(self._target_qpos)


class _EndEffectorPos(_JointPos, PDEEPosController):  # type: ignore[misc]
    _target_pose: Any

    @cached_property
    def _solver_columns(self) -> tuple[Any, Any, Any]:
        solver = self.kinematics
        known, controlled = solver.pmodel_active_joint_indices, solver.pmodel_controlled_joint_indices
        return known.numpy(), solver.qmask.numpy(), controlled.numpy()

    def set_action(self, action: Tensor) -> None:
        config = self.config
        if config.interpolate or not config.use_delta or config.frame != "root_translation":
            super().set_action(action)
            return
        self._step = 0
        self._start_qpos = self.qpos
        start = self._target_pose if config.use_target else self.ee_pose_at_base
        # A translation times a pose: it adds the positions, and makes the quaternion's real part positive.
        numbers = start.raw_pose.numpy()[0]
        position = self._preprocess_action(action).numpy()[0] + numbers[:3]
        rotation = -numbers[3:] if numbers[3] < 0 else numbers[3:]
        self._target_pose = _pose(position, rotation)
        self._target_qpos = self._solved(position, rotation)
        self.set_drive_targets(self._target_qpos)

    def _solved(self, position: Any, rotation: Any) -> Tensor:
        """Return the joint positions [1, J] that bring the tool to a pose, where none are found the present ones."""
        solver = self.kinematics
        known, free, controlled = self._solver_columns
        result, found, _ = solver.pmodel.compute_inverse_kinematics(
            solver.end_link_idx,
            sapien.Pose(position, rotation),
            initial_qpos=self.articulation._objs[0].qpos[known],
            active_qmask=free,
            max_iterations=100,
        )
        if not found:
            return self._start_qpos
        return torch.from_numpy(result[None, controlled].astype(np.float32))


_QUICK: dict[type, type] = {
    Actor: _Actor,
    Link: _Link,
    PDJointPosController: _JointPos,
    PDJointPosMimicController: _Mimic,
    PDEEPosController: _EndEffectorPos,
}
