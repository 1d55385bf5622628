"""Chunks played ahead: a slow server whose time is counted in steps, and a real one."""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from palaestra.agents.core import Decision
from palaestra.agents.vla.player import ChunkPlayer
from palaestra.agents.vlm.client import connect
from palaestra.agents.vlm.core import Act, Action, Reply, Text
from palaestra.agents.vlm.engines.policy import PolicyEngine
from palaestra.envs.core import Observation, WorldSpec


class Answer(Future[Reply]):
    """A reply that comes at a step; who waits for it lets the server's time pass."""

    def __init__(self, server: SlowServer, due: int, reply: Reply | Exception) -> None:
        super().__init__()
        self.server, self.due, self.reply = server, due, reply

    def done(self) -> bool:
        if self.server.now >= self.due and not super().done():
            if isinstance(self.reply, Exception):
                self.set_exception(self.reply)
            else:
                self.set_result(self.reply)
        return super().done()

    def result(self, timeout: float | None = None) -> Reply:
        self.server.now = max(self.server.now, self.due)
        assert self.done()
        return super().result(timeout)


class SlowServer:
    """Decides in `latency` steps; the action of a step is its number, so that one played late is seen."""

    def __init__(self, latency: int, chunk: int) -> None:
        self.latency, self.chunk, self.now, self.failing = latency, chunk, 0, False

    def decide(self, view: Observation) -> Future[Reply]:
        assert view.state is not None
        actions = view.state[0, 0] + torch.arange(self.chunk)[:, None]
        reply = RuntimeError("broken") if self.failing else Reply(Action(actions), "v1")
        return Answer(self, self.now + self.latency, reply)


def play(player: ChunkPlayer, server: SlowServer, steps: int) -> list[float]:
    """Play so many steps of a world that shows the number of the step."""
    played = []
    for step in range(steps):
        played.append(player.act(Observation(state=torch.tensor([[float(step)]]))).item())
        server.now += 1
    return played


@pytest.mark.parametrize(("latency", "chunk", "ahead"), [(0, 4, 0), (1, 4, 1), (3, 8, 3), (3, 8, 6), (6, 8, 6)])
def test_no_step_waits_while_a_chunk_lasts_longer(latency: int, chunk: int, ahead: int) -> None:
    """But for the first, which nothing came before; and each step plays its own action, whatever the chunk."""
    server = SlowServer(latency, chunk)
    player = ChunkPlayer(server.decide, ahead)
    assert play(player, server, 60) == [float(step) for step in range(60)]
    counts = player.counts
    assert (counts.steps, counts.waited, counts.stale) == (60, min(latency, 1), 0)
    assert counts.trimmed == latency * (counts.chunks - 1) and counts.chunks <= 60 / (chunk - ahead) + 1
    assert set(player.versions) == {"v1"} and len(player.versions) == counts.chunks


def test_a_chunk_asked_for_too_late_is_waited_for() -> None:
    """Three steps of latency and one ahead: the world stands still for two steps of each chunk; nothing is skipped."""
    server = SlowServer(3, 6)
    player = ChunkPlayer(server.decide, 1)
    assert play(player, server, 30) == [float(step) for step in range(30)]
    assert player.counts.waited == player.counts.chunks and player.counts.trimmed == player.counts.chunks - 1
    assert server.now == 30 + 3 + 2 * (player.counts.chunks - 1)


def test_a_chunk_that_is_stale_is_never_played() -> None:
    """It comes when the steps it was for are over, and later chunks are there: it is dropped."""
    server = SlowServer(1, 4)
    player = ChunkPlayer(server.decide, 3)
    assert play(player, server, 3) == [0, 1, 2]
    late = Answer(server, 0, Reply(Action(torch.full((4, 1), -1.0)), "v0"))
    player._pending.appendleft((late, -9))
    assert player.act(Observation(state=torch.tensor([[3.0]]))).item() == 3
    assert player.counts.stale == 1 and set(player.versions) == {"v1"}


def test_a_failure_is_raised_once_nothing_is_left() -> None:
    server = SlowServer(1, 4)
    player = ChunkPlayer(server.decide, 2)
    play(player, server, 1)
    server.failing = True
    assert [player.act(Observation(state=torch.zeros(1, 1))).item() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(RuntimeError, match="broken"):
        player.act(Observation(state=torch.zeros(1, 1)))


def test_an_episode_begins_with_its_own_view() -> None:
    server = SlowServer(1, 4)
    player = ChunkPlayer(server.decide, 3)
    play(player, server, 2)
    player.reset()
    assert player.left == 0 and player.act(Observation(state=torch.tensor([[70.0]]))).item() == 70


def test_what_is_no_chunk_is_refused() -> None:
    def say(view: Observation) -> Future[Reply]:
        future: Future[Reply] = Future()
        future.set_result(Reply(Text("left"), "v1"))
        return future

    view = Observation(state=torch.zeros(1, 1))
    with pytest.raises(ValueError, match="answers with Text"):
        ChunkPlayer(say, 0).act(view)
    with pytest.raises(ValueError, match="answers with 4 actions; a player that asks 4 steps ahead"):
        ChunkPlayer(SlowServer(0, 4).decide, 4).act(view)
    with pytest.raises(ValueError, match="ahead is -1"):
        ChunkPlayer(say, -1)


class Slow(nn.Module):
    """A policy that takes a while, and counts how many worlds it decides for at once."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def act(self, observation: Observation) -> Decision:
        time.sleep(0.05)
        self.batches.append(len(observation))
        assert observation.state is not None
        return Decision(observation.state[:, :1, None] + torch.arange(16.0)[:, None])


def test_two_versions_behind_one_client_never_wait() -> None:
    """Through the batcher: worlds play on while their next chunks are decided, and each hears its own version."""
    box = spaces.Box(-np.ones(1, np.float32), np.ones(1, np.float32))
    spec = WorldSpec("toy/test-v0", box, state=1, chunk=16)
    with connect({"old": PolicyEngine(Slow(), spec, "v1"), "new": PolicyEngine(Slow(), spec, "v2")}) as client:
        def ask(model: str, view: Observation) -> Future[Reply]:
            return client.ask_nowait(model, Act(view), wait=True)

        players = [ChunkPlayer(partial(ask, model), 12) for model in ("old", "new", "old", "new")]
        for step in range(40):
            view = Observation(state=torch.tensor([[float(step)]]))
            assert [player.act(view).item() for player in players] == [step] * 4
            time.sleep(0.03)
    assert [set(player.versions) for player in players] == [{"v1"}, {"v2"}, {"v1"}, {"v2"}]
    assert all(player.counts.waited == 1 and player.counts.trimmed for player in players)
