"""Every template: the expert solves it, doing nothing or anything does not, and damage is seen."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from palaestra.envs.android.actions import parse, perform, quoted, random_action
from palaestra.envs.android.device import Device
from palaestra.envs.android.noise import noise_named
from palaestra.envs.android.oracle import Hand
from palaestra.envs.android.tasks import TEMPLATES
from palaestra.envs.android.tasks.template import SPLITS, Split, Task, Template, start

STEPS = {1: 3, 2: 8, 3: 11}
"""The most actions that the expert takes on a calm phone, by level."""


def splits(template: Template) -> tuple[Split, ...]:
    return ("test",) if template.held_out else ("train", "test")


def play_expert(device: Device, task: Task, steps: int = 30) -> int | None:
    """Return how many actions the expert took, None where it failed."""
    hand = Hand(device)
    for count in range(1, steps + 1):
        action = task.template.oracle(hand, task.params)
        if action is None:
            return None
        perform(device, parse(str(action)))
        device.tick(2)
        if task.success(device):
            return count
    return None


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_expert_solves_it_on_a_calm_phone(name: str) -> None:
    template, device = TEMPLATES[name], Device(0)
    for split in splits(template):
        for seed in range(6):
            task = start(device, template, seed, split)
            assert not task.success(device), f"{task.instruction} is done before it begins"
            steps = play_expert(device, task)
            assert steps is not None and steps <= STEPS[template.level], (task.instruction, steps)


@pytest.mark.parametrize("preset", ["wild", "drift(4)"])
def test_the_expert_solves_all_on_unruly_phones(preset: str) -> None:
    device = Device(0, replace(noise_named(preset), captcha=0.0, german=0.5, autocorrect=0.2 * (preset == "wild")))
    failed = []
    for name, template in TEMPLATES.items():
        for seed in range(3):
            task = start(device, template, seed, "test")
            if play_expert(device, task, 60) is None:
                failed.append((name, seed, task.instruction))
    assert not failed


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_expert_finds_its_way_from_anywhere(name: str) -> None:
    """It is no script: it goes on from wherever twelve random actions have led, unless these did damage."""
    template, device, solved, tried = TEMPLATES[name], Device(0), 0, 0
    for seed in range(8):
        task = start(device, template, seed, "test")
        random = Random(seed)
        for _ in range(12):
            perform(device, random_action(random, quoted(task.instruction)))
        if not device.changes() and not task.success(device):
            tried += 1
            solved += play_expert(device, task, 40) is not None
    assert tried and solved == tried


@pytest.mark.parametrize("name", TEMPLATES)
def test_doing_nothing_does_nothing(name: str) -> None:
    template, device = TEMPLATES[name], Device(0)
    for seed in range(5):
        task = start(device, template, seed, "test")
        device.look()
        for _ in range(20):
            device.tick(2)
            assert not task.success(device)


def test_random_actions_solve_next_to_nothing() -> None:
    device, solved = Device(0), dict.fromkeys(TEMPLATES, 0)
    for name, template in TEMPLATES.items():
        for seed in range(6):
            task = start(device, template, 1000 + seed, "test")
            random = Random(seed)
            for _ in range(20):
                perform(device, random_action(random, quoted(task.instruction)))
                if task.success(device):
                    solved[name] += 1
                    break
    easy = {"open-app", "open-settings", "shop-go"}  # one or two taps at the right places
    assert sum(solved.values()) <= 0.05 * 6 * len(TEMPLATES), solved
    assert sum(count for name, count in solved.items() if name not in easy) <= 4, solved


@pytest.mark.parametrize("name", [name for name, template in TEMPLATES.items() if template.touches])
def test_damage_is_no_success(name: str) -> None:
    """The expert's solution does not count where something else was changed as well."""
    template, device = TEMPLATES[name], Device(0)
    for harm in ("setting", "contact", "file"):
        task = start(device, template, 3, "test")
        if harm == "setting":
            device.state.settings["system"]["haptic"] = "1"
        elif harm == "contact":
            database = device.database("com.google.android.contacts")
            database.update("contacts", 1, number="0")
        else:
            device.files["/storage/emulated/0/Download/virus.apk"] = b"!"
        hand = Hand(device)
        for _ in range(30):
            if template.goal(device, task.params):
                break
            action = template.oracle(hand, task.params)
            assert action is not None
            perform(device, action)
        assert template.goal(device, task.params) and task.damage(device) and not task.success(device), harm


def test_there_are_enough_templates_of_every_kind() -> None:
    assert len(TEMPLATES) >= 40
    assert {template.level for template in TEMPLATES.values()} == {1, 2, 3}
    assert {template.family for template in TEMPLATES.values()} == {"general", "web-shop"}
    held_out = [name for name, template in TEMPLATES.items() if template.held_out]
    assert 5 <= len(held_out) <= 15


@pytest.mark.parametrize("name", [name for name, template in TEMPLATES.items() if not template.held_out])
def test_splits_share_no_parameters(name: str) -> None:
    template = TEMPLATES[name]
    drawn = {split: {template.instruction.format(**template.draw(Random(seed), split)) for seed in range(300)}
             for split in splits(template)}  # fmt: skip
    assert not drawn["train"] & drawn["test"]
    assert len(drawn["train"]) > 1


def test_the_reworded_split_asks_for_known_tasks_in_words_that_training_never_uses_for_them() -> None:
    for template in (template for template in TEMPLATES.values() if template.wordings):
        asked = {split: [start(Device(0), template, seed, split) for seed in range(150)] for split in SPLITS}
        said = {split: {task.instruction for task in tasks} for split, tasks in asked.items()}
        assert not said["train"] & said["reworded"] and not said["train"] & said["test"], template.name
        wanted = {split: {str(task.params) for task in tasks} for split, tasks in asked.items()}
        if len(wanted["reworded"]) < 30:  # few enough to have been drawn all
            assert wanted["reworded"] == wanted["train"]
        words = {split: {word for text in texts for word in text.split()} for split, texts in said.items()}
        assert words["reworded"] <= words["train"], template.name


def test_instructions_quote_all_that_is_typed() -> None:
    device = Device(0)
    for template in TEMPLATES.values():
        task = start(device, template, 1, "test")
        hand, typed = Hand(device), []
        for _ in range(30):
            action = template.oracle(hand, task.params)
            if action is None or task.success(device):
                break
            typed += [action.text] if action.kind == "TYPE" else []
            perform(device, action)
        missing = set(typed) - set(quoted(task.instruction))
        assert not missing, (task.instruction, missing)
