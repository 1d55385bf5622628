"""Worlds that are written for one episode: messages with pictures, clocks, processes with limits, names."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from palaestra.envs.retrieval import registry
from palaestra.envs.retrieval.check import check_tools, is_tools
from palaestra.envs.retrieval.core import Reply, Turn
from palaestra.envs.retrieval.episodes import Clocks, EpisodeWorlds, full_worlds
from palaestra.envs.retrieval.isolation import Limits
from palaestra.envs.retrieval.tools import ToolWorlds
from palaestra.launch.commands import check_command


class Pictures:
    """Show a grey level, count guesses, and end when it is guessed."""

    def reset(self, level: int) -> Turn:
        self.level = level
        return Turn("How bright?", (torch.full((2, 3, 1), level, dtype=torch.uint8),))

    async def step(self, action: str) -> Turn | Reply | str:
        await asyncio.sleep(0)
        if not action.isdigit():
            raise ValueError("say a number")
        if int(action) == self.level:
            return Reply(None, "answered", answer=action, reward=1.0)
        return "brighter" if int(action) < self.level else Turn(images=(torch.zeros(1, 1, 1, dtype=torch.uint8),))


class Trouble:
    """Tools that misbehave."""

    def reset(self, wait: float = 0.0) -> str:
        time.sleep(wait)
        self.calls = 0
        return "go"

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def hang(self) -> str:
        time.sleep(60)
        return ""

    def eat(self) -> str:
        return str(len(bytearray(1 << 31)))

    def die(self) -> str:
        import os

        os._exit(7)

    def write(self, path: str) -> str:
        with open(path, "wb") as file:
            file.write(bytes(3 << 20))
        return "written"

    def refuse(self) -> str:
        raise LookupError("not here")


class Judged(Trouble):
    def reward(self, answer: str | None) -> float:
        if answer == "crash":
            raise OSError("no judge")
        return 0.5


@pytest.mark.parametrize("limits", [None, Limits()], ids=["here", "apart"])
def test_messages_with_pictures(limits: Limits | None) -> None:
    """The full interface, the same in this process and in others: pictures arrive byte for byte."""
    worlds = full_worlds(Pictures, turns=3, limits=limits)
    try:
        first = worlds.reset([{"level": 7}, {"level": 200}])
        assert [turn.text for turn in first] == ["How bright?"] * 2
        assert torch.equal(first[1].images[0], torch.full((2, 3, 1), 200, dtype=torch.uint8))
        low, wrong = worlds.step([0, 1], ["5", "very"])
        assert low.turn is not None and low.turn.text == "brighter" and low.turn.anchor != first[0].anchor
        assert wrong.turn is not None and wrong.turn.invalid and "say a number" in wrong.turn.text
        done, high = worlds.step([0, 1], ["7", "255"])
        assert (done.outcome, worlds.records[0].reward, worlds.records[0].answer) == ("answered", 1.0, "7")
        assert high.turn is not None and high.turn.images[0].shape == (1, 1, 1)
        worlds.step([1], ["1"])
        (cut,) = worlds.step([1], ["2"])
        assert cut.outcome == "turns" and worlds.records[1].reward == 0 and worlds.records[1].invalid == 1
        with pytest.raises(ValueError, match="episode is over"):
            worlds.step([1], ["2"])
    finally:
        worlds.close()


@pytest.fixture
def apart() -> Iterator[EpisodeWorlds]:
    """Five rows in processes of their own; the server that forks them has been started."""
    limits = Limits(memory_mb=512, file_mb=1)
    worlds = ToolWorlds(Judged, clocks=Clocks(call=20.0), limits=limits)
    worlds.reset([{}] * 5)
    yield worlds
    worlds.close()


def test_limits_and_clocks_of_processes(apart: EpisodeWorlds, tmp_path: Path) -> None:
    """One hangs in code that nothing can interrupt, one eats memory, one dies, one writes too much; one is well."""
    apart._clocks = Clocks(call=1.0)
    file = tmp_path / "big"
    calls = ["<hang></hang>", "<eat></eat>", "<die></die>", f"<write>{file}</write>", "<count></count>"]
    began = time.monotonic()
    replies = apart.step(range(5), calls)
    assert time.monotonic() - began < 15
    assert [reply.outcome for reply in replies] == ["environment"] * 4 + [None]
    problems = ("TimeoutError", "MemoryError", "exit code 7", "File too large")
    assert all(problem in reply.error for reply, problem in zip(replies, problems, strict=False)), replies
    assert not file.exists() or file.stat().st_size <= 1 << 20
    assert all(record.reward is None for record in apart.records[:4])
    apart._clocks = Clocks()
    apart.reset([{}] * 5)  # what broke is made anew
    assert [reply.turn and reply.turn.text for reply in apart.step(range(5), ["<count></count>"] * 5)] == ["1"] * 5


def test_outcomes_of_processes(apart: EpisodeWorlds) -> None:
    replies = apart.step([0, 1, 2], ["<refuse></refuse>", "<answer>crash</answer>", "<answer>fine</answer>"])
    assert replies[0].turn is not None and replies[0].turn.invalid and "not here" in replies[0].turn.text
    assert replies[1].outcome == "judge" and "no judge" in replies[1].error and apart.records[1].answer == "crash"
    assert replies[2].outcome == "answered" and apart.records[2].reward == 0.5


def test_the_clocks_of_boot_and_episode() -> None:
    """A world that is slow to start voids its own episode; an episode that lasts too long ends at its next action."""

    class Slow:
        async def reset(self, wait: float) -> str:
            await asyncio.sleep(wait)
            return "go"

        def look(self) -> str:
            return "seen"

    worlds = ToolWorlds(Slow, clocks=Clocks(boot=0.2, episode=0.3))
    worlds.reset([{"wait": 5}, {"wait": 0}])
    late, well = worlds.step([0, 1], ["<look></look>"] * 2)
    assert late.outcome == "environment" and "did not start: TimeoutError" in late.error
    assert well.turn is not None and well.turn.text == "seen"
    time.sleep(0.35)
    (over,) = worlds.step([1], ["<look></look>"])
    assert over.outcome == "environment" and "more than 0.3 s" in over.error


def test_wrong_tasks_stop_the_program() -> None:
    """A task that `reset` does not take is a mistake in the data: it is no world that broke."""
    with pytest.raises(TypeError, match="colour"):
        ToolWorlds(Trouble).reset([{"colour": 1}])
    with pytest.raises(TypeError, match="level"):
        full_worlds(Pictures).reset([{}])
    for options in ({"turns": 0}, {"live": 0}, {"clocks": Clocks(call=0)}):
        with pytest.raises(ValueError, match="must be positive"):
            ToolWorlds(Trouble, **options)  # type: ignore[arg-type]


def test_worlds_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_worlds.py").write_text(
        "class Shop:\n"
        "    def reset(self, q: str) -> str:\n        return q\n"
        "    def price(self, item: str) -> str:\n        return '3'\n"
        "class Maze(Shop):\n    def step(self, action: str) -> str:\n        return action\n"
        "shop = Shop()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(registry.open_worlds("my_worlds:Shop"), ToolWorlds)
    maze = registry.open_worlds("my_worlds:Maze", turns=2)
    maze.reset([{"q": "?"}])
    assert maze.step([0], ["left"])[0].turn.text == "left"  # type: ignore[union-attr]
    assert "retrieval/ledger-v0" in registry.names()
    for wrong, kind, message in (
        ("retrieval/leger-v0", ValueError, "Did you mean 'retrieval/ledger-v0'"),
        ("my_worlds:Nothing", ImportError, "does not load"),
        ("my_worlds:shop", TypeError, "expected a class"),
    ):
        with pytest.raises(kind, match=message):
            registry.open_worlds(wrong)


def test_a_world_of_tools_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an agent reads, and what is missing; Gymnasium's worlds are still checked as such."""
    (tmp_path / "his_worlds.py").write_text(
        "class Shop:\n"
        "    def reset(self, q: str) -> str:\n        return q\n"
        "    def price(self, item: str) -> str:\n        return '3'\n"
        "class Bad:\n    def reset(self) -> str:\n        return ''\n"
        "    def look(self, where) -> str:\n        return ''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    shown = check_tools("his_worlds:Shop")
    assert '"required": ["item"]' in shown and "price has no docstring" in shown and "no reward" in shown
    with pytest.raises(TypeError, match="'where' has the hint None"):
        check_tools("his_worlds:Bad")
    assert is_tools("retrieval/ledger-v0") and is_tools("his_worlds:Bad")
    assert not is_tools("toy/reach-v0") and not is_tools("nowhere:X") and not is_tools("gymnasium:Env")
    assert check_command(["retrieval/ledger-v0"]) == 0 and "2 tools" in capsys.readouterr().out


def test_a_plug_in_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its entry point; two packages with one name are named both."""
    from importlib.metadata import EntryPoint

    def points(values: list[str]) -> Any:
        entries = [EntryPoint("me/ledger-v0", value, registry.GROUP) for value in values]
        return lambda group, name=None: [entry for entry in entries if name in (None, entry.name)]

    monkeypatch.setattr(registry, "entry_points", points(["palaestra.envs.retrieval.ledger:Ledger"]))
    assert "me/ledger-v0" in registry.names()
    assert registry.open_worlds("me/ledger-v0").schema[1]["function"]["name"] == "price"  # type: ignore[attr-defined]
    monkeypatch.setattr(registry, "entry_points", points(["a:B", "c:D"]))
    with pytest.raises(ValueError, match="several owners: a:B, c:D"):
        registry.find("me/ledger-v0")
