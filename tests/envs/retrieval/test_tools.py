"""Worlds made of plain classes: the fifteen lines of the README, arguments, outcomes."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from palaestra.envs.retrieval.episodes import Clocks
from palaestra.envs.retrieval.ledger import Ledger, calculate, ledger_tasks
from palaestra.envs.retrieval.tools import ToolWorlds


class Shop:
    """Answer questions about prices."""

    def reset(self, question: str, answer: str) -> str:
        self.answer = answer
        return question

    def price(self, item: str) -> str:
        """Return the price of an item."""
        return {"apple": "3", "pear": "4"}[item]

    def reward(self, answer: str | None) -> float:
        return float(answer == self.answer)


class Odd:
    """Tools of all kinds."""

    def reset(self) -> str:
        return "go"

    def add(self, a: int, b: float, note: str = "") -> str:
        """Add two numbers."""
        return f"{a + b}{note}"

    def many(self, items: list[int]) -> int:
        return sum(items)

    def nothing(self) -> str:
        return "done"

    def crash(self) -> str:
        raise RuntimeError("wires crossed")

    async def wait(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"


def said(world: type, *actions: str, **options: Any) -> tuple[list[Any], ToolWorlds]:
    worlds = ToolWorlds(world, **options)
    row = {"question": "an apple?", "answer": "3"} if world is Shop else {}
    worlds.reset([row])
    return [worlds.step([0], [action])[0] for action in actions], worlds


def test_a_new_world_in_fifteen_lines() -> None:
    (reply, end), worlds = said(Shop, "<think>look</think><price> apple </price>", "<answer>3</answer>")
    assert reply.turn.text == "3" and end.outcome == "answered"
    assert worlds.records[0].reward == 1 and worlds.records[0].answer == "3"
    assert worlds.schema == [
        {
            "type": "function",
            "function": {
                "name": "price",
                "description": "Return the price of an item.",
                "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
            },
        }
    ]


def test_arguments() -> None:
    replies, _ = said(
        Odd, '<add>{"a": 1, "b": 2}</add>', '<add>{"a": 1, "b": 2.5, "note": "!"}</add>', "<many>[1, 2]</many>",
        "<nothing></nothing>", "<wait>0</wait>",
    )  # fmt: skip
    assert [reply.turn.text for reply in replies] == ["3.0", "3.5!", "3", "done", "waited"]


@pytest.mark.parametrize(
    ("action", "why"),
    [
        ("nonsense", "call a tool"),
        ("<add>1</add>", "JSON object with a, b, note"),
        ('<add>{"a": 1}</add>', "'b'"),
        ('<add>{"a": 1, "b": 2, "c": 3}</add>', "'c'"),
        ('<add>{"a": "1", "b": 2}</add>', "a is a int, got '1'"),
        ('<add>{"a": true, "b": 2}</add>', "got 'True'"),
        ('<add>{"a": 1,</add>', "no JSON"),
        ("<many>one</many>", "is a list"),
        ("<nothing>at all</nothing>", "nothing in it"),
        ("<unknown>1</unknown>", "call a tool (add, crash, many, nothing, wait)"),
        ("<reset></reset>", "call a tool"),
        ("<add>" + "[" * 100_000 + "</add>", "JSON object"),
        ("<many>" + "[" * 100_000 + "</many>", "is a list"),
    ],
)
def test_invalid_calls_are_told_why_and_cost_a_turn(action: str, why: str) -> None:
    (reply, after), worlds = said(Odd, action, "<nothing></nothing>")
    assert reply.turn.invalid and why in reply.turn.text and reply.outcome is None
    assert after.turn.text == "done" and worlds.records[0].invalid == 1


def test_outcomes_are_told_apart() -> None:
    """A tool that refuses, one that crashes, one that hangs, too many turns, a reward that breaks."""
    (reply,), worlds = said(Shop, "<price>plum</price>")
    assert reply.turn.invalid and reply.outcome is None
    (reply,), worlds = said(Odd, "<crash></crash>")
    assert reply.outcome == "environment" == worlds.records[0].outcome and "wires crossed" in reply.error
    assert worlds.records[0].reward is None
    (reply,), _ = said(Odd, "<wait>5</wait>", clocks=Clocks(call=0.05))
    assert reply.outcome == "environment" and "TimeoutError" in reply.error
    (_, reply), worlds = said(Shop, "<price>apple</price>", "<price>pear</price>", turns=1)
    assert reply.outcome == "turns" and worlds.records[0].reward == 0

    class Broken(Shop):
        def reward(self, answer: str | None) -> float:
            raise ConnectionError("no judge")

    worlds = ToolWorlds(Broken)
    worlds.reset([{"question": "?", "answer": "3"}])
    (end,) = worlds.step([0], ["<answer>3</answer>"])
    assert end.outcome == "judge" and worlds.records[0].reward is None


def test_asynchronous_tools_run_side_by_side() -> None:
    worlds = ToolWorlds(Odd)
    worlds.reset([{}] * 20)
    began = time.monotonic()
    replies = worlds.step(list(range(20)), ["<wait>0.1</wait>"] * 20)
    assert all(reply.turn and reply.turn.text == "waited" for reply in replies)
    assert time.monotonic() - began < 1.5


def test_classes_that_are_no_worlds() -> None:
    class Toolless:
        def reset(self) -> str:
            return ""

    class Unhinted(Toolless):
        def look(self, where) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
            return ""

    def refused(kind: type) -> Callable[[], None]:
        return lambda: ToolWorlds(kind) and None

    for kind, why in ((Toolless, "no tool"), (Unhinted, "'where' has the hint None"), (object, "no reset")):
        with pytest.raises(TypeError, match=why):
            refused(kind)()


def test_ledger() -> None:
    """The world of text alone, played by a script that looks up and calculates."""
    worlds = ToolWorlds(Ledger)
    tasks = ledger_tasks(5)
    turns = worlds.reset(tasks)
    for row, turn in enumerate(turns):
        count, first, others, second = (turn.text.split()[place] for place in (2, 4, 6, 8))
        prices = [worlds.step([row], [f"<price>{item}</price>"])[0].turn.text for item in (first, second)]  # type: ignore[union-attr]
        (reply,) = worlds.step([row], [f"<calculate>{count} * {prices[0]} + {others} * {prices[1]}</calculate>"])
        assert reply.turn is not None
        worlds.step([row], [f"<answer>{reply.turn.text}</answer>"])
    assert [record.reward for record in worlds.records] == [1.0] * 5
    assert json.dumps(tasks) == json.dumps(ledger_tasks(5)) != json.dumps(ledger_tasks(5, seed=1))


@pytest.mark.parametrize(("text", "value"), [("1 + 2 * 3", 7), ("(1 + 2) * -3", -9), ("7 / 2", 3.5)])
def test_calculate(text: str, value: float) -> None:
    assert calculate(text) == value


@pytest.mark.parametrize(
    "text", ["", "1 +", "1 / 0", "__import__('os')", "9 ** 9", "a", "1e400 * 0 if", "(" * 150, "1 " * 200]
)
def test_what_cannot_be_calculated(text: str) -> None:
    with pytest.raises(ValueError):
        calculate(text)
