"""Many phones as one vector environment."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from palaestra.envs.android.actions import MOVES
from palaestra.envs.android.tasks import TEMPLATES
from palaestra.envs.android.world import PhoneEnv
from palaestra.envs.check import assert_contract
from palaestra.envs.registry import make


@pytest.mark.parametrize("options", [{"actions": "text"}, {"actions": "numbers", "preset": "wild"}])
def test_phones_keep_the_contract(options: dict[str, str]) -> None:
    report = assert_contract("android/phone-v0", **options)
    assert report.of("determinism").verdict == report.of("later starts").verdict == "pass"


def test_the_expert_ends_every_episode_well_through_the_contract() -> None:
    worlds = make("android/phone-v0", count=8, split="test")
    phones: PhoneEnv = worlds.venv  # type: ignore[attr-defined]
    step = worlds.reset(seed=1)
    done = np.zeros(8, bool)
    for _ in range(20):
        worlds.send(step.rows, phones.expert())
        step = worlds.recv()
        done |= step.success_once.numpy()
        assert (step.reward == step.success.float()).all()
    assert done.all()


def test_previous_screens_and_last_actions_are_shown() -> None:
    phones = PhoneEnv(2, templates=["turn"])
    first, _ = phones.reset(seed=[3, 4])
    assert (first["screen"] == first["previous"]).all()
    assert all(text.endswith("\n") for text in first["text"])
    before, said = first["screen"].copy(), phones.expert()
    second, *_ = phones.step(said)
    assert (second["previous"] == before).all() and (second["screen"] != before).any()
    assert [text.split("\n")[1] for text in second["text"]] == said


def test_rows_do_not_depend_on_their_neighbours() -> None:
    one, many = PhoneEnv(1, preset="wild"), PhoneEnv(3, preset="wild")
    alone, _ = one.reset(seed=[7])
    together, _ = many.reset(seed=[5, 6, 7])
    for _ in range(15):
        assert (alone["screen"][0] == together["screen"][2]).all() and alone["text"][0] == together["text"][2]
        said = one.expert()
        alone, *_ = one.step(said)
        together, *_ = many.step(["WAIT", said[0][:5], said[0]])


def test_wrong_actions_do_nothing_and_say_why() -> None:
    phones = PhoneEnv(3)
    before, _ = phones.reset(seed=0)
    screens = before["screen"].copy()
    view, reward, terminated, truncated, info = phones.step(["", '"action_type": "TAPP"', "x" * 10_000])
    assert (view["screen"] == screens).all() and not reward.any() and not terminated.any() and not truncated.any()
    assert [bool(said) for said in info["invalid"]] == [True] * 3 and "TAPP" in info["invalid"][1]
    assert len(view["text"][2]) < 900


def test_giving_up_ends_an_episode_without_success() -> None:
    phones = PhoneEnv(2, actions="numbers", max_steps=3)
    phones.reset(seed=0)
    wait, over = MOVES.index("wait"), MOVES.index("complete")
    numbers = np.array([[over, 0, 0, 0], [wait, 0, 0, 0]], np.float32)
    _, reward, terminated, truncated, _ = phones.step(numbers)
    assert terminated.tolist() == [True, False] and not reward.any() and not truncated.any()
    phones.step(numbers)
    *_, truncated, _ = phones.step(numbers)
    assert truncated.tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"templates": ["open-ap"]}, "Did you mean 'open-app'"),
        ({"templates": ["stopwatch"]}, "held out"),
        ({"split": "dev"}, "split is 'dev'"),
        ({"level": 4}, "level is 4"),
        ({"preset": "stormy"}, "no preset"),
        ({"height": 0}, "height is 0"),
        ({"actions": "json"}, "actions is 'json'"),
        ({"family": "games"}, "family is 'games'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PhoneEnv(1, **options)
    with pytest.raises(ValueError, match="one seed a phone"):
        PhoneEnv(2).reset(seed=[1])


def test_levels_and_families_choose_tasks() -> None:
    assert {template.level for template in PhoneEnv(1, level=1).templates} == {1}
    shops = make("android/web-shop-v0", count=1)
    assert all(template.name.startswith(("shop", "web")) for template in shops.venv.templates)  # type: ignore[attr-defined]
    train = {template.name for template in PhoneEnv(1).templates}
    test = {template.name for template in PhoneEnv(1, split="test").templates}
    assert train < test == set(TEMPLATES)


def test_texts_travel_to_the_rows_they_were_sent_to() -> None:
    worlds = make("android/phone-v0", count=3, templates=["open-app"])
    step = worlds.reset(seed=2)
    expert = worlds.venv.expert()  # type: ignore[attr-defined]
    worlds.send(torch.tensor([2, 0]), [expert[2], "nothing"])
    worlds.send(torch.tensor([1]), ["nothing"])
    step = worlds.recv()
    assert step.success.tolist() == [False, False, True]
    with pytest.raises(ValueError, match="chunk is 2"):
        make("android/phone-v0", count=1, chunk=2)


def test_a_step_takes_well_under_a_millisecond() -> None:
    phones = PhoneEnv(64, actions="numbers")
    phones.reset(seed=0)
    random = np.random.default_rng(0)
    high = phones.single_action_space.high  # type: ignore[attr-defined]
    begin = time.process_time()
    for _ in range(20):
        phones.step((high * random.random((64, 4))).astype(np.float32))
    assert (time.process_time() - begin) / (20 * 64) < 1e-3
