"""Actions as text and as numbers."""

from __future__ import annotations

from random import Random

import pytest

from palaestra.envs.android.actions import (
    KINDS,
    MOVES,
    Action,
    ActionError,
    ActionText,
    from_numbers,
    parse,
    perform,
    quoted,
    random_action,
    tap_at,
    to_numbers,
)
from palaestra.envs.android.device import Device


@pytest.mark.parametrize(
    "action",
    [tap_at(0.25, 0.5), Action("DUAL_POINT", (0.8, 0.5), (0.2, 0.5)), Action("PRESS_BACK"), Action("WAIT"),
     *(Action("TYPE", text=text)
       for text in ("", "a, b", 'say "hi"', "ünï ✓", "back\\slash", "two\nlines", "[0.1, 2]"))],
)  # fmt: skip
def test_texts_say_what_was_meant(action: Action) -> None:
    assert parse(str(action)) == action
    assert parse(f'Action Plan: [TYPE, "x", DUAL_POINT] ; {action}') == action


def test_digirls_own_line_is_read_with_y_first() -> None:
    line = (
        'Action Plan: [DUAL_POINT,STATUS_TASK_COMPLETE] ; Action Decision: "action_type": "DUAL_POINT", '
        '"touch_point": "[0.8500, 0.2500]", "lift_point": "[0.8500, 0.2500]", "typed_text": ""'
    )
    assert parse(line) == Action("DUAL_POINT", (0.85, 0.25), (0.85, 0.25))
    assert parse('"action_type": "TASK_IMPOSSIBLE"').kind == "STATUS_TASK_IMPOSSIBLE"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", 'no "action_type"'),
        ("gibberish " * 99, 'no "action_type"'),
        ('"action_type": "DUAL_PIONT"', "Did you mean 'DUAL_POINT'"),
        ('"action_type": "DUAL_POINT"', "touch_point is None"),
        ('"action_type": "DUAL_POINT", "touch_point": "[0.5]", "lift_point": "[0.5, 1]"', "touch_point is '\\[0.5\\]'"),
        ('"action_type": "DUAL_POINT", "touch_point": "[0.5, 1]", "lift_point": "[nan, 1]"', "lift_point"),
        ('"action_type": "DUAL_POINT", "touch_point": "[a, b]", "lift_point": "[1, 1]"', "touch_point"),
        ('"action_type": "TYPE"', "typed_text"),
        ('"action_type": "TYPE", "typed_text": "\\q"', "no JSON string"),
    ],
)
def test_what_says_no_action_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ActionError, match=complaint):
        parse(text)


def test_numbers_and_actions_are_the_same() -> None:
    words = quoted('Mail "Ada" the text "see you"')
    assert words == ["Ada", "see you"]
    for move in range(len(MOVES)):
        numbers = (float(move), 0.5, 0.5, 1.0)
        action = from_numbers(numbers, words)
        assert action.kind in KINDS
        back = from_numbers(to_numbers(action, words), words)
        assert back == action, MOVES[move]
    assert from_numbers((5.9, 0, 0, 1), words) == Action("TYPE", text="see you")


@pytest.mark.parametrize("numbers", [(-1, 0, 0, 0), (12, 0, 0, 0), (5, 0, 0, 2), (5, 0, 0, -1)])
def test_numbers_that_say_nothing_are_refused(numbers: tuple[float, ...]) -> None:
    with pytest.raises(ActionError):
        from_numbers(numbers, ["one", "two"])
    with pytest.raises(ActionError, match="not quoted"):
        to_numbers(Action("TYPE", text="three"), ["one"])


def test_actions_far_off_the_screen_do_nothing() -> None:
    device = Device(0)
    for y, x in ((-1.0, -1.0), (1.5, 0.5), (1e30, 1e30)):
        assert not perform(device, tap_at(y, x))
    assert device.place_name == "Home/home"


def test_what_is_said_at_length_may_be_sent_and_says_no_action() -> None:
    rambling = '"touch_point": "[' * 200
    assert len(rambling) <= ActionText().max_length
    with pytest.raises(ActionError, match="no \"action_type\""):
        parse(rambling)


def test_sampled_texts_are_actions() -> None:
    space = ActionText()
    space.seed(3)
    kinds = {parse(space.sample()).kind for _ in range(200)}
    assert kinds == {"DUAL_POINT", "PRESS_BACK", "PRESS_HOME", "PRESS_ENTER"}
    assert {random_action(Random(seed), ["a"]).kind for seed in range(200)} == kinds | {"TYPE"}
