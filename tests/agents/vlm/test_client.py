"""One client, two forms: the same answers, the same errors; and a server that goes away and comes back."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import pytest
import torch

from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.client import Client, connect
from palaestra.agents.vlm.core import (
    Act,
    Action,
    Answer,
    Ask,
    AskError,
    Embed,
    EngineError,
    Generate,
    LateError,
    Message,
    OverloadedError,
    Picture,
    Reply,
    ServerLostError,
    Text,
    UnknownModelError,
    Vector,
    WeightsError,
)
from palaestra.agents.vlm.engines.echo import EchoEngine
from palaestra.agents.vlm.faults import TokenError
from palaestra.agents.vlm.remote import RemoteClient
from palaestra.envs.core import Observation
from palaestra.launch.server.app import App
from palaestra.launch.server.routes import ROUTES
from palaestra.launch.server.run import background

PICTURE = Picture(torch.randint(0, 256, (20, 30, 3)).to(torch.uint8))
TOKEN = "correct-horse-battery-staple"


def say(text: str, **options: object) -> Generate:
    return Generate((Message("user", (text,)),), **options)  # type: ignore[arg-type]


class Gated(EchoEngine):
    """Echoes when it is let; raises on "raise"."""

    def __init__(self) -> None:
        super().__init__(version="v1")
        self.gate = threading.Event()
        self.gate.set()
        self.seen: list[Ask] = []

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        self.seen += asks
        assert self.gate.wait(20)
        if any(isinstance(ask, Generate) and ask.messages[0].content == ("raise",) for ask in asks):
            raise RuntimeError("out of memory")
        return super().answer(asks)


@pytest.fixture(params=["local", "remote"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Client, Gated]]:
    """A client of either form, and the engine behind it; the queue holds two asks."""
    engine = Gated()
    with ExitStack() as stack:
        batcher = stack.enter_context(Batcher(engine, max_batch=1, max_queue=2, name="m"))
        stack.callback(engine.gate.set)
        if request.param == "local":
            client = stack.enter_context(connect({"m": batcher}))
        else:
            app = App({"m": batcher}, ROUTES, token=TOKEN, weights_from=(tmp_path,))
            client = stack.enter_context(connect(stack.enter_context(background(app)), token=TOKEN))
        yield client, engine


def test_all_kinds_of_asks_are_answered(made: tuple[Client, Gated]) -> None:
    client, engine = made
    for _ in range(2):  # a remote client sends JSON until it knows whom it speaks to, then tensors
        text = client.ask("m", Generate((Message("user", (PICTURE, "hello")),)))
        assert isinstance(text.answer, Text) and text.answer.text == "hello" and text.version == "v1"
        asked = engine.seen[-1]
        assert isinstance(asked, Generate)
        seen = asked.messages[0].content[0]
        assert isinstance(seen, Picture) and torch.equal(seen.pixels, PICTURE.pixels)
        vector = client.ask("m", Embed(PICTURE)).answer
        assert isinstance(vector, Vector) and torch.equal(vector.values, _alone(Embed(PICTURE)).values)
        action = client.ask("m", Act(Observation({"top": PICTURE.pixels[None]}, torch.tensor([[0.1, 1e-20]])))).answer
        assert isinstance(action, Action) and torch.equal(action.action, torch.tensor([[0.1, 1e-20]]))


def _alone(ask: Embed) -> Vector:
    (answer,) = EchoEngine().answer([ask])
    assert isinstance(answer, Vector)
    return answer


@pytest.mark.parametrize(
    ("model", "ask", "options", "error", "reason"),
    [
        ("n", say("x"), {}, UnknownModelError, "no model is called 'n'"),
        ("m", Generate((Message("system", ("x",)),)), {}, AskError, "no message of role 'user'"),
        ("m", say("raise"), {}, EngineError, "out of memory"),
        ("m", say("x"), {"priority": 99}, AskError, "priority"),
        ("m", say("x"), {"deadline": 0.0}, LateError, "deadline"),
    ],
)
def test_errors_are_the_same_in_both_forms(
    made: tuple[Client, Gated], model: str, ask: Ask, options: dict[str, float], error: type[Exception], reason: str
) -> None:
    client, _ = made
    with pytest.raises(error, match=reason) as caught:
        client.ask(model, ask, **options)  # type: ignore[arg-type]
    assert type(caught.value) is error
    with pytest.raises(error, match=reason):
        client.ask_nowait(model, ask, **options).result(10)  # type: ignore[arg-type]
    assert client.counts.failed == 2 and client.counts.answered == 0


def test_a_training_loop_never_waits(made: tuple[Client, Gated]) -> None:
    """Asks go out, outcomes come back under their keys, whatever they are; nothing is lost or told twice."""
    client, engine = made
    client.ask("m", say("first"))
    engine.gate.clear()
    began = time.perf_counter()
    client.ask_nowait("m", say("running"), key="running")
    _until(lambda: len(engine.seen) == 2)
    for key in range(4):
        client.ask_nowait("m", say(f"{key}"), key=key)
    assert time.perf_counter() - began < 2
    _until(lambda: client.counts.failed == 2)
    full = dict(client.poll())
    assert len(full) == 2 and all(isinstance(each, OverloadedError) and each.retry_after > 0 for each in full.values())
    assert client.poll() == []
    engine.gate.set()
    _until(lambda: client.counts.answered == 4)
    answered = dict(client.poll())
    assert answered.keys() | full.keys() == {"running", 0, 1, 2, 3}
    for key, reply in answered.items():
        assert isinstance(reply, Reply) and isinstance(reply.answer, Text) and reply.answer.text == str(key)


def test_who_waits_is_not_refused(made: tuple[Client, Gated]) -> None:
    """`ask` waits for room: eight threads get through a queue of two."""
    client, engine = made
    engine.delay = 0.02
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda i=i: replies.append(client.ask("m", say(f"{i}")))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    texts = {reply.answer.text for reply in replies if isinstance(reply.answer, Text)}
    assert texts == {f"{i}" for i in range(8)}


def test_a_cancelled_ask_never_reaches_the_model(made: tuple[Client, Gated]) -> None:
    client, engine = made
    engine.gate.clear()
    client.ask_nowait("m", say("running"))
    _until(lambda: len(engine.seen) == 1)
    future = client.ask_nowait("m", say("regretted"), key="never polled")
    _until(lambda: client.metrics()["m"]["depth"] == 1)
    assert future.cancel()
    _until(lambda: client.metrics()["m"]["depth"] == 0)
    engine.gate.set()
    client.ask("m", say("last"))
    assert not any(ask == say("regretted") for ask in engine.seen)
    assert client.counts.cancelled == 1 and client.poll() == []


def test_event_loops_ask_too(made: tuple[Client, Gated]) -> None:
    client, _ = made

    async def both() -> list[Reply]:
        return await asyncio.gather(client.ask_async("m", say("a")), client.ask_async("m", say("b")))

    assert [reply.answer.text for reply in asyncio.run(both()) if isinstance(reply.answer, Text)] == ["a", "b"]


def test_models_metrics_and_weights(made: tuple[Client, Gated], tmp_path: Path) -> None:
    client, _ = made
    assert client.models() == {"m": "v1"}
    client.ask("m", say("x"))
    metrics = client.metrics()["m"]
    assert metrics["answered"] == 1 and metrics["model_seconds"] > 0
    (tmp_path / "new.json").write_text('{"version": "v2"}')
    (tmp_path / "wrong.json").write_text("{}")
    with pytest.raises(WeightsError):
        client.load("m", tmp_path / "wrong.json")
    assert client.load("m", tmp_path / "new.json") == "v2"
    assert client.models() == {"m": "v2"} and client.ask("m", say("x")).version == "v2"


def test_engines_given_to_connect_are_batched_and_closed_by_it() -> None:
    batcher = Batcher(EchoEngine())
    client = connect({"bare": EchoEngine(), "given": batcher})
    assert [client.ask(name, say("x")).version for name in ("bare", "given")] == ["echo", "echo"]
    client.close()
    with pytest.raises(ServerLostError):
        client.ask("bare", say("x"))
    assert batcher.state == "open"
    batcher.close()


def test_a_wrong_token_is_said() -> None:
    with background(App({"m": Batcher(EchoEngine())}, ROUTES, token=TOKEN)) as url, connect(url, token="no") as client:
        with pytest.raises(TokenError, match="wrong token"):
            client.models()
        with pytest.raises(TokenError, match="wrong token"):
            client.ask("m", say("x"))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://a:b@host", "http://host/?q=1", ""])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        connect(url)


# ---------------------------------------------------------------- a server that goes away


@contextmanager
def served(port: int) -> Iterator[None]:
    """An echo at a fixed port."""
    with background(App({"m": Batcher(EchoEngine())}, ROUTES, drain_seconds=1), port=port):
        yield


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_lost_server_costs_no_time_is_counted_and_found_again() -> None:
    port = free_port()
    with connect(f"http://127.0.0.1:{port}") as client:
        assert isinstance(client, RemoteClient)
        with served(port):
            assert client.ask("m", say("there")).version == "echo"
        with pytest.raises(ServerLostError, match="cannot be reached"):
            client.ask("m", say("gone"))
        assert client.away
        times = []
        for key in range(1000):
            began = time.perf_counter()
            client.ask_nowait("m", say("gone"), key=key)
            times.append(time.perf_counter() - began)
        assert median(times) < 1e-3
        outcomes = client.poll()
        assert [key for key, _ in outcomes] == list(range(1000))
        assert all(isinstance(error, ServerLostError) and "at once" in str(error) for _, error in outcomes)
        counts = client.counts
        assert (counts.asked, counts.answered, counts.missed, counts.failed) == (1002, 1, 1001, 0)
        with served(port):
            _until(lambda: not client.away)
            assert client.ask("m", say("back")).version == "echo"


def test_a_server_that_restarted_between_two_asks_is_not_missed() -> None:
    """The kept connection is dead, which is found out and mended within the ask."""
    port = free_port()
    with connect(f"http://127.0.0.1:{port}") as client:
        for _ in range(2):
            with served(port):
                client.ask("m", say("hello"))
        assert client.counts.missed == 0


def test_a_server_that_never_answers_is_lost_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with connect(url, timeout=0.2) as client, pytest.raises(ServerLostError, match="has not answered"):
            client.ask("m", say("x"))


def test_asks_are_bounded_and_fail_when_the_client_closes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = connect(f"http://127.0.0.1:{server.getsockname()[1]}", max_pending=3)
        futures = [client.ask_nowait("m", say("x")) for _ in range(5)]
        assert [isinstance(f.exception(1), OverloadedError) for f in futures[3:]] == [True, True]
        client.close()
        assert all(isinstance(f.exception(1), ServerLostError) for f in futures[:3])
        with pytest.raises(ServerLostError, match="closed"):
            client.ask("m", say("x"))
        client.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nOops",
        b"HTTP/1.1 302 Found\r\nLocation: http://evil/\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
)
def test_servers_that_talk_nonsense(answer: bytes) -> None:
    wrong = (EngineError, ServerLostError)
    with _talking(answer) as url, connect(url, timeout=2.0) as client, pytest.raises(wrong):
        client.ask("m", say("x"))


@pytest.mark.parametrize("ending", ["length", "chunked", "close"])
def test_answers_of_all_forms_are_read(ending: str) -> None:
    body = b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "length"}], "model": "other"}'
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    chunks = b"5\r\n%b\r\n%x;x=1\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body[5:]), body[5:])
    answer = {
        "length": head + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        "chunked": head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks,
        "close": head + b"\r\n" + body,
    }[ending]
    with _talking(answer) as url, connect(url) as client:
        reply = client.ask("m", say("x"))
        assert reply.answer == Text("hi", finish="length") and reply.version == "other"


@contextmanager
def _talking(answer: bytes) -> Iterator[str]:
    """A server that says one thing, byte by byte, to whatever it hears, and hangs up."""
    server = socket.create_server(("127.0.0.1", 0))

    def talk() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    connection.recv(65536)
                    for index in range(0, len(answer), 7):
                        connection.sendall(answer[index : index + 7])
                except OSError:
                    pass

    threading.Thread(target=talk, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


def _until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)
