"""Advice: labels land where they were asked for, whatever the server does; nothing waits."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from palaestra.agents.found_rl.advice import Advisor, Teacher
from palaestra.agents.found_rl.config import QueryConfig
from palaestra.agents.found_rl.queries import Query
from palaestra.agents.found_rl.replay import Replay
from palaestra.agents.found_rl.teachers import ScriptedEngine, read_action, write_pedals
from palaestra.agents.vlm.client import Client, connect
from palaestra.agents.vlm.core import Act, Action, Answer, Ask, EngineError, Reply, Text
from palaestra.envs.core import Observation, WorldSpec

SPEC = WorldSpec(id="test", action=spaces.Box(-1, 1, (2,)), state=2)
WORLDS = 4


class MirrorTeacher(Teacher):
    """Asks with the world's own view, which no other view equals; the right answer is that view."""

    model, gives = "mirror", "action"

    def __init__(self) -> None:
        self.views = torch.zeros(WORLDS, 2)

    def asks(self, rows: Tensor, action: Tensor) -> Sequence[tuple[Ask, None]]:
        return [(Act(Observation(state=self.views[row][None].clone())), None) for row in rows.tolist()]

    def read(self, answer: Answer, note: Tensor | None) -> Tensor:
        return read_action(answer)


class ChaosClient(Client):
    """Answers an ask late, twice, never, out of order, with NaN, prose or an error; at the caller's `poll`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.waiting: list[tuple[Any, Any, Reply | Exception]] = []
        self.honest = 0

    def _submit(self, model: str, ask: Ask, deadline: float | None, priority: int, wait: bool) -> Future[Reply]:
        return Future()

    def ask_nowait(self, model: str, ask: Ask, *, key: Any = None, **options: Any) -> Future[Reply]:
        assert isinstance(ask, Act) and ask.observation.state is not None
        future: Future[Reply] = Future()
        right = Reply(Action(ask.observation.state.clone()), "1")
        nan = Reply(Action(torch.full((1, 2), torch.nan)), "1")
        prose = Reply(Text("I would rather slow down a little, wouldn't you?"), "1")
        kind = self.random.choice(["right"] * 6 + ["twice", "never", "nan", "prose", "error"])
        outcomes: list[Reply | Exception] = {
            "right": [right],
            "twice": [right, right],
            "never": [],
            "nan": [nan],
            "prose": [prose],
            "error": [EngineError("broken")],
        }[kind]
        self.honest += kind in ("right", "twice")
        self.waiting += [(key, future, outcome) for outcome in outcomes]
        return future

    def poll(self) -> list[tuple[Any, Reply | Exception]]:
        self.random.shuffle(self.waiting)
        now, self.waiting = self.waiting[::3], [each for at, each in enumerate(self.waiting) if at % 3]
        return [(key, outcome) for key, _, outcome in now]

    def models(self) -> dict[str, str]:
        return {"mirror": "1"}

    def load(self, model: str, path: str | Path) -> str:
        raise NotImplementedError

    def metrics(self) -> dict[str, dict[str, float]]:
        return {}

    def close(self) -> None:
        pass


def play(advisor: Advisor, teacher: MirrorTeacher, decisions: int, seed: int = 0) -> None:
    """Play worlds whose episodes end, are cut and break, and ask about every view."""
    replay = advisor.replay
    draw = torch.Generator().manual_seed(seed)

    def new() -> Observation:
        teacher.views = 2 * torch.rand(WORLDS, 2, generator=draw) - 1
        return Observation(state=teacher.views)

    replay.begin(new())
    for decision in range(decisions):
        advisor.ask(decision, torch.zeros(WORLDS, 2))
        terminated, truncated, good = torch.rand(3, WORLDS, generator=draw) < torch.tensor([[0.1], [0.1], [0.9]])
        final = Observation(state=torch.rand(int((terminated | truncated).sum()), 2, generator=draw))
        replay.close(torch.zeros(WORLDS, 2), torch.zeros(WORLDS), terminated, truncated, good, final, new())
        advisor.collect(decision + 1)
        advised = replay.tensors["advised"]
        # The law: a label is the view of the very slot that it lies in.
        assert torch.equal(replay.tensors["advice"][advised], replay.tensors["state"][advised])
        if decision % 37 == 36:
            replay.begin(new())


@pytest.mark.parametrize("seed", range(3))
def test_no_label_ever_lands_in_another_transition(seed: int) -> None:
    client, teacher = ChaosClient(seed), MirrorTeacher()
    replay = Replay(SPEC, WORLDS, WORLDS * 12, 2, "cpu")
    advisor = Advisor(client, teacher, replay, Query(QueryConfig(), WORLDS))
    play(advisor, teacher, 200, seed)
    counts = advisor.counts
    assert counts.asked == 200 * WORLDS
    done = counts.labelled + counts.late + counts.failed + counts.unreadable + counts.lost
    assert done + advisor.outstanding == counts.asked
    assert counts.labelled > counts.asked * 0.3
    assert counts.labelled <= client.honest
    assert min(counts.failed, counts.unreadable, counts.lost, counts.strange) > 0
    assert advisor.outstanding <= WORLDS * replay.slots + WORLDS  # those that are never answered are given up
    metrics = advisor.metrics()
    assert metrics["advice/yield"] == counts.labelled / (counts.asked - advisor.outstanding)
    assert metrics["advice/age"] >= 1


class SlowMirror:
    """An engine that answers with the view, after a while or not at all."""

    version = "1"

    def __init__(self, seconds: float, frozen: threading.Event | None = None) -> None:
        self.seconds, self.frozen = seconds, frozen

    def check(self, ask: Ask) -> None:
        pass

    def size(self, ask: Ask) -> int:
        return 1

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        time.sleep(self.seconds)
        if self.frozen is not None:
            self.frozen.wait(30)
        states = [ask.observation.state for ask in asks if isinstance(ask, Act)]
        return [Action(state.clone()) for state in states if state is not None]

    def load(self, path: Path) -> SlowMirror:
        raise NotImplementedError


def test_a_fixed_delay_labels_everything_at_that_age() -> None:
    teacher = MirrorTeacher()
    with connect({"mirror": SlowMirror(0.002)}) as client:
        replay = Replay(SPEC, WORLDS, WORLDS * 40, 2, "cpu")
        advisor = Advisor(client, teacher, replay, Query(QueryConfig(every=2), WORLDS), delay=5)
        play(advisor, teacher, 30)
    assert advisor.counts.labelled == (30 - 5 + 1) * WORLDS // 2
    assert advisor.counts.age == 5 * advisor.counts.labelled
    advisor.drop()
    assert advisor.counts.lost + advisor.counts.labelled == advisor.counts.asked


def test_a_frozen_server_is_never_waited_for_and_its_queue_is_bounded() -> None:
    teacher, frozen = MirrorTeacher(), threading.Event()
    with connect({"mirror": SlowMirror(0.0, frozen)}) as client:
        replay = Replay(SPEC, WORLDS, WORLDS * 400, 2, "cpu")
        advisor = Advisor(client, teacher, replay, Query(QueryConfig(outstanding=10), WORLDS))
        began = time.perf_counter()
        play(advisor, teacher, 100)
        assert time.perf_counter() - began < 5  # a server that hangs for 30 s was not waited for
        assert advisor.outstanding == 10 and advisor.counts.labelled == 0
        frozen.set()
        for _ in range(200):
            advisor.collect(101)
            if not advisor.outstanding:
                break
            time.sleep(0.01)
    assert advisor.counts.labelled == 10


def test_a_restart_gives_up_what_is_outstanding() -> None:
    teacher = MirrorTeacher()
    with connect({"mirror": SlowMirror(0.05)}) as client:
        replay = Replay(SPEC, WORLDS, WORLDS * 8, 2, "cpu")
        advisor = Advisor(client, teacher, replay, Query(QueryConfig(), WORLDS))
        replay.begin(Observation(state=teacher.views))
        advisor.ask(0, torch.zeros(WORLDS, 2))
        saved = advisor.state_dict()
        advisor.load_state_dict(saved)  # as a run that is resumed in the middle of outstanding labels
        assert advisor.outstanding == 0 and advisor.counts.lost == 0  # as they were counted when it was saved
        time.sleep(0.2)
        advisor.collect(1)
    assert not bool(replay.tensors["advised"].any())


def test_what_is_written_as_text_is_read_back() -> None:
    for acceleration, steer in ((0.5, -0.25), (-0.75, 1.0), (0.0, 0.0)):
        action = torch.tensor([acceleration, steer])
        torch.testing.assert_close(read_action(Text(write_pedals(action))), action)


@pytest.mark.parametrize("delay", [-1])
def test_a_delay_that_makes_no_sense_is_refused(delay: int) -> None:
    replay = Replay(SPEC, WORLDS, WORLDS * 8, 2, "cpu")
    with pytest.raises(ValueError, match="delay is -1"):
        Advisor(ChaosClient(0), MirrorTeacher(), replay, Query(QueryConfig(), WORLDS), delay=delay)


class CountingTeacher(MirrorTeacher):
    """Remembers how much it has read, as a running scale does."""

    def __init__(self) -> None:
        super().__init__()
        self.read_so_far = 0

    def read(self, answer: Answer, note: Tensor | None) -> Tensor:
        self.read_so_far += 1
        return super().read(answer, note)

    def state_dict(self) -> dict[str, Tensor]:
        return {"read": torch.tensor(self.read_so_far)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.read_so_far = int(state["read"])


def test_what_a_teacher_gathers_is_saved_with_the_counts() -> None:
    replay, query = Replay(SPEC, WORLDS, 40, 2, "cpu"), Query(QueryConfig(), WORLDS)
    with connect({"mirror": ScriptedEngine("oracle")}) as client:
        one, two = (Advisor(client, CountingTeacher(), replay, query, delay=0) for _ in range(2))
        replay.begin(Observation(state=torch.zeros(WORLDS, 2)))
        one.ask(0, torch.zeros(WORLDS, 2))
        one.collect(0)
        two.load_state_dict(one.state_dict())
        assert isinstance(two.teacher, CountingTeacher) and two.teacher.read_so_far == WORLDS
        assert two.counts == one.counts and two.counts.labelled == WORLDS
        plain = Advisor(client, MirrorTeacher(), replay, query, delay=0)
        with pytest.raises(ValueError, match="gathers nothing, but was given read"):
            plain.load_state_dict(one.state_dict())
