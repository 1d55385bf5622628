"""Thousands of driving worlds at once, as one `VectorEnv` in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from palaestra.envs.driving.arena import SPACING, Arena, Control
from palaestra.envs.driving.bev import Scene
from palaestra.envs.driving.compile import build_arena
from palaestra.envs.driving.dynamics import move_ego
from palaestra.envs.driving.maps import Split, suite
from palaestra.envs.driving.observe import observe
from palaestra.envs.driving.painter import Painter
from palaestra.envs.driving.picture import SIDE, coloured
from palaestra.envs.driving.rewards import completion, found_rl, wanted_share
from palaestra.envs.driving.route import follow, row_at
from palaestra.envs.driving.rules import judge
from palaestra.envs.driving.score import METRICS, Record
from palaestra.envs.driving.start import check_room, start
from palaestra.envs.driving.state import DT, Light, State, blank, lights
from palaestra.envs.driving.surroundings import surroundings, time_to_collision
from palaestra.envs.driving.tables import OfRoute, tabulate
from palaestra.envs.driving.traffic import drive, lane_rows
from palaestra.envs.driving.turns import take_turn
from palaestra.envs.driving.views import Observed, View, Views
from palaestra.envs.driving.walkers import walk
from palaestra.envs.driving.watch import PERIOD, look, slots_of
from palaestra.envs.recorded import Recorded
from palaestra.envs.streams import draw, restarted

if TYPE_CHECKING:
    from palaestra.envs.driving.scenery import Scenery

STARTS = 1024
"""How many worlds start at a time, which bounds the memory that a start takes."""


class DrivingEnv(VectorEnv[Observed, Tensor, Tensor]):
    """`driving/*-v0`: W worlds with roads, traffic, signals and walkers; the ego follows a route by the rules.

    Observation: float32 [W, 88], see `observe.observe`; with `view="bev"` a dictionary of that, "state", and of "bev",
        uint8 [W, N, N, 15], see `bev`: overwritten by the second next step, and a world's by its reset, so keep a
        copy. With `view="scene"` beside it "scene", float32 [W, `bev.Scene.width`]: what views are drawn from,
        exactly, by `painter.Painter.paint(Scene.parse(...))`; so that who learns may keep scenes, and paint what it
        samples.
    Action: float32 [W, 2] in [-1, 1]: acceleration (throttle, or below 0 brake) and steer, positive to the right.
        10 Hz. Values beyond the box are clipped.
    Reward: "found-rl" (Roach's, at most 1 a step) or "completion" (percent of the route made), see `rewards`.
    Termination: arrival, more than 3.5 m from the route, at rest for 90 s; and in training any infraction.
    Truncation: after `max_episode_steps`; with endless training at an arrival.
    Info: `success`, bool [W]: strict, arrived without an infraction; `metrics`: of the episodes so far, see
        `score.Record.metrics`; of an ended episode they are its own until it is reset.
    Seeding: `reset(seed=[...])` takes one seed a world. An episode is a function of its seed and of the actions, the
        same at every count and, as far as floats permit, on every device. `reset(options={"reset_mask": mask})`
        resets some worlds. Without seeds each world goes on to the next start of its own stream.

    Ended worlds are not reset by `step` (`AutoresetMode.DISABLED`); stepped on regardless, they drive on.

    >>> world = DrivingEnv(count=2, maps="roundabout")
    >>> observation, info = world.reset(seed=[1, 2])
    >>> observation, reward, terminated, truncated, info = world.step(torch.zeros(2, 2))
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "autoreset_mode": AutoresetMode.DISABLED,
        "render_modes": ["rgb_array"],
        "render_fps": 10,
    }

    def __init__(
        self,
        count: int = 1,
        device: str = "cpu",
        maps: str | Arena = "town",
        split: Split = "train",
        map_count: int = 8,
        map_seed: int = 0,
        vehicles: int = 15,
        walkers: int = 6,
        cruise: float = 6.0,
        reward: Literal["found-rl", "completion"] = "found-rl",
        endings: Literal["train", "endless", "evaluation"] = "train",
        max_episode_steps: int | None = None,
        view: View = "state",
        pixels: int = 64,
        compiled: bool = False,
        render_mode: Literal["rgb_array"] | None = None,
    ) -> None:
        """Build the maps; no world has started yet.

        Args:
            count: W.
            device: Where all is computed.
            maps: A suite of `palaestra.envs.driving.maps`, or an arena.
            split: Which maps of the suite: "train" or "test".
            map_count: How many maps of the suite.
            map_seed: Of the first map.
            vehicles: How many besides the ego.
            walkers: How many; maps without crosswalks have none.
            cruise: m/s that the reward wants on a free road.
            reward: Which reward.
            endings: "train": infractions, arrivals; "endless": infractions (arrivals cut off); "evaluation": arrivals.
            max_episode_steps: By default twice what the longest route takes at `cruise`, twice the longest cycle of a
                signal, and 30 s.
            view: What is shown beside the state: nothing, bird's-eye views, or what those are drawn from.
            pixels: The side of the bird's-eye views: 32, 64, 96 or 192.
            compiled: The step is compiled by `torch.compile`: a minute at its start, and then faster.
            render_mode: "rgb_array" where `render` is wanted.

        Raises:
            ValueError: For a suite, a reward or an ending that is none, or more vehicles than a map has room for.
        """
        _check("reward", reward, ("found-rl", "completion"))
        _check("endings", endings, ("train", "endless", "evaluation"))
        _check("view", view, ("state", "bev", "scene"))
        self.num_envs = count
        self.device = torch.device(device)
        arena = build_arena(suite(maps, split, map_count, map_seed)) if isinstance(maps, str) else maps
        check_room(arena, vehicles, walkers)
        self.arena = arena.to(self.device)
        self.tables = tabulate(self.arena)
        self.cruise, self.reward, self.endings = cruise, reward, endings
        self.compiled, self.render_mode = compiled, render_mode
        self.max_episode_steps = max_episode_steps or _patience(arena, cruise)
        self._views = Views(self.arena, self.tables.signals, view, pixels)
        self.painter = self._views.painter
        self._drivers, self._walkers = vehicles, walkers
        self._clear()

    def _clear(self) -> None:
        """Make the batch: its spaces, and room for what changes."""
        count = self.num_envs
        self.single_observation_space = self._views.space(self._drivers + 1, self._walkers)
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)
        self._lookers = -(-self._drivers // PERIOD)
        self.state: State = blank(count, self._drivers + 1, self._walkers, self.device)
        self.record = Record.blank(count, self.device)
        self._stream = torch.arange(count, device=self.device)
        self._light = torch.zeros(count, dtype=torch.int64, device=self.device)

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observed, dict[str, Any]]:
        """Start new episodes in all worlds, or in those of `options["reset_mask"]` (bool [W]).

        Returns:
            Observation float32 [W, 88] of all worlds, and an info with `success`.
        """
        stream, mask = restarted(self._stream, seed, options, "driving")
        self._stream.copy_(stream)
        rows = mask.nonzero().flatten()
        vectors = [self._begin(part) for part in rows.split(STARTS) if len(part)]
        known = self._views.known and len(rows) < self.num_envs
        shown = self._views.some(self.state, rows, vectors) if known else self.observe()
        return shown, {"success": self.record.success()}

    def step(self, actions: Tensor) -> tuple[Observed, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Drive every world one step. Returns observation, reward, terminated, truncated, info.

        Raises:
            ValueError: On a CPU, for actions that are not finite. On a GPU, where looking would stall it, they count
                as zeros and the reward of their worlds is NaN, which `Worlds` reports as a fault.
        """
        vectors, reward, terminated, truncated, *numbers = self._drive(self._checked(actions))
        metrics = dict(zip(METRICS, numbers, strict=True))
        self.state.remember()
        observation = self._views.all(self.state, vectors)
        return observation, reward, terminated, truncated, {"success": metrics["success"], "metrics": metrics}

    def _step(self, actions: Tensor) -> tuple[Tensor, ...]:
        """Drive one step; what is not finite of actions [W, 2] counts as 0, and makes the reward NaN.

        Returns state vectors, reward, terminated, truncated, and the numbers of `METRICS`. Tensors alone are touched,
        and no shape depends on what they hold, so that all of it can be recorded as one CUDA graph.
        """
        broken = ~torch.isfinite(actions).all(1)
        action = actions.nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)
        state, ego = self.state, self.state.ego
        before, started, steered = row_at(state, self.tables), ego.progress, ego.action[:, 1]
        self._traffic()
        move_ego(state, action)
        row = follow(state, self.tables)

        around = surroundings(state)
        verdict = judge(state, self.arena, self.tables, around, self.record, before, started, self._light)
        self._light, rest = self._look_ahead(state, row)
        outside = verdict.off_road | verdict.oncoming
        self.record.add(state, verdict.infractions, outside, verdict.arrived, time_to_collision(state, around))
        lost = verdict.astray | verdict.blocked
        if self.endings != "evaluation":
            lost = lost | verdict.infractions.any(1)
        terminated = lost if self.endings == "endless" else lost | verdict.arrived
        truncated = ((state.clocks.tick >= self.max_episode_steps) | verdict.arrived) & ~terminated
        if self.reward == "found-rl":
            share = wanted_share(state, around, row, self._light)
            reward = found_rl(state, share, verdict, lost, action[:, 1] - steered, self.cruise)
        else:
            length = self.tables.route_length.take(state.clocks.route)
            reward = completion(ego.progress - started, length, verdict, lost)
        vectors = observe(state, self.tables, around, row, self._light, rest)
        metrics = self.record.metrics(state, self.tables)
        reward = reward.masked_fill(broken, torch.nan)
        return vectors, reward, terminated, truncated, *metrics.values()

    @cached_property
    def _drive(self) -> Callable[..., tuple[Tensor, ...]]:
        """`_step`, compiled where that is wanted, and on a GPU recorded."""
        step = self._compiled(self._step)
        if self.device.type == "cpu":
            return step
        return Recorded(step, self._parts(), torch.zeros(self.num_envs, 2, device=self.device))

    @cached_property
    def _begin(self) -> Callable[[Tensor], Tensor]:
        """`_start`; on a GPU likewise, for `STARTS` worlds at a time, if need be some of them several times."""
        if self.device.type == "cpu":
            return self._start
        begin, place = self._compiled(self._start), torch.arange(min(STARTS, self.num_envs), device=self.device)
        recorded = Recorded(lambda rows: (begin(rows),), self._parts(), place)
        return lambda rows: recorded(rows.take(place.clamp(max=len(rows) - 1)))[0][: len(rows)]

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, fullgraph=True, dynamic=False) if self.compiled else function

    def observe(self) -> Observed:
        """Return what all worlds show now."""
        row = row_at(self.state, self.tables)
        light, rest = self._look_ahead(self.state, row)
        self._light.copy_(light)
        around = surroundings(self.state)
        return self._views.all(self.state, observe(self.state, self.tables, around, row, light, rest))

    def picture(self, rows: Tensor) -> Tensor:
        """Return colour pictures of some worlds ([N] int64) as models are shown them, [N, 192, 192, 3] uint8."""
        return coloured(self._drawer.paint(Scene.of(self.state)[rows]))

    def render(self) -> tuple[np.ndarray, ...]:
        """Return a frame of each world for people, [552, 480, 3] uint8; see `scenery.Scenery.frames`."""
        return self._scenery.frames()

    @property
    def observed_lights(self) -> Tensor:
        """What the egos' next signals showed last, [W] int64, each a `state.Light`."""
        return self._light

    @cached_property
    def _scenery(self) -> Scenery:
        from palaestra.envs.driving.scenery import Scenery

        return Scenery(self)

    @cached_property
    def _drawer(self) -> Painter:
        painter = self.painter
        return painter if painter and painter.pixels == SIDE else Painter(self.arena, self.tables.signals, SIDE)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of all that worlds are, to be loaded into as many worlds with the same options."""
        return {name: tensor.clone() for name, tensor in self._tensors().items()} | {
            "cursor": torch.tensor(self.state.past.cursor)
        }

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            ValueError: For one of other worlds.
        """
        mine = self._tensors()
        wrong = sorted(mine.keys() ^ (saved.keys() - {"cursor"}))
        wrong += [name for name in mine.keys() & saved.keys() if mine[name].shape != saved[name].shape]
        if wrong:
            raise ValueError(
                f"this state is of other worlds: {', '.join(wrong)} do not fit. Make as many worlds with the same "
                "options as those that it was taken from."
            )
        for name, tensor in mine.items():
            tensor.copy_(saved[name])
        self.state.past.cursor = int(saved["cursor"])
        self.observe()

    def _tensors(self) -> dict[str, Tensor]:
        """Return every tensor that changes, by name."""
        return {name: getattr(*part) for name, part in self._parts().items()}

    def _parts(self) -> dict[str, tuple[Any, str]]:
        """Return what every tensor that changes is an attribute of, and that attribute's name."""
        state = self.state
        groups = {"clocks": state.clocks, "vehicles": state.vehicles, "ego": state.ego, "walkers": state.walkers}
        parts: dict[str, Any] = {**groups, "past": state.past, "record": self.record}
        places = {
            f"{name}.{entry.name}": (part, entry.name)
            for name, part in parts.items()
            for entry in fields(part)
            if entry.init and entry.name != "cursor"
        }
        return places | {"stream": (self, "_stream"), "light": (self, "_light")}

    def _traffic(self) -> None:
        """Move all but the egos one step."""
        state, arena, tables = self.state, self.arena, self.tables
        tick = state.clocks.tick
        tick += 1
        count = self._lookers + 2
        chance = draw(state.clocks.seed[:, None], tick[:, None] * count + torch.arange(count, device=self.device))
        if self._drivers:
            rows = lane_rows(state, tables)
            look(state, arena, tables, rows, slots_of(tick, self._drivers, self._lookers), chance[:, 2:])
            drive(state, tables, rows)
            take_turn(state, arena, tables, slots_of(tick, self._drivers, 1), chance[:, :1])
        if self._walkers:
            walk(state, tables, chance[:, 1])

    def _start(self, rows: Tensor) -> Tensor:
        """Start some worlds ([N] int64) from their streams and return their state vectors [N, 88]."""
        begun = start(self.arena, self.tables, self._stream[rows], self._drivers + 1, self._walkers)
        row = row_at(begun, self.tables)
        light, rest = self._look_ahead(begun, row)
        self._light = self._light.index_copy(0, rows, light)
        self.state.write(rows, begun)
        self.record.clear(rows)
        return observe(begun, self.tables, surroundings(begun), row, light, rest)

    def _look_ahead(self, state: State, row: Tensor) -> tuple[Tensor, Tensor]:
        """Tell the traffic whether the egos come, and return what their next signals show and the phase's rest."""
        ego = state.ego
        ahead = ego.progress < row[:, OfRoute.LINE]
        light, rest = lights(self.tables.signals, row[:, OfRoute.GROUP].long(), state.clocks.seconds())
        light = light * ahead
        sign = row[:, OfRoute.CONTROL].eq(Control.STOP) & ahead & ~ego.halted
        state.vehicles.coming[:, 0] = light.ne(Light.RED) & ~sign
        return light, rest

    def _checked(self, actions: Tensor) -> Tensor:
        """Return actions on the worlds' device, which are finite on a CPU."""
        action = torch.as_tensor(actions, dtype=torch.float32, device=self.device)
        if action.shape != (self.num_envs, 2):
            raise ValueError(f"driving: actions have shape {list(action.shape)}, expected [{self.num_envs}, 2].")
        if self.device.type == "cpu" and not bool(torch.isfinite(action).all()):
            row = int((~torch.isfinite(action).all(1)).nonzero()[0])
            raise ValueError(
                f"driving: the action of row {row} is {action[row].tolist()}; acceleration and steer must be finite "
                "numbers in [-1, 1]."
            )
        return action


def _check(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ValueError(f"driving: {name} is {value!r}, expected {' or '.join(map(repr, valid))}.")


def _patience(arena: Arena, cruise: float) -> int:
    """Return after how many steps an episode is cut: twice what the longest route and signal take, and 30 s."""
    longest = float(arena.route_count.max()) * SPACING
    red = float(arena.cycle.max()) if len(arena.cycle) else 0.0
    return int((2 * longest / cruise + 2 * red + 30) / DT)


WORLDS: dict[str, partial[DrivingEnv]] = {
    "driving/highway-v0": partial(DrivingEnv, maps="highway", walkers=0, cruise=20.0),
    "driving/junction-v0": partial(DrivingEnv, maps="junctions"),
    "driving/signalised-v0": partial(DrivingEnv, maps="signalised"),
    "driving/priority-v0": partial(DrivingEnv, maps="priority"),
    "driving/roundabout-v0": partial(DrivingEnv, maps="roundabout"),
    "driving/arterial-v0": partial(DrivingEnv, maps="arterial"),
    "driving/lane-drop-v0": partial(DrivingEnv, maps="lane-drop"),
    "driving/streets-v0": partial(DrivingEnv, maps="streets"),
    "driving/town-v0": partial(DrivingEnv, maps="town"),
}
"""Worlds by the ids under which the registry makes them."""
