"""The process that holds some of a pool's worlds, as it sees itself.

A pool sends one message for many rows: what to do (`Command`) and with which rows. The worker answers each
message once, in order: `DONE`, or the faults of the rows that broke as JSON. All numbers travel through
`Exchange`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import traceback
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from multiprocessing import connection, parent_process, reduction
from typing import Any

import gymnasium
import numpy as np
import torch

from palaestra.envs.chunk import Episode, WorldError, boundary, success_words
from palaestra.envs.exchange import Exchange, Views
from palaestra.envs.spaces import Layout, action_from_json, action_to_json, describe

DONE = b"\0"
"""All rows of a message did what they were told."""

Factory = Callable[[], gymnasium.Env[Any, Any]]


class Command(IntEnum):
    """What a message asks for: its first byte."""

    DESCRIBE = 1
    """Make the first world and say in JSON what it shows and takes."""
    PROBE = 2
    """The same, and play one random action in a world thrown away, to see what its `info` holds."""
    MAP = 3
    """Map the shared memory, described by the JSON that follows; its descriptor comes next."""
    START = 4
    """Make the rows' worlds where there are none, and reset them with their seeds."""
    PLAY = 5
    """Play the rows' chunks; reset the worlds whose episode ended."""


def serve(pipe: connection.Connection, factory: Factory, rows: Sequence[int]) -> None:
    """Run a worker: hold some rows' worlds and do what the pipe says until it is closed."""
    os.setpgrp()  # Ctrl-C is the pool's to handle, and a kill takes all that a world started with it
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(1)
    worker = _Worker(pipe, factory, rows)
    try:
        worker.run()
    except (EOFError, ConnectionError):
        worker.close()


def _follow_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


class _Worker:
    def __init__(self, pipe: connection.Connection, factory: Factory, rows: Sequence[int]) -> None:
        self.pipe = pipe
        self.factory = factory
        self.first = rows[0]
        self.worlds: dict[int, Episode] = {}
        self.exchange: Exchange | None = None
        self.layout: Layout | None = None

    def run(self) -> None:
        while True:
            message = self.pipe.recv_bytes()
            command, body = message[0], message[1:]
            if command in (Command.START, Command.PLAY):
                reply = self._turn(command == Command.START, array("q", body))
            elif command == Command.MAP:
                reply = self._map(json.loads(body))
            else:
                reply = self._describe(command == Command.PROBE)
            self.pipe.send_bytes(reply)

    def close(self) -> None:
        """Close every world."""
        for row in list(self.worlds):
            self.worlds.pop(row).env.close()

    def _tick(self) -> None:
        if self.exchange is not None:
            self.exchange.beat[self.first] += 1

    def _describe(self, probe: bool) -> bytes:
        try:
            world = self._make(self.first)
            env = world.env
            with boundary("start"):
                description = {
                    "layout": describe(env.observation_space).to_json(),
                    "action": action_to_json(env.action_space),
                    "max_steps": env.spec.max_episode_steps if env.spec is not None else None,
                }
            if probe:
                del self.worlds[self.first]
                description["success"] = _probe(env)
        except WorldError as error:
            return _faults([_fault(self.first, error, begun=False)])
        return json.dumps(description).encode()

    def _map(self, body: dict[str, Any]) -> bytes:
        file = reduction.recv_handle(self.pipe)
        self.layout = Layout.from_json(body["layout"])
        action = action_from_json(body["action"])
        self.exchange = Exchange(self.layout, action, body["count"], body["chunk"], file)
        os.close(file)
        return DONE

    def _make(self, row: int) -> Episode:
        with boundary("start"):
            env = self.factory()
            self.worlds[row] = world = Episode(env, self._tick)
            shown = describe(env.observation_space)
            if self.layout is not None and shown != self.layout:
                raise ValueError(f"the factory made a world that shows {shown}, others show {self.layout}.")
        self._tick()
        return world

    def _turn(self, start: bool, rows: Sequence[int]) -> bytes:
        exchange = self.exchange
        assert exchange is not None
        broken = []
        for row in rows:
            exchange.current[self.first] = row
            begun = not start
            try:
                if begun:
                    if not self._play(exchange, row):
                        continue
                    begun = False
                world = self.worlds.get(row) or self._make(row)
                seed = int(exchange.seed[row])
                _seed_globals(seed)
                _show(exchange.view, row, world.start(seed))
            except WorldError as error:
                broken.append(_fault(row, error, begun))
                self._drop(row)
        return _faults(broken) if broken else DONE

    def _play(self, exchange: Exchange, row: int) -> bool:
        """Play one row's chunk and return whether its episode ended."""
        result = self.worlds[row].play(exchange.actions(row))
        ended = result.terminated or result.truncated
        _show(exchange.final if ended else exchange.view, row, result.observation)
        exchange.rewards[row] = result.rewards
        exchange.played[row] = result.played
        exchange.flags[row] = (result.terminated, result.truncated, result.success, result.success_once)
        return ended

    def _drop(self, row: int) -> None:
        world = self.worlds.pop(row, None)
        if world is not None:
            with suppress(Exception):  # it broke before: that first fault is the one to report
                world.env.close()
        self._tick()


def _show(views: Views, row: int, observation: Any) -> None:
    try:
        views.write(row, observation)
    except (TypeError, ValueError) as error:
        raise WorldError("observation", str(error)) from error


def _probe(env: gymnasium.Env[Any, Any]) -> str:
    with boundary("reset"):
        env.reset(seed=0)
    with boundary("step"):
        env.action_space.seed(0)
        info = env.step(env.action_space.sample())[4]
    words = success_words(info, env)
    with boundary("start"):
        env.close()
    return words


def _seed_globals(seed: int) -> None:
    """Seed the process's own generators, for worlds that draw from them."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed asks every kind of device, for 0.25 ms


def _fault(row: int, error: WorldError, begun: bool) -> tuple[int, str, str, str, bool]:
    """Return the fields of a `Fault`, and whether it voids an episode that had begun."""
    trace = "".join(traceback.format_exception(error.__cause__ or error))
    return row, error.boundary, str(error).split("\n", 1)[0], trace, begun


def _faults(broken: list[tuple[int, str, str, str, bool]]) -> bytes:
    return json.dumps({"faults": broken}).encode()
