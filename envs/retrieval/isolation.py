"""Episodes in processes of their own, held to limits: a tool that hangs, eats memory or dies takes nobody along.

A process speaks JSON over a pipe; pictures travel as their bytes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import multiprocessing
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from palaestra.envs.retrieval.core import Reply, Turn
from palaestra.envs.retrieval.episodes import JudgeError

if TYPE_CHECKING:
    from palaestra.envs.retrieval.episodes import Episode

# Processes are forked from a server that has imported what each of them needs: 0.05 s instead of seconds.
_CONTEXT = multiprocessing.get_context("forkserver")
POLL = 0.002
"""Seconds between looks at a pipe."""


@dataclass(frozen=True)
class Limits:
    """What a process may use; 0 leaves a thing unlimited."""

    memory_mb: int = 1024
    """Address space beyond what Python and torch have taken before the world is made."""
    cpu_seconds: int = 600
    """Processor time, all episodes of the process together."""
    file_mb: int = 64
    """Of any one file that it writes."""


class IsolatedEpisode:
    """An episode in a process of its own; an `Episode`."""

    def __init__(self, make: Callable[[], Episode], limits: Limits) -> None:
        """Start the process, which makes the world.

        Args:
            make: Importable by name, or a partial of what is.
            limits: Of the process.
        """
        _CONTEXT.set_forkserver_preload(["palaestra.envs.retrieval.isolation"])
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, make, limits), name="episode", daemon=True)
        self._process.start()
        theirs.close()

    async def begin(self, row: Mapping[str, Any]) -> Turn:
        """See `Episode.begin`."""
        return _read_turn((await self._ask({"begin": dict(row)}))["turn"])

    async def act(self, action: str) -> Reply:
        """See `Episode.act`."""
        said = await self._ask({"act": action})
        turn = said.pop("turn")
        return Reply(None if turn is None else _read_turn(turn), **said)

    async def pay(self, answer: str | None) -> float | None:
        """See `Episode.pay`."""
        paid: float | None = (await self._ask({"pay": answer}))["reward"]
        return paid

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    async def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message and wait for the answer; who waits no longer is cancelled, and closes this.

        Raises:
            RuntimeError: The process died, or its world broke.
            ValueError: The world refuses the action.
            JudgeError: Its reward broke.
        """
        try:
            self._pipe.send_bytes(json.dumps(message).encode())
            while not self._pipe.poll():
                await asyncio.sleep(POLL)
            said: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            self._process.join(1)
            raise RuntimeError(f"the world's process died (exit code {self._process.exitcode})") from None
        kind, problem = said.pop("raised", None), said.get("error", "")
        if kind == "refused":
            raise ValueError(problem)
        if kind == "judge":
            raise JudgeError(problem, said["answer"])
        if kind == "broken":
            raise RuntimeError(problem)
        return said


def _serve(pipe: Connection, make: Callable[[], Episode], limits: Limits) -> None:
    """Make a world and answer for it until nobody asks any more."""
    _limit(limits)
    torch.set_num_threads(1)
    world: Episode | None = None
    while True:
        try:
            message = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            if world is None:
                world = make()
            answer = asyncio.run(_answer(world, message))
        except JudgeError as error:
            answer = {"raised": "judge", "error": error.message, "answer": error.answer}
        except (ValueError, LookupError) as error:
            answer = {"raised": "refused" if "act" in message else "broken", "error": str(error)}
        except Exception as error:  # the parent decides what that means
            answer = {"raised": "broken", "error": f"{type(error).__name__}: {error}"}
        pipe.send_bytes(json.dumps(answer).encode())


async def _answer(world: Episode, message: Mapping[str, Any]) -> dict[str, Any]:
    if "begin" in message:
        return {"turn": _written(await world.begin(message["begin"]))}
    if "pay" in message:
        return {"reward": await world.pay(message["pay"])}
    reply = await world.act(message["act"])
    turn = None if reply.turn is None else _written(reply.turn)
    return {
        "turn": turn, "outcome": reply.outcome, "error": reply.error, "answer": reply.answer, "reward": reply.reward
    }  # fmt: skip


def _limit(limits: Limits) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for kind, most in (
        (resource.RLIMIT_AS, limits.memory_mb and taken + (limits.memory_mb << 20)),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, limits.file_mb << 20),
        (resource.RLIMIT_CORE, 1),
    ):
        if most:
            resource.setrlimit(kind, (most, most))


def _written(turn: Turn) -> dict[str, Any]:
    images = [
        {"shape": list(image.shape), "data": base64.b64encode(image.contiguous().numpy().tobytes()).decode()}
        for image in turn.images
    ]
    return {"text": turn.text, "images": images, "invalid": turn.invalid}


def _read_turn(said: Mapping[str, Any]) -> Turn:
    images: list[Tensor] = []
    for image in said["images"]:
        data = torch.frombuffer(bytearray(base64.b64decode(image["data"])), dtype=torch.uint8)
        images.append(data.view(image["shape"]))
    return Turn(said["text"], tuple(images), invalid=said["invalid"])
