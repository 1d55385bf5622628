"""The alignment bonus: neighbours by name, scores by hand, and the running scale against a plain mean."""

from __future__ import annotations

import statistics
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from palaestra.agents.vlm.client import connect
from palaestra.agents.vlm.core import Embed, Text, Vector
from palaestra.agents.vlm.engines.echo import EchoEngine
from palaestra.envs.driving.describe import LATERAL, LONGITUDINAL, action_bin, captions, speed_bin
from palaestra.envs.driving.world import DrivingEnv
from palaestra.rewards.similarity import AlignmentTeacher, RunningScale, alignment, embed_anchors, neighbours

NEAR = neighbours()


def behaviour(longitudinal: str, lateral: str) -> int:
    return LONGITUDINAL.index(longitudinal) * len(LATERAL) + LATERAL.index(lateral)


@pytest.mark.parametrize(
    ("longitudinal", "lateral", "count"),
    [
        *[(lon, lat, 3) for lon in ("braking hard", "braking", "accelerating fast", "accelerating gently")
          for lat in ("turning right", "turning left sharply")],
        *[("accelerating", lat, 5) for lat in ("turning right sharply", "turning left")],
        *[("idling", lat, 1) for lat in ("turning right", "turning left")],
        *[(lon, "going straight", 1)
          for lon in ("braking hard", "braking", "accelerating fast", "accelerating gently")],
        ("accelerating", "going straight", 2),
        ("idling", "going straight", 0),
    ],
)
def test_neighbours_by_name(longitudinal: str, lateral: str, count: int) -> None:
    assert int(NEAR[behaviour(longitudinal, lateral)].sum()) - 1 == count


def test_neighbourhood_is_mutual_and_everybody_is_his_own() -> None:
    assert torch.equal(NEAR, NEAR.T) and bool(NEAR.diagonal().all())


def test_there_are_720_captions() -> None:
    assert len(set(captions())) == 720


@pytest.mark.parametrize(
    ("speed", "number"), [(0.0, 0), (0.099, 0), (0.1, 1), (1.99, 1), (2.0, 2), (4.49, 2), (4.5, 3), (30.0, 3)]
)
def test_edges_of_speed(speed: float, number: int) -> None:
    assert int(speed_bin(torch.tensor([speed]))) == number


@pytest.mark.parametrize(
    ("action", "longitudinal", "lateral"),
    [
        ((-0.51, 0.0), "braking hard", "going straight"),
        ((-0.5, 0.049), "braking", "going straight"),
        ((-0.05, 0.05), "idling", "turning right"),
        ((0.05, 0.3), "idling", "turning right"),
        ((0.051, 0.31), "accelerating gently", "turning right sharply"),
        ((0.31, -0.05), "accelerating", "turning left"),
        ((0.81, -0.31), "accelerating fast", "turning left sharply"),
    ],
)
def test_edges_of_behaviour(action: tuple[float, float], longitudinal: str, lateral: str) -> None:
    assert int(action_bin(torch.tensor([action]))) == behaviour(longitudinal, lateral)


def test_scores_by_hand() -> None:
    taken = torch.tensor([behaviour("braking", "turning left")])
    uniform = torch.zeros(1, 30)
    assert alignment(uniform, taken, NEAR).item() == 0
    own = torch.full((1, 30), -1e4)
    own[0, taken] = 0.0
    assert alignment(own, taken, NEAR).item() == 1
    for neighbour in (behaviour("braking hard", "turning left"), behaviour("braking", "turning left sharply")):
        beside = torch.full((1, 30), -1e4)
        beside[0, neighbour] = 0.0
        assert alignment(beside, taken, NEAR).item() == 0
    # Half on its own anchor, a quarter on a neighbour, a quarter on another: a half less a quarter.
    shares = torch.full((1, 30), 1e-9)
    shares[0, taken], shares[0, behaviour("braking hard", "turning left")] = 0.5, 0.25
    shares[0, behaviour("idling", "going straight")] = 0.25
    assert alignment(shares.log(), taken, NEAR).item() == pytest.approx(0.25)


def test_the_running_scale_is_that_of_all_numbers_so_far() -> None:
    scale, numbers = RunningScale(), torch.rand(200).tolist()
    for at, number in enumerate(numbers, 1):
        found = scale(number)
        if at > 20:
            so_far = numbers[:at]
            expected = (number - statistics.fmean(so_far)) / statistics.pstdev(so_far)
            assert found == pytest.approx(expected, abs=2e-2)


def teacher_of(env: DrivingEnv, client: Any) -> AlignmentTeacher:
    def picture(rows: torch.Tensor) -> torch.Tensor:
        return torch.randint(0, 256, (len(rows), 4, 4, 3), dtype=torch.uint8)

    return AlignmentTeacher(env, "clip", embed_anchors(client, "clip"), picture)


def test_bonuses_are_bounded_and_belong_to_what_was_done() -> None:
    env = DrivingEnv(6, maps="arterial", vehicles=0, walkers=0, map_count=1)
    env.reset(seed=list(range(6)))
    action = 2 * torch.rand(4, 2) - 1
    with connect({"clip": EchoEngine()}) as client:
        teacher = teacher_of(env, client)
        assert teacher.anchors.shape[:3] == (6, 4, 30)
        rows = torch.tensor([5, 0, 3, 1])
        for _ in range(20):
            for place, (ask, note) in enumerate(teacher.asks(rows, action)):
                assert isinstance(ask, Embed) and note is not None
                assert int(note[2]) == int(action_bin(action[place : place + 1]))
                assert int(note[1]) == int(speed_bin(env.state.vehicles.speed[rows[place], :1]))
                bonus = teacher.read(client.ask("clip", ask).answer, note)
                assert abs(float(bonus)) <= 0.25


def test_the_caption_of_what_was_done_earns_the_most() -> None:
    env = DrivingEnv(1, maps="arterial", vehicles=0, walkers=0, map_count=1)
    anchors = torch.nn.functional.normalize(torch.randn(6, 4, 30, 64), dim=-1)
    teacher = AlignmentTeacher(env, "clip", anchors, lambda rows: torch.zeros(len(rows), 4, 4, 3, dtype=torch.uint8))
    for _ in range(20):
        teacher.read(Vector(torch.nn.functional.normalize(torch.randn(64), dim=0)), torch.tensor([2, 1, 7]))
    right = teacher.read(Vector(anchors[2, 1, 7]), torch.tensor([2, 1, 7]))
    wrong = teacher.read(Vector(anchors[2, 1, 22]), torch.tensor([2, 1, 7]))
    assert float(right) == 0.25 and float(wrong) < 0


def test_a_prior_undoes_the_ratio_of_likelihoods() -> None:
    env = DrivingEnv(1, maps="arterial", vehicles=0, walkers=0, map_count=1)
    anchors, prior = torch.zeros(6, 4, 30, 2), torch.full((6, 4, 30), -1e4)
    prior[..., 3] = 0.0
    draw = lambda rows: torch.zeros(len(rows), 4, 4, 3, dtype=torch.uint8)  # noqa: E731
    teacher = AlignmentTeacher(env, "clip", anchors, draw, prior=prior)
    view, other = Vector(torch.zeros(2)), torch.tensor([0, 0, 4])
    for _ in range(5):
        teacher.read(view, other)
    assert float(teacher.read(view, torch.tensor([0, 0, 3]))) == 0.25


@pytest.mark.parametrize("answer", [Text("a car"), Vector(torch.ones(3)), Vector(torch.full((32,), torch.nan))])
def test_what_is_no_vector_of_the_captions_model_is_refused(answer: Any) -> None:
    env = DrivingEnv(1, maps="arterial", vehicles=0, walkers=0, map_count=1)
    with connect({"clip": EchoEngine()}) as client:
        teacher = teacher_of(env, client)
    with pytest.raises(ValueError, match="vector"):
        teacher.read(answer, torch.tensor([0, 0, 0]))


def test_a_model_that_embeds_nothing_is_refused() -> None:
    class Talker:
        def ask_nowait(self, model: str, ask: Any, wait: bool) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(type("Reply", (), {"answer": Text("hello")}))
            return future

    with pytest.raises(ValueError, match="needs a CLIP model"):
        embed_anchors(Talker(), "clip")  # type: ignore[arg-type]


def test_the_running_scale_goes_on_bit_for_bit_from_what_was_saved() -> None:
    one, two, numbers = RunningScale(), RunningScale(), torch.rand(100).tolist()
    for number in numbers[:50]:
        one(number)
    two.load_state_dict(one.state_dict())
    assert [one(number) for number in numbers[50:]] == [two(number) for number in numbers[50:]]
