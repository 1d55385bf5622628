"""Anybody's world of tools and any checkpoint: rows in, a checkpoint that can be served out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palaestra.agents.grpo.imitation import ImitationConfig
from palaestra.agents.grpo.learner import GRPOConfig
from palaestra.agents.vlm.checkpoint import is_adapter
from palaestra.agents.vlm.core import Generate, Message
from palaestra.agents.vlm.engines import open_engine
from palaestra.launch.config_conversation import ToolsRecipe, conversation_from_json
from palaestra.launch.result import read_result
from palaestra.launch.tools import read_rows
from palaestra.launch.train import resume, train

SHOP = '''
PRICES = {"apple": 3, "pear": 4}


class Shop:
    """Answer questions about prices."""

    def reset(self, question: str, answer: str) -> str:
        self.answer = answer
        return question

    def price(self, item: str) -> str:
        """Return the price of an item."""
        return str(PRICES[item])

    def reward(self, answer: str | None) -> float:
        return float(answer == self.answer)
'''


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToolsRecipe:
    (tmp_path / "palaestra_test_shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [
        {"question": f"What is {word}?", "answer": right, "says": [f"<price>{word}</price>", said]}
        for word, right in (("apple", "3"), ("pear", "4"))
        for said in (f"<answer>{right}</answer>", "<answer>9</answer>")
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    asked = [{key: value for key, value in row.items() if key != "says"} for row in rows[::2]]
    (tmp_path / "held_out.jsonl").write_text("\n".join(map(json.dumps, asked)))
    return ToolsRecipe(
        world="palaestra_test_shop:Shop", rows=str(tmp_path / "rows.jsonl"), held_out=str(tmp_path / "held_out.jsonl"),
        imitation=ImitationConfig(trajectories=64, epochs=10, batch=16), grpo=GRPOConfig(group=4),
        iterations=2, prompts=2, every=1, longest=8,
    )  # fmt: skip


def test_rows_and_a_class_are_enough(shop: ToolsRecipe, tmp_path: Path) -> None:
    run = train(shop, tmp_path / "run")
    result = read_result(run / "result.json")
    assert [one["name"] for one in result["evaluations"]] == ["before", "before, sampled", "after", "after, sampled"]
    assert all(one["episodes"] == 2 for one in result["evaluations"])
    assert conversation_from_json(run / "config.json") == shop
    # Half of what the teacher says is wrong, but it always looks the price up and answers: so does who imitates it.
    engine = open_engine("transformers", str(run / "model"))
    asked = Generate((Message("user", ("What is pear?",)),), max_tokens=8)
    assert engine.answer([asked])[0].text.startswith("<price>")  # type: ignore[union-attr]

    adapted = replace(shop, model=str(run / "model"), rank=4, rows=shop.held_out, iterations=1)
    again = train(adapted, tmp_path / "adapted")
    assert is_adapter(again / "model")
    (again / "result.json").unlink()
    assert resume(again) == again and (again / "result.json").is_file()


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(shop: ToolsRecipe, tmp_path: Path) -> None:
    whole = train(replace(shop, imitation=ImitationConfig(trajectories=16, epochs=2, batch=16)), tmp_path / "whole")
    part = tmp_path / "part"
    recipe = conversation_from_json(whole / "config.json")
    assert recipe is not None
    train(recipe, part)
    for late in (part / "result.json", part / "checkpoints" / "000002"):
        for file in late.iterdir() if late.is_dir() else [late]:
            file.unlink()
        if late.is_dir():
            late.rmdir()
    resume(part)
    ours, theirs = (
        torch.cat([value.flatten().float() for value in _weights(run).values()]) for run in (whole, part)
    )
    assert torch.equal(ours, theirs)


def _weights(run: Path) -> dict[str, torch.Tensor]:
    from palaestra.launch.checkpoint import latest, load

    found = latest(run)
    assert found is not None
    return {name: value for name, value in load(found)[0].items() if name.startswith("learner.speaker.")}


def test_what_cannot_work_is_said_before_anything_starts(shop: ToolsRecipe, tmp_path: Path) -> None:
    for wrong, message in (
        ({"rows": ""}, "rows is '', which is no file: give JSON Lines"),
        ({"model": "nowhere"}, "model is 'nowhere', which holds no config.json"),
        ({"rank": -1}, "rank is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            train(replace(shop, **wrong), tmp_path / "run")  # type: ignore[arg-type]
    for text, message in (
        ("\n", "has no rows"),
        ('{"question": 1}\n[1, 2]', "line 2: expected a JSON object"),
        ('{"says": [1]}', "line 1: 'says' is a list of what a teacher says"),
        ("{", "line 1: expected a JSON object"),
    ):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_rows(tmp_path / "bad.jsonl")
