from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from palaestra.envs.spaces import (
    Layout,
    action_from_json,
    action_to_json,
    batched,
    checked,
    checked_actions,
    checked_text,
    describe,
)

NESTED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (2, 3, 3), np.uint8),
        "agent": spaces.Dict({"b": spaces.Box(-1, 1, (2,)), "a": spaces.Box(-1, 1, (1,), np.float64)}),
        "goal": spaces.Box(-1, 1, ()),
        "instruction": spaces.Text(5),
    }
)


def test_leaves_go_to_their_parts_in_sorted_order() -> None:
    layout = describe(NESTED)
    assert [entry.key for entry in layout.entries] == ["agent.a", "agent.b", "camera", "goal", "instruction"]
    assert (layout.state, layout.images, layout.text) == (4, {"camera": (2, 3, 3)}, 20)
    assert Layout.from_json(layout.to_json()) == layout


def test_plain_spaces_have_the_names_of_their_part() -> None:
    assert describe(spaces.Box(0, 1, (7,))).state == 7
    assert describe(spaces.Box(0, 255, (4, 5, 1), np.uint8)).images == {"image": (4, 5, 1)}
    assert describe(spaces.Text(3)).text == 12


def test_batched_joins_vectors_in_the_layouts_order() -> None:
    observation = {
        "camera": np.zeros((2, 2, 3, 3), np.uint8),
        "agent": {"b": np.array([[2.0, 3.0], [6.0, 7.0]], np.float32), "a": np.array([[1.0], [5.0]])},
        "goal": torch.tensor([4.0, 8.0]),
        "instruction": ("go", "stop"),
    }
    seen = batched(describe(NESTED), observation)
    assert seen.state is not None and seen.state.dtype == torch.float32
    assert seen.state.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert seen.images["camera"].shape == (2, 2, 3, 3) and seen.text == ("go", "stop")
    with pytest.raises(ValueError, match=r"lacks key 'agent\.a'"):
        batched(describe(NESTED), {**observation, "agent": {"b": 0}})


@pytest.mark.parametrize(
    ("space", "name"),
    [
        (spaces.Dict({"depth": spaces.Box(0, 1, (4, 4, 1))}), "key 'depth'"),
        (spaces.Discrete(3), "the observation space is Discrete"),
        (spaces.Dict({"a": spaces.Text(3), "b": spaces.Text(3)}), "one Text, got 2: a, b"),
    ],
)
def test_what_has_no_place_is_refused_by_name(space: gymnasium.Space[Any], name: str) -> None:
    with pytest.raises(TypeError, match=name):
        describe(space)


def test_values_outside_their_declaration_are_named() -> None:
    (vector,) = describe(spaces.Box(-1, 1, (3,))).entries
    np.testing.assert_array_equal(checked(vector, np.array([1.0, 2.0, 3.0])), [1, 2, 3])
    with pytest.raises(ValueError, match=r"shape \(2,\), declared is \(3,\)"):
        checked(vector, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="dtype int64, declared is float32"):
        checked(vector, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="holds nan at index 1"):
        checked(vector, np.array([0, np.nan, 0], np.float32))
    (words,) = describe(spaces.Text(2)).entries
    assert checked_text(words, "äö") == "äö".encode()
    with pytest.raises(ValueError, match="at most 2 characters"):
        checked_text(words, "123456789")
    with pytest.raises(ValueError, match="is int"):
        checked_text(words, 3)


def test_actions_are_the_agents_fault_and_named_by_row() -> None:
    box = spaces.Box(-1, 1, (2,))
    sent = checked_actions(box, [4, 7], torch.tensor([[0.0, 1.0], [2.0, -3.0]]), 1)
    np.testing.assert_array_equal(sent, [[[0, 1]], [[2, -3]]])  # bounds are left to the world
    with pytest.raises(ValueError, match=r"row 7 is \[\[0.0, nan\]\].*Box"):
        checked_actions(box, [4, 7], torch.tensor([[[0, 1]], [[0, float("nan")]]]), 1)
    with pytest.raises(ValueError, match=r"shape \[1, 2\], expected \[1, 3, 2\]"):
        checked_actions(box, [0], torch.zeros(1, 2), 3)
    discrete = spaces.Discrete(3, start=2)
    assert checked_actions(discrete, [0], torch.tensor([4]), 1).tolist() == [[4]]
    for wrong in (1, 5, 2.5):
        with pytest.raises(ValueError, match=f"row 0 is .{wrong}"):
            checked_actions(discrete, [0], torch.tensor([wrong]), 1)
    text = spaces.Text(4)
    assert checked_actions(text, [0, 1], ["tap", "home"], 1) == ["tap", "home"]
    with pytest.raises(ValueError, match="row 1 is 'swipe'"):
        checked_actions(text, [0, 1], ["tap", "swipe"], 1)
    with pytest.raises(ValueError, match="1 strings for 2 rows"):
        checked_actions(text, [0, 1], ["tap"], 1)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-0.1, -np.inf], np.float32), np.array([0.1, 7], np.float32), dtype=np.float32),
        spaces.Discrete(4, start=-1),
        spaces.Text(9, min_length=2, charset="abc "),
    ],
)
def test_action_spaces_survive_json(space: gymnasium.Space[Any]) -> None:
    assert action_from_json(action_to_json(space)) == space


def test_other_action_spaces_are_refused() -> None:
    with pytest.raises(TypeError, match="MultiBinary"):
        action_to_json(spaces.MultiBinary(3))
