"""The engine without a model."""

import json
import time
from pathlib import Path

import pytest
import torch

from palaestra.agents.vlm.core import (
    Act,
    Action,
    AskError,
    Embed,
    Generate,
    Message,
    Picture,
    Text,
    Vector,
    WeightsError,
)
from palaestra.agents.vlm.engines.echo import WIDTH, EchoEngine
from palaestra.envs.core import Observation

GREY = Picture(torch.full((2, 2, 3), 128, dtype=torch.uint8))


def test_it_says_what_the_user_said_last() -> None:
    talk = Generate((Message("user", ("a",)), Message("user", ("b", GREY, "c")), Message("assistant", ("d",))))
    assert EchoEngine().answer([talk]) == [Text("bc")]


def test_it_chooses_what_the_user_said_or_else_the_first() -> None:
    said = (Message("user", ("no",)),)
    yes, no = EchoEngine().answer([Generate(said, choices=("yes", "maybe")), Generate(said, choices=("yes", "no"))])
    assert isinstance(yes, Text) and isinstance(no, Text)
    assert (yes.text, no.text, no.scores) == ("yes", "no", (-1.0, 0.0))


def test_vectors_have_length_one_and_depend_on_the_content_alone() -> None:
    answers = EchoEngine().answer([Embed("a"), Embed("b"), Embed("a"), Embed(GREY)])
    a, b, again, grey = [answer.values for answer in answers if isinstance(answer, Vector)]
    assert torch.equal(a, again) and a.shape == (WIDTH,) and a.dtype == torch.float32
    torch.testing.assert_close(torch.stack([a, b, grey]).norm(dim=1), torch.ones(3))
    assert max(abs(float(a @ b)), abs(float(a @ grey))) < 0.9


def test_it_acts_with_the_state() -> None:
    (answer,) = EchoEngine().answer([Act(Observation(state=torch.tensor([[1.0, 2.0]])))])
    assert isinstance(answer, Action) and torch.equal(answer.action, torch.tensor([[1.0, 2.0]]))


def test_it_takes_its_time() -> None:
    began = time.monotonic()
    EchoEngine(delay=0.05).answer([Embed("a")] * 3)
    assert 0.05 <= time.monotonic() - began < 0.15


def test_it_refuses_what_it_cannot_echo() -> None:
    with pytest.raises(AskError, match="role 'user'"):
        EchoEngine().check(Generate((Message("system", ("a",)),)))
    with pytest.raises(AskError, match="one world"):
        EchoEngine().check(Act(Observation(state=torch.zeros(2, 3))))


def test_other_weights_are_a_version_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "echo.json"
    path.write_text(json.dumps({"version": "v2"}))
    old = EchoEngine(0.5)
    new = old.load(path)
    assert (new.version, new.delay, old.version) == ("v2", 0.5, "echo")
    path.write_text(json.dumps({"version": "v3", "delay": 0}))
    assert EchoEngine(0.5).load(path).delay == 0


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": 3}', '{"version": "a", "delay": -1}', '{"version": "a", "delay": NaN}']
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "echo.json").write_text(text)
    with pytest.raises(WeightsError, match=r"echo\.json"):
        EchoEngine().load(tmp_path / "echo.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.json"):
        EchoEngine().load(tmp_path / "none.json")
