"""Forwarding to an OpenAI-compatible server, which here is ours."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest
import torch

from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.core import (
    Act,
    Answer,
    Ask,
    AskError,
    Embed,
    EngineError,
    Generate,
    Message,
    Picture,
    ServerLostError,
    Text,
    Vector,
    WeightsError,
)
from palaestra.agents.vlm.engines import open_engine
from palaestra.agents.vlm.engines.echo import EchoEngine
from palaestra.agents.vlm.engines.openai_engine import OpenAIEngine
from palaestra.launch.server.app import App
from palaestra.launch.server.routes import ROUTES
from palaestra.launch.server.run import background

TOKEN = "correct-horse-battery-staple"


class Counting(EchoEngine):
    """Echoes slowly, and notes the largest batch: how many asks were on their way at once."""

    def __init__(self) -> None:
        super().__init__(delay=0.005, version="there-1")
        self.largest = 0

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        self.largest = max(self.largest, len(asks))
        if any(isinstance(ask, Generate) and ask.messages[0].content == ("raise",) for ask in asks):
            raise RuntimeError("out of memory")
        return super().answer(asks)


Upstream: TypeAlias = tuple[str, Counting, Batcher]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """A server's address, the engine of its wide model, and the batcher of its narrow one."""
    counting, narrow = Counting(), Batcher(EchoEngine(0.005, "o"), max_batch=1, max_queue=1)
    app = App({"org/vlm-7b": Batcher(counting), "narrow": narrow}, ROUTES, token=TOKEN)
    with background(app) as url:
        yield url, counting, narrow


@pytest.fixture
def engine(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIEngine]:
    monkeypatch.setenv("UPSTREAM_TOKEN", TOKEN)
    engine = open_engine("openai", f"{upstream[0]}/v1", model="org/vlm-7b", token_env="UPSTREAM_TOKEN", concurrency=3)
    assert isinstance(engine, OpenAIEngine)
    yield engine
    engine.close()


def say(text: str) -> Generate:
    return Generate((Message("user", (text,)),))


def test_a_batch_is_forwarded_in_order_and_few_at_a_time(engine: OpenAIEngine, upstream: Upstream) -> None:
    answers = engine.answer([say(f"{i}") for i in range(20)])
    assert [answer.text for answer in answers if isinstance(answer, Text)] == [f"{i}" for i in range(20)]
    assert engine.version == "there-1" and upstream[1].largest in (2, 3)


def test_refusals_are_waited_out(engine: OpenAIEngine, upstream: Upstream) -> None:
    """Ten asks, three at a time, through a queue of one."""
    answers = engine.load(Path("narrow")).answer([say(f"{i}") for i in range(10)])
    assert [answer.text for answer in answers if isinstance(answer, Text)] == [f"{i}" for i in range(10)]
    assert upstream[2].metrics().refused > 0


def test_pictures_and_choices_go_along(engine: OpenAIEngine) -> None:
    picture = Picture(torch.randint(0, 256, (6, 5, 3)).to(torch.uint8))
    choice = Generate((Message("user", ("b",)),), choices=("a", "b"))
    chosen, vector = engine.answer([choice, Embed(picture)])
    (expected,) = EchoEngine().answer([Embed(picture)])
    assert isinstance(chosen, Text) and chosen.text == "b" and chosen.scores == (-1.0, 0.0)
    assert isinstance(vector, Vector) and isinstance(expected, Vector) and torch.equal(vector.values, expected.values)


def test_what_fails_there_fails_alone_here(engine: OpenAIEngine) -> None:
    good, bad, wrong = engine.answer([say("good"), say("raise"), Generate((Message("system", ("x",)),))])
    assert isinstance(good, Text) and good.text == "good"
    assert isinstance(bad, EngineError) and "out of memory" in str(bad)
    assert isinstance(wrong, AskError)


def test_what_the_api_does_not_know_is_refused(engine: OpenAIEngine) -> None:
    from palaestra.envs.core import Observation

    with pytest.raises(AskError, match="observations"):
        engine.check(Act(Observation(state=torch.ones(1, 2))))


def test_another_model_takes_over_or_is_refused(engine: OpenAIEngine) -> None:
    other = engine.load(Path("narrow"))
    assert other.version == "o" and isinstance(other.answer([say("x")])[0], Text)
    assert isinstance(engine.answer([say("x")])[0], Text)
    with pytest.raises(WeightsError, match="no model 'absent'"):
        engine.load(Path("absent"))


def test_a_model_must_be_chosen_where_there_are_several(upstream: Upstream, engine: OpenAIEngine) -> None:
    with pytest.raises(ValueError, match="choose with model=… among narrow, org/vlm-7b"):
        OpenAIEngine(upstream[0], token_env="UPSTREAM_TOKEN")


def test_tokens_come_from_the_environment(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPSTREAM_TOKEN", raising=False)
    with pytest.raises(ValueError, match="UPSTREAM_TOKEN is not set"):
        OpenAIEngine(upstream[0], "narrow", token_env="UPSTREAM_TOKEN")
    with pytest.raises(ValueError, match="token_env"):
        OpenAIEngine(upstream[0], "narrow")


def test_a_server_that_is_away_is_said_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(ServerLostError, match="cannot be reached"):
        OpenAIEngine("http://127.0.0.1:9", "m")
    assert time.monotonic() - began < 5


def test_the_server_is_lost_while_asking() -> None:
    with background(App({"m": Batcher(EchoEngine())}, ROUTES, drain_seconds=1)) as url:
        engine = OpenAIEngine(url, retries=1)
        assert isinstance(engine.answer([say("x")])[0], Text)
    answers = engine.answer([say("x"), say("y")])
    assert all(isinstance(answer, ServerLostError) for answer in answers)
    engine.close()


def test_kinds_and_options_are_named_when_wrong() -> None:
    with pytest.raises(ValueError, match="Did you mean 'transformers'"):
        open_engine("transformer", "x")
    with pytest.raises(ValueError, match="Did you mean 'delay'"):
        open_engine("echo", "", dealy=3)
    assert open_engine("echo", "", version="v").version == "v"
    also = {"mine": lambda path, times: EchoEngine(version=path * times)}
    assert open_engine("mine", "here", also=also, times=2).version == "herehere"
