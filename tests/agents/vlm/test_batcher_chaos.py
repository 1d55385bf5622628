"""Crowds on one batcher whose engine misbehaves at random: nobody is lost, nobody gets another's answer."""

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest

from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.core import (
    Answer,
    Ask,
    AskError,
    EngineError,
    Generate,
    LateError,
    Message,
    OverloadedError,
    Reply,
    ServerLostError,
    Text,
)
from palaestra.agents.vlm.engines.echo import EchoEngine

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
PATIENCE = 60.0


def say(text: str) -> Generate:
    return Generate((Message("user", (text,)),))


class Chaotic(EchoEngine):
    """Answers "VERSION says TEXT" at random speed; raises, miscounts and hangs at random, if that be its nature."""

    def __init__(self, seed: int, trouble: float, version: str = "v0", hang: float = 0.0) -> None:
        super().__init__(0.0, version)
        self.seed, self.trouble, self.hang = seed, trouble, hang
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()

    def size(self, ask: Ask) -> int:
        assert isinstance(ask, Generate)
        return len(str(ask.messages[0].content[0]))

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        time.sleep(self.random.random() * 0.004)
        texts = [answer.text for answer in super().answer(asks) if isinstance(answer, Text)]
        self.seen.update(texts)
        answers: list[Answer | Exception] = [Text(f"{self.version} says {text}") for text in texts]
        fate = self.random.random() / self.trouble if self.trouble else 9.0
        if fate < 0.4:
            raise RuntimeError("at random")
        if fate < 0.6:
            raise SystemExit("at random")
        if fate < 0.8:
            return answers[1:]
        if fate < 0.9:
            return [ValueError("at random") if self.random.random() < 0.5 else answer for answer in answers]
        if fate < 1.0:
            time.sleep(self.hang)
        return answers

    def load(self, path: Path) -> "Chaotic":
        version = super().load(path).version
        return Chaotic(self.seed + 1, self.trouble, version, self.hang)


def check(reply: Reply, text: str) -> None:
    assert isinstance(reply.answer, Text)
    assert reply.answer.text == f"{reply.version} says {text}"


def balanced(batcher: Batcher) -> bool:
    """Whether every ask is accounted for and none is left, soon: the last replies may be on their way."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        m = batcher.metrics()
        ended = m.answered + m.refused + m.late + m.cancelled + m.failed
        if m.submitted == ended and m.depth == m.waiting == m.in_flight == 0:
            return True
        time.sleep(0.001)
    return False


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_of_all_kinds(seed: int) -> None:
    """Threads and tasks ask, hurry, cancel and repeat each other; every ask ends once, as it should."""
    engine = Chaotic(seed, trouble=0.3, hang=0.15)
    ends: Counter[str] = Counter()
    lock = threading.Lock()
    batcher = Batcher(engine, max_batch=8, max_queue=40, hang_seconds=0.1, cache_bytes=5000)

    def note(end: str) -> None:
        with lock:
            ends[end] += 1

    def draw(numbers: random.Random) -> tuple[str, float | None, int, bool]:
        text = f"t{numbers.randint(0, 300)}" * numbers.randint(1, 9)
        return text, numbers.choice([None, 5.0, 0.01]), numbers.randint(-10, 10), numbers.random() < 0.5

    def thread(number: int) -> None:
        numbers = random.Random(1000 * seed + number)
        for _ in range(15):
            text, deadline, priority, waiting = draw(numbers)
            try:
                if numbers.random() < 0.5:
                    check(batcher.ask(say(text), deadline=deadline, priority=priority, wait=waiting), text)
                else:
                    future = batcher.ask_nowait(say(text), deadline=deadline, priority=priority)
                    if numbers.random() < 0.3:
                        time.sleep(numbers.random() * 0.005)
                        future.cancel()
                    check(future.result(PATIENCE), text)
                note("answered")
            except (OverloadedError, LateError, CancelledError, EngineError) as error:
                note(type(error).__name__)

    async def task(number: int) -> None:
        numbers = random.Random(7000 * seed + number)
        for _ in range(15):
            text, deadline, priority, waiting = draw(numbers)
            try:
                asking = batcher.ask_async(say(text), deadline=deadline, priority=priority, wait=waiting)
                check(await asyncio.wait_for(asking, numbers.choice([PATIENCE, PATIENCE, 0.01])), text)
                note("answered")
            except OverloadedError:
                note("OverloadedError")
                await asyncio.sleep(0.001)
            except LateError:
                note("LateError")
            except TimeoutError:
                note("CancelledError")
            except EngineError:
                note("EngineError")

    async def tasks() -> None:
        await asyncio.gather(*(task(number) for number in range(30)))

    crowd = [threading.Thread(target=thread, args=(number,)) for number in range(20)]
    crowd.append(threading.Thread(target=lambda: asyncio.run(tasks())))
    for member in crowd:
        member.start()
    for member in crowd:
        member.join(PATIENCE)
        assert not member.is_alive()
    assert ends.total() == 20 * 15 + 30 * 15
    assert {"answered", "OverloadedError", "LateError", "CancelledError", "EngineError"} <= set(ends)
    assert batcher.drain(PATIENCE)
    batcher.close()
    metrics = batcher.metrics()
    assert balanced(batcher) and metrics.refused == ends["OverloadedError"]
    # A task may be cancelled when its ask has ended, but before its loop has heard of it.
    assert ends["LateError"] <= metrics.late <= ends["LateError"] + ends["CancelledError"]
    assert ends["answered"] <= metrics.answered and metrics.cancelled <= ends["CancelledError"]


def test_a_flood_of_a_thousand_threads() -> None:
    """The queue never passes its bound; whoever waits is answered; whoever would not is told when to return."""
    engine = Chaotic(0, trouble=0.0)
    batcher = Batcher(engine, max_batch=32, max_queue=64)
    ends: Counter[str] = Counter()
    lock = threading.Lock()
    start = threading.Event()
    deepest = 0

    def ask(number: int) -> None:
        start.wait(PATIENCE)
        end = "answered"
        try:
            check(batcher.ask(say(str(number)), wait=number % 2 == 0), str(number))
        except OverloadedError as error:
            end = "refused" if error.retry_after > 0 else "refused without a word"
        with lock:
            ends[end] += 1

    crowd = [threading.Thread(target=ask, args=(number,)) for number in range(1000)]
    for member in crowd:
        member.start()
    start.set()
    while any(member.is_alive() for member in crowd):
        deepest = max(deepest, batcher.depth)
        time.sleep(0.0005)
    batcher.close()
    assert deepest <= 64 and ends["answered"] >= 500 and ends["answered"] + ends["refused"] == 1000
    assert batcher.metrics().refused == ends["refused"] and balanced(batcher)
    assert set(engine.seen.values()) == {1}, "the model saw nobody twice"


def test_a_flood_of_two_thousand_tasks() -> None:
    engine = Chaotic(0, trouble=0.0)

    async def story(batcher: Batcher) -> list[Reply]:
        return await asyncio.gather(*(batcher.ask_async(say(str(number))) for number in range(2000)))

    with Batcher(engine, max_batch=32, max_queue=64) as batcher:
        for number, reply in enumerate(asyncio.run(story(batcher))):
            check(reply, str(number))
        assert balanced(batcher)
        assert batcher.metrics().batches <= 64, "63 full batches, and at most a small one at first"


def test_swaps_under_load(tmp_path: Path) -> None:
    """Each reply's content is of the version that it names, and whoever asks after a swap has the new one."""
    versions = [f"v{number}" for number in range(8)]
    for version in versions:
        (tmp_path / version).write_text(json.dumps({"version": version}))
    stop = threading.Event()
    seen: set[str] = set()
    wrong: list[str] = []
    with Batcher(Chaotic(0, trouble=0.0), max_batch=4, cache_bytes=10_000) as batcher:

        def ask(number: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                text, before = f"{count % 50}", batcher.version
                reply = batcher.ask(say(text))
                check(reply, text)
                seen.add(reply.version)
                if versions.index(reply.version) < versions.index(before):
                    wrong.append(f"{reply.version} after {before}")

        crowd = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for member in crowd:
            member.start()
        for version in versions[1:]:
            time.sleep(0.05)
            assert batcher.load(tmp_path / version) == version
        time.sleep(0.05)
        stop.set()
        for member in crowd:
            member.join(PATIENCE)
    assert seen == set(versions) and not wrong


def test_closing_in_the_middle_of_it_all() -> None:
    """Whatever moment it is, every future ends."""
    for turn in range(20):
        batcher = Batcher(Chaotic(turn, trouble=0.2, hang=0.02), max_batch=4, max_queue=50, hang_seconds=0.01)
        futures = []
        for number in range(60):
            try:
                futures.append(batcher.ask_nowait(say(str(number)), deadline=0.02 if number % 5 == 0 else None))
            except (OverloadedError, ServerLostError, AskError):
                continue
        time.sleep(0.001 * turn)
        batcher.close(timeout=0.01)
        assert not wait(futures, PATIENCE).not_done
        assert balanced(batcher)
