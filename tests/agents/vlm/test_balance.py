"""Several servers behind one client, over real HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from palaestra.agents.vlm.balance import BalancedClient
from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.core import AskError, Generate, Message, ServerLostError, Text
from palaestra.agents.vlm.engines.echo import EchoEngine
from palaestra.launch.server.app import App
from palaestra.launch.server.routes import ROUTES
from palaestra.launch.server.run import background


@contextmanager
def server(name: str, delay: float = 0.0) -> Iterator[str]:
    with Batcher(EchoEngine(delay, name)) as echo, background(App({"echo": echo}, ROUTES, drain_seconds=0)) as url:
        yield url


def hello(text: str) -> Generate:
    return Generate((Message("user", (text,)),))


def test_equal_servers_share_the_work_and_a_slow_one_gets_less() -> None:
    with (
        server("quick", 0.005) as quick,
        server("slow", 0.05) as slow,
        BalancedClient([quick, slow]) as client,
    ):
        lock, versions = threading.Lock(), []

        def ask(index: int) -> None:
            for turn in range(10):
                reply = client.ask("echo", hello(f"{index} {turn}"))
                assert isinstance(reply.answer, Text) and reply.answer.text == f"{index} {turn}"
                with lock:
                    versions.append(reply.version)

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(versions) == 40
    assert versions.count("quick") > versions.count("slow") > 0


def test_a_lost_servers_asks_are_answered_elsewhere_and_it_comes_back_under_another_address() -> None:
    with ExitStack() as stack:
        first = stack.enter_context(server("first"))
        mortal = ExitStack()
        second = mortal.enter_context(server("second", 0.5))
        client = stack.enter_context(BalancedClient([first, second]))
        futures = [client.ask_nowait("echo", hello(str(index))) for index in range(8)]
        time.sleep(0.1)
        mortal.close()  # with half of them unanswered
        assert [future.result(10).answer.text for future in futures] == [str(index) for index in range(8)]  # type: ignore[union-attr]
        assert {client.ask("echo", hello("again")).version for _ in range(4)} == {"first"}
        client.leave(second)
        third = stack.enter_context(server("third"))
        client.join(third)
        assert {client.ask("echo", hello("new")).version for _ in range(4)} == {"first", "third"}
        assert client.urls == (first, third)
        assert set(client.metrics()) == {f"echo at {first}", f"echo at {third}"}


def test_where_no_server_is_there_asks_fail_at_once_and_are_counted() -> None:
    with server("gone") as url:
        client = BalancedClient([url])
        assert client.models() == {"echo": "gone"}
    with client:
        for _ in range(3):
            with pytest.raises(ServerLostError):
                client.ask("echo", hello("anyone"))
        assert client.counts.missed == 3
        with pytest.raises(ServerLostError, match="none of 1 servers"):
            client.metrics()


def test_a_wrong_ask_is_no_reason_to_try_elsewhere() -> None:
    with server("a") as a, server("b") as b, BalancedClient([a, b]) as client:
        with pytest.raises(AskError):
            client.ask("echo", Generate((Message("system", ("no user",)),)))
        counts = client.metrics()
        assert sum(each["submitted"] for each in counts.values()) == 0
        assert client.counts.failed == 1
