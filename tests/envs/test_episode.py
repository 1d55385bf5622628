import dataclasses

import pytest
import torch

from palaestra.envs.episode import Episode


def make(**changes: object) -> Episode:
    fields: dict = {
        "action": torch.zeros(3, 2),
        "reward": torch.ones(3),
        "success": True,
        "seed": 7,
        "state": torch.zeros(4, 5),
        "images": {"front": torch.zeros(4, 8, 8, 3, dtype=torch.uint8)},
    }
    return Episode(**(fields | changes))


def test_length_counts_actions() -> None:
    assert len(make()) == 3


def test_state_and_images_may_be_absent() -> None:
    episode = make(state=None, images={})
    assert episode.state is None and len(episode) == 3


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": torch.zeros(0, 2)}, "T >= 1"),
        ({"action": torch.zeros(3)}, "Episode.action has shape .3,."),
        ({"reward": torch.zeros(4)}, "Episode.reward.*T = 3"),
        ({"state": torch.zeros(3, 5)}, r"Episode.state has shape .3, 5.*T \+ 1 = 4"),
        ({"images": {"front": torch.zeros(3, 8, 8, 3, dtype=torch.uint8)}}, r"images\['front'\].*T \+ 1 = 4"),
        ({"images": {"front": torch.zeros(4, 8, 8, 3)}}, "expected torch.uint8"),
        ({"action": torch.zeros(3, 2, dtype=torch.float64)}, "expected torch.float32"),
        ({"reward": torch.tensor([0.0, float("nan"), 1.0])}, "Episode.reward is not finite at index 1"),
        ({"state": torch.full((4, 5), float("inf"))}, "Episode.state is not finite at index 0"),
    ],
)
def test_bad_fields_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)
