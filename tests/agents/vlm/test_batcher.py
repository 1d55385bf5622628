"""The batcher with real threads and event loops, over an engine that does what its asks tell it to."""

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from pathlib import Path

import pytest

from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.core import (
    Answer,
    Ask,
    AskError,
    Audience,
    Embed,
    EngineError,
    Generate,
    LateError,
    Message,
    OverloadedError,
    Reply,
    ServerLostError,
    Text,
    WeightsError,
)
from palaestra.agents.vlm.engines.echo import EchoEngine
from palaestra.agents.vlm.queue import Job, Waiter
from palaestra.agents.vlm.workers import MOST_STUCK

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
PATIENCE = 20.0
"""Seconds after which a test that still waits has failed."""


def say(text: str) -> Generate:
    return Generate((Message("user", (text,)),))


class Scripted(EchoEngine):
    """Echoes, but for texts that begin with what it should do instead; and notes every batch."""

    def __init__(self, delay: float = 0.0, version: str = "echo") -> None:
        super().__init__(delay, version)
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        """Calls with a text "gate …" wait for it."""
        self.gate_reached = threading.Event()

    def check(self, ask: Ask) -> None:
        super().check(ask)
        if said(ask).startswith("refuse"):
            raise AskError("refused")

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        texts = [said(ask) for ask in asks]
        self.batches.append(texts)
        if any(text.startswith("gate") for text in texts):
            self.gate_reached.set()
            assert self.gate.wait(PATIENCE)
        if any(text.startswith("raise") for text in texts):
            raise RuntimeError("a tensor of the wrong shape")
        if any(text.startswith("exit") for text in texts):
            raise SystemExit(3)
        answers: list[Answer | Exception] = []
        for text, answer in zip(texts, super().answer(asks), strict=True):
            if text.startswith("item"):
                answers.append(KeyError("no such thing"))
            elif text.startswith("own"):
                answers.append(AskError("too long"))
            elif text.startswith("odd"):
                answers.append("not an answer")  # type: ignore[arg-type]
            else:
                answers.append(answer)
        return answers[:-1] if any(text.startswith("short") for text in texts) else answers


def said(ask: Ask) -> str:
    return str(ask.messages[-1].content[0]) if isinstance(ask, Generate) else ""


@pytest.fixture
def engine() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.gate.set()


@pytest.fixture
def make(engine: Scripted) -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def batcher_of(**options: object) -> Batcher:
        made.append(Batcher(engine, **options))  # type: ignore[arg-type]
        return made[-1]

    yield batcher_of
    engine.gate.set()
    for batcher in made:
        batcher.close()


def hold(batcher: Batcher, engine: Scripted) -> "Future[Reply]":
    """Occupy the engine until its gate opens."""
    future = batcher.ask_nowait(say("gate"))
    assert engine.gate_reached.wait(PATIENCE)
    return future


def text(reply: Reply) -> str:
    assert isinstance(reply.answer, Text)
    return reply.answer.text


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


def test_one_ask(make: Callable[..., Batcher]) -> None:
    batcher = make(name="echo")
    reply = batcher.ask(say("hi"))
    assert (text(reply), reply.version, reply.batch, reply.kept) == ("hi", "echo", 1, False)
    assert reply.queue_seconds >= 0 and batcher.version == "echo" and batcher.depth == 0
    assert batcher.engine.version == "echo"


def test_while_the_engine_is_busy_the_next_batch_gathers(make: Callable[..., Batcher], engine: Scripted) -> None:
    """The batch before is the clock: no ask waits for company while the engine is idle."""
    batcher = make(max_batch=4)
    hold(batcher, engine)
    futures = [batcher.ask_nowait(say(str(i))) for i in range(6)]
    assert batcher.depth == 6
    engine.gate.set()
    assert [text(future.result(PATIENCE)) for future in futures] == list("012345")
    assert engine.batches == [["gate"], ["0", "1", "2", "3"], ["4", "5"]]
    assert [future.result().batch for future in futures] == [4, 4, 4, 4, 2, 2]


def test_a_batch_waits_for_company_no_longer_than_told(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make(max_batch=3, max_wait=0.5)
    began = time.monotonic()
    alone = batcher.ask(say("a"))
    assert 0.5 <= time.monotonic() - began < 5 and 0.5 <= alone.queue_seconds < 5
    began = time.monotonic()
    futures = [batcher.ask_nowait(say(str(i))) for i in range(3)]
    assert not wait(futures, PATIENCE).not_done
    assert time.monotonic() - began < 0.45, "a full batch waits for nobody"
    assert engine.batches == [["a"], ["0", "1", "2"]]


def test_the_bad_ask_alone_fails(make: Callable[..., Batcher], engine: Scripted) -> None:
    """A batch of 8 with one that makes the engine raise: the other 7 are answered, in 6 further calls."""
    batcher = make(max_batch=8, name="scripted")
    hold(batcher, engine)
    futures = [batcher.ask_nowait(say("raise" if i == 5 else str(i))) for i in range(8)]
    engine.gate.set()
    wait(futures, PATIENCE)
    error = futures[5].exception()
    assert isinstance(error, EngineError) and "scripted failed on this ask: RuntimeError: a tensor" in str(error)
    assert isinstance(error.__cause__, RuntimeError)
    assert [text(f.result()) for i, f in enumerate(futures) if i != 5] == list("0123467")
    assert [len(batch) for batch in engine.batches] == [1, 8, 4, 4, 2, 1, 1, 2]
    assert balanced(batcher) and batcher.metrics().failed == 1


@pytest.mark.parametrize("what", ["raise", "exit", "short"])
def test_whatever_an_engine_does_concerns_only_whose_fault_it_is(
    make: Callable[..., Batcher], engine: Scripted, what: str
) -> None:
    """It raises, ends its thread, or returns the wrong count."""
    batcher = make(max_batch=16)
    hold(batcher, engine)
    futures = {i: batcher.ask_nowait(say(f"{what} {i}" if i in (0, 7, 8) else str(i))) for i in range(13)}
    engine.gate.set()
    wait(futures.values(), PATIENCE)
    for i, future in futures.items():
        if i in (0, 7, 8):
            assert isinstance(future.exception(), EngineError)
        else:
            assert text(future.result()) == str(i)
    assert text(batcher.ask(say("and on"))) == "and on" and balanced(batcher)


def test_items_fail_alone_without_a_split(make: Callable[..., Batcher], engine: Scripted) -> None:
    """What the engine says of one ask concerns that one; errors of the contract come through as they are."""
    batcher = make(max_batch=8, name="scripted")
    hold(batcher, engine)
    good, item, own, odd = (batcher.ask_nowait(say(what)) for what in ("good", "item", "own", "odd"))
    engine.gate.set()
    assert text(good.result(PATIENCE)) == "good"
    error = item.exception(PATIENCE)
    assert isinstance(error, EngineError) and isinstance(error.__cause__, KeyError)
    assert isinstance(own.exception(PATIENCE), AskError) and str(own.exception()) == "too long"
    assert str(odd.exception(PATIENCE)) == "scripted answered Generate with str, expected Text."
    assert len(engine.batches) == 2


def test_an_answer_to_another_kind_of_ask_is_none(make: Callable[..., Batcher]) -> None:
    batcher = make(name="echo")
    batcher.engine.answer = lambda asks: [Text("a")] * len(asks)  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="answered Embed with Text, expected Vector"):
        batcher.ask(Embed("a"))


def test_twins_are_asked_once(make: Callable[..., Batcher], engine: Scripted) -> None:
    """Each has its own future: cancelling one leaves the others their answer."""
    batcher = make()
    hold(batcher, engine)
    futures = [batcher.ask_nowait(say("same")) for _ in range(5)]
    assert futures[2].cancel()
    engine.gate.set()
    assert {text(f.result(PATIENCE)) for i, f in enumerate(futures) if i != 2} == {"same"}
    assert futures[2].cancelled() and engine.batches == [["gate"], ["same"]]
    assert (batcher.metrics().merged, batcher.metrics().cancelled) == (4, 1)


def test_kept_answers(make: Callable[..., Batcher], engine: Scripted, tmp_path: Path) -> None:
    """They come at once, until the weights change."""
    batcher = make(cache_bytes=100_000)
    first, second = batcher.ask(say("a")), batcher.ask(say("a"))
    assert (first.kept, second.kept, second.queue_seconds, second.model_seconds) == (False, True, 0, 0)
    assert first.answer == second.answer and len(engine.batches) == 1
    assert asyncio.run(batcher.ask_async(say("a"))).kept
    (tmp_path / "new.json").write_text('{"version": "new"}')
    batcher.load(tmp_path / "new.json")
    assert not batcher.ask(say("a")).kept


def test_no_answers_are_kept_unless_told(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make()
    assert not batcher.ask(say("a")).kept and not batcher.ask(say("a")).kept and len(engine.batches) == 2


def test_a_late_ask_fails_in_time_and_never_reaches_the_model(make: Callable[..., Batcher], engine: Scripted) -> None:
    """Even while the model is at another batch for much longer."""
    batcher = make(name="slow")
    hold(batcher, engine)
    began = time.monotonic()
    with pytest.raises(LateError, match="before slow could begin"):
        batcher.ask(say("late"), deadline=0.1)
    assert 0.1 <= time.monotonic() - began < 2
    patient = batcher.ask_nowait(say("patient"), deadline=PATIENCE)
    engine.gate.set()
    assert text(patient.result(PATIENCE)) == "patient"
    assert engine.batches == [["gate"], ["patient"]] and balanced(batcher) and batcher.metrics().late == 1


def test_late_while_waiting_for_room(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make(max_queue=1)
    hold(batcher, engine)
    queued = batcher.ask_nowait(say("queued"))
    with pytest.raises(LateError):
        batcher.ask(say("late"), deadline=0.05)
    with pytest.raises(LateError):
        asyncio.run(batcher.ask_async(say("late too"), deadline=0.05))
    engine.gate.set()
    queued.result(PATIENCE)
    assert engine.batches == [["gate"], ["queued"]]


def test_urgent_asks_go_first(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make(max_batch=1)
    hold(batcher, engine)
    futures = [batcher.ask_nowait(say(str(p)), priority=p) for p in (-3, 0, 5, 2)]
    engine.gate.set()
    wait(futures, PATIENCE)
    assert engine.batches[1:] == [["5"], ["2"], ["0"], ["-3"]]


def test_cancelled_asks_make_room_and_never_reach_the_model(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make(max_queue=2)
    running = hold(batcher, engine)
    first, second = (batcher.ask_nowait(say(t)) for t in ("first", "second"))
    assert not running.cancel(), "the model is at it"
    assert first.cancel() and batcher.depth == 1
    third = batcher.ask_nowait(say("third"))
    engine.gate.set()
    wait([running, second, third], PATIENCE)
    assert engine.batches == [["gate"], ["second", "third"]] and text(running.result()) == "gate"
    with pytest.raises(CancelledError):
        first.result()
    assert wait([first], PATIENCE).done == {first}, "who waits for a cancelled future is told"
    assert balanced(batcher)


def test_a_cancelled_task_takes_its_ask_back(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make()
    hold(batcher, engine)

    async def story() -> None:
        task = asyncio.create_task(batcher.ask_async(say("taken back")))
        await asyncio.sleep(0.05)
        assert batcher.depth == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert batcher.depth == 0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.ask_async(say("timed out")), 0.05)

    asyncio.run(story())
    engine.gate.set()
    assert batcher.drain(PATIENCE) and engine.batches == [["gate"]]
    assert batcher.metrics().cancelled == 2 and balanced(batcher)


def test_asks_leave_no_garbage(make: Callable[..., Batcher]) -> None:
    """What refers to itself is freed by the collector alone, whose long search stops every thread, the engine's too."""
    batcher = make(cache_bytes=0)

    async def crowd() -> None:
        await asyncio.gather(*(batcher.ask_async(say(f"task {number}")) for number in range(50)))

    batcher.ask(say("first"))
    gc.collect()
    gc.disable()
    try:
        for number in range(50):
            batcher.ask(say(f"thread {number}"))
        for future in [batcher.ask_nowait(say(f"twin {number // 2}")) for number in range(50)]:
            future.result(PATIENCE)
        asyncio.run(crowd())
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [each for each in gc.garbage if isinstance(each, (Waiter, Job, Generate, Reply))] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_a_full_queue_refuses_or_lets_wait(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make(max_queue=2, name="busy")
    hold(batcher, engine)
    for queued in "ab":
        batcher.ask_nowait(say(queued))
    for refused in (lambda: batcher.ask_nowait(say("c")), lambda: batcher.ask(say("c"), wait=False)):
        with pytest.raises(OverloadedError, match="queue of busy is full: 2 asks wait, and max_queue is 2") as refusal:
            refused()
        assert refusal.value.retry_after > 0
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(batcher.ask(say("d"))))
    thread.start()
    while not batcher.metrics().waiting:
        time.sleep(0.001)
    assert batcher.depth == 2
    engine.gate.set()
    thread.join(PATIENCE)
    assert text(replies[0]) == "d" and batcher.metrics().refused == 2 and balanced(batcher)


def test_an_event_loop_is_never_blocked(make: Callable[..., Batcher], engine: Scripted) -> None:
    """While hundreds of tasks wait for room and for the model, the loop goes on."""
    batcher = make(max_queue=4)
    hold(batcher, engine)

    async def story() -> tuple[list[Reply], float]:
        tasks = [asyncio.create_task(batcher.ask_async(say(str(i)))) for i in range(300)]
        longest = 0.0
        for turn in range(50):
            began = time.monotonic()
            await asyncio.sleep(0.002)
            longest = max(longest, time.monotonic() - began)
            if turn == 25:
                engine.gate.set()
        return await asyncio.gather(*tasks), longest

    replies, longest = asyncio.run(story())
    assert [text(reply) for reply in replies] == [str(i) for i in range(300)] and longest < PATIENCE / 4


def test_hot_swap_between_batches(make: Callable[..., Batcher], engine: Scripted, tmp_path: Path) -> None:
    """What the old weights are at they finish; what is queued the new ones answer; bad weights change nothing."""
    batcher = make()
    running = hold(batcher, engine)
    queued = batcher.ask_nowait(say("queued"))
    path = tmp_path / "new.json"
    path.write_text(json.dumps({"version": "new"}))
    assert batcher.load(path) == batcher.version == "new"
    path.write_text("{}")
    with pytest.raises(WeightsError):
        batcher.load(path)
    engine.gate.set()
    assert (running.result(PATIENCE).version, queued.result(PATIENCE).version) == ("echo", "new")
    assert batcher.version == "new"


def test_a_hang_fails_its_batch_and_work_goes_on(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make(hang_seconds=0.2, name="stuck")
    began = time.monotonic()
    hung = hold(batcher, engine)
    behind = batcher.ask_nowait(say("behind"))
    with pytest.raises(EngineError, match=r"stuck hung: no answer to a batch of 1 in 0.2 s"):
        hung.result(PATIENCE)
    assert text(behind.result(PATIENCE)) == "behind" and 0.2 <= time.monotonic() - began < 2
    engine.gate.set()
    assert text(batcher.ask(say("after"))) == "after", "the late answer of the stuck call disturbs nobody"
    assert hung.exception() is not None and balanced(batcher)


def test_a_slow_call_within_the_limit_is_no_hang(make: Callable[..., Batcher], engine: Scripted) -> None:
    """The limit is for a call, not for how long the batcher has been busy."""
    batcher = make(hang_seconds=0.3, max_batch=1)
    engine.delay = 0.1
    futures = [batcher.ask_nowait(say(str(i))) for i in range(6)]
    assert [text(future.result(PATIENCE)) for future in futures] == list("012345")


def test_an_engine_that_always_hangs_is_given_up(make: Callable[..., Batcher], engine: Scripted) -> None:
    """No more threads than a few are left behind."""
    batcher = make(hang_seconds=0.03, max_batch=1, max_queue=100)
    futures = [batcher.ask_nowait(say(f"gate {i}")) for i in range(20)]
    wait(futures, PATIENCE)
    hung = [f for f in futures if isinstance(f.exception(), EngineError)]
    lost = [f for f in futures if isinstance(f.exception(), ServerLostError)]
    assert len(hung) == MOST_STUCK and len(hung) + len(lost) == 20
    with pytest.raises(ServerLostError):
        batcher.ask(say("a"))


def test_drain_finishes_what_is_there_and_takes_no_more(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make(max_queue=2, max_batch=1)
    hold(batcher, engine)
    futures = [batcher.ask_nowait(say(str(i))) for i in range(2)]
    waiting = threading.Thread(target=lambda: batcher.ask(say("from the lobby")))
    waiting.start()
    while not batcher.metrics().waiting:
        time.sleep(0.001)
    assert not batcher.drain(0.05)
    with pytest.raises(ServerLostError, match="draining"):
        batcher.ask_nowait(say("more"))
    engine.gate.set()
    assert batcher.drain(PATIENCE) and all(future.done() for future in futures)
    waiting.join(PATIENCE)
    assert engine.batches[-1] == ["from the lobby"] and balanced(batcher)


def test_close_leaves_no_future_open(make: Callable[..., Batcher], engine: Scripted) -> None:
    """What is queued fails at once; what the model is at may finish, but not for ever; and closing twice is closing."""
    batcher = make(max_queue=3)
    running = hold(batcher, engine)
    futures = [batcher.ask_nowait(say(str(i))) for i in range(3)]
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            batcher.ask(say("from the lobby"))
        except ServerLostError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not batcher.metrics().waiting:
        time.sleep(0.001)
    began = time.monotonic()
    batcher.close(timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 2
    thread.join(PATIENCE)
    assert errors and all(isinstance(future.exception(0), ServerLostError) for future in [running, *futures])
    engine.gate.set()
    batcher.close()
    with pytest.raises(ServerLostError, match="closed"):
        batcher.ask(say("more"))
    assert balanced(batcher)


def test_close_waits_for_the_running_batch(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make()
    running = hold(batcher, engine)
    threading.Timer(0.1, engine.gate.set).start()
    batcher.close()
    assert text(running.result(0)) == "gate"


def test_close_and_asks_from_a_callback(make: Callable[..., Batcher]) -> None:
    """A future's callback runs in the batcher's own thread, and may still use the batcher."""
    batcher = make()
    done = threading.Event()
    again: list[Future[Reply]] = []

    def callback(future: "Future[Reply]") -> None:
        again.append(batcher.ask_nowait(say("again")))
        batcher.close()
        done.set()

    batcher.ask_nowait(say("a")).add_done_callback(callback)
    assert done.wait(PATIENCE)
    assert isinstance(again[0].exception(PATIENCE), ServerLostError)


def test_a_callback_that_fails_harms_nobody_else(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make()
    hold(batcher, engine)
    futures = [batcher.ask_nowait(say(str(i))) for i in range(3)]

    def leave(_: object) -> None:
        raise SystemExit

    futures[0].add_done_callback(leave)
    engine.gate.set()
    assert [text(future.result(PATIENCE)) for future in futures] == list("012")
    assert text(batcher.ask(say("on"))) == "on"


def test_a_closed_event_loop_is_forgotten(make: Callable[..., Batcher], engine: Scripted) -> None:
    """Its asks go on, but nobody is told, and nothing breaks."""
    batcher = make()
    loop = asyncio.new_event_loop()
    task = loop.create_task(batcher.ask_async(say("gate")))
    loop.run_until_complete(asyncio.sleep(0.05))
    assert engine.gate_reached.wait(PATIENCE)
    loop.close()
    engine.gate.set()
    assert text(batcher.ask(say("on"))) == "on"
    assert balanced(batcher) and batcher.metrics().answered == 2
    del task


def test_threads_and_tasks_share_a_batch(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make()
    hold(batcher, engine)
    future = batcher.ask_nowait(say("thread"))

    async def story() -> Reply:
        task = asyncio.create_task(batcher.ask_async(say("task")))
        await asyncio.sleep(0.05)
        engine.gate.set()
        return await task

    reply = asyncio.run(story())
    assert (text(reply), text(future.result(PATIENCE)), reply.batch) == ("task", "thread", 2)


class Talker(EchoEngine):
    """Says its words one by one, each when it may; notes how far each batch came, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_say = threading.Semaphore(0)
        self.said_words: list[int] = []

    def stream(self, asks: Sequence[Ask], audience: Audience) -> list[Answer | Exception]:
        texts = [said(ask).split(" ") for ask in asks]
        self.said_words.append(0)
        for step in range(max(map(len, texts))):
            assert self.may_say.acquire(timeout=PATIENCE)
            self.said_words[-1] += 1
            speaking = [place for place in audience.places if step < len(texts[place])]
            left = audience.tell({place: " " * (step > 0) + texts[place][step] for place in speaking})
            if any("raise" in text[: step + 1] for text in texts):
                raise RuntimeError("a tensor of the wrong shape")
            if len(left) == len(asks):
                break
        return self.answer(asks)


def test_words_are_heard_as_they_are_made() -> None:
    talker = Talker()

    async def listen(batcher: Batcher) -> None:
        heard: asyncio.Queue[str] = asyncio.Queue()
        asking = asyncio.ensure_future(batcher.ask_async(say("one two three"), hear=heard.put_nowait))
        for word in ("one", " two", " three"):
            assert heard.empty() and not asking.done()
            talker.may_say.release()
            assert await asyncio.wait_for(heard.get(), PATIENCE) == word
        assert text(await asking) == "one two three" and heard.empty()

    with Batcher(talker) as batcher:
        asyncio.run(listen(batcher))


def test_listeners_of_a_batch_that_fails_hear_nothing_twice() -> None:
    """The batch breaks off after its second word, and its halves begin anew; the bad ask alone fails."""
    talker = Talker()
    heard = {"one two three": "", "x raise": "", "four": ""}

    def hear(whole: str, piece: str) -> None:
        heard[whole] += piece

    async def listen(batcher: Batcher) -> None:
        held = asyncio.ensure_future(batcher.ask_async(say("hold"), hear=lambda piece: None))
        while not talker.said_words:
            await asyncio.sleep(0.001)
        asking = [batcher.ask_async(say(each), hear=partial(hear, each)) for each in heard]
        together = asyncio.ensure_future(asyncio.gather(*asking, return_exceptions=True))
        await asyncio.sleep(0)
        for _ in range(20):
            talker.may_say.release()
        first, bad, last = await together
        assert text(await held) == "hold"
        assert text(first) == "one two three" and text(last) == "four" and isinstance(bad, EngineError)

    with Batcher(talker) as batcher:
        asyncio.run(listen(batcher))
    assert talker.said_words == [1, 2, 3, 2, 2, 1]
    assert heard == {"one two three": "one two three", "x raise": "x raise", "four": "four"}


def test_a_twin_that_joins_in_the_middle_hears_it_all_and_who_only_waits_is_not_disturbed() -> None:
    talker, parts = Talker(), list[str]()

    async def listen(batcher: Batcher) -> None:
        first: asyncio.Queue[str] = asyncio.Queue()
        asking = asyncio.ensure_future(batcher.ask_async(say("one two three"), hear=first.put_nowait))
        talker.may_say.release()
        await asyncio.wait_for(first.get(), PATIENCE)
        joined = asyncio.ensure_future(batcher.ask_async(say("one two three"), hear=parts.append))
        waiting = asyncio.ensure_future(batcher.ask_async(say("one two three")))
        await asyncio.sleep(0)
        talker.may_say.release(2)
        assert [text(reply) for reply in await asyncio.gather(asking, joined, waiting)] == ["one two three"] * 3

    with Batcher(talker) as batcher:
        asyncio.run(listen(batcher))
    assert parts == ["one two", " three"] and talker.said_words == [3]


def test_a_model_stops_speaking_when_the_last_listener_has_left() -> None:
    """And the half answer is neither kept nor anybody else's."""
    talker = Talker()

    async def listen(batcher: Batcher) -> None:
        heard: asyncio.Queue[str] = asyncio.Queue()
        asking = asyncio.ensure_future(batcher.ask_async(say("one two three four"), hear=heard.put_nowait))
        talker.may_say.release()
        await asyncio.wait_for(heard.get(), PATIENCE)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        talker.may_say.release()
        while batcher.metrics().in_flight:
            await asyncio.sleep(0.001)
        talker.may_say.release(4)
        assert text(await batcher.ask_async(say("one two three four"), hear=heard.put_nowait)) == "one two three four"

    with Batcher(talker, cache_bytes=1 << 20) as batcher:
        asyncio.run(listen(batcher))
        assert talker.said_words == [2, 4] and balanced(batcher)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0; it must be at least 1"),
        ({"max_queue": 0}, "max_queue is 0"),
        ({"max_wait": -1.0}, "max_wait is -1.0"),
        ({"max_wait": float("nan")}, "max_wait is nan"),
        ({"cache_bytes": -1}, "cache_bytes is -1"),
        ({"max_padding": 1.5}, r"max_padding is 1.5; it is a share, in \[0, 1\]"),
        ({"hang_seconds": 0.0}, "hang_seconds is 0.0; it must be above 0, or None"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batcher(EchoEngine(), **options)  # type: ignore[arg-type]


def test_bad_asks_are_refused_before_they_are_queued(make: Callable[..., Batcher], engine: Scripted) -> None:
    batcher = make()
    with pytest.raises(AskError, match="refused"):
        batcher.ask_nowait(say("refuse"))
    with pytest.raises(AskError, match="str is no ask; there are Generate, Embed, Act"):
        batcher.ask("hi")  # type: ignore[arg-type]
    with pytest.raises(AskError, match="priority is 11; it is an integer from -10 to 10"):
        batcher.ask(say("a"), priority=11)
    for deadline in (-1.0, float("nan")):
        with pytest.raises(AskError, match="deadline is"):
            batcher.ask(say("a"), deadline=deadline)
    assert batcher.metrics().submitted == 0 and not engine.batches
