import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from palaestra.agents.core import Decision
from palaestra.envs.core import Fault, Observation
from palaestra.envs.lockstep import LockstepWorlds
from palaestra.envs.toy import ReachEnv, expert_action
from palaestra.launch import result
from palaestra.launch.evaluate import Evaluation, PlayedEpisode, VoidEpisode, evaluate
from palaestra.launch.result import provenance, read_result, replay, write_result
from palaestra.launch.statistics import wilson

EPISODES = tuple(PlayedEpisode(seed, seed < 3, seed < 2, 0.1 * seed, 10 + seed) for seed in range(4))
VOID = (VoidEpisode(9, Fault(1, "step", "it broke")),)
EVALUATION = Evaluation("after", "info['success']", 5, 2, 5, EPISODES, VOID)
NEEDED = {
    "evaluation": "name success_definition episodes success_once success_at_end interval_once interval_at_end faults "
    "return_mean length_mean seed episode_list",
    "episode": "seed success_once success_at_end return length",
    "result": "format recipe world command commit versions seed machine evaluations",
}


def write(path: Path) -> dict[str, Any]:
    write_result(path, "reach", "toy/reach-v0", 3, [(EVALUATION, {"checkpoint": "checkpoints/000010"})])
    return read_result(path)


def test_result_json_holds_every_key_and_its_numbers(tmp_path: Path) -> None:
    document = write(tmp_path / "run" / "result.json")
    entry = document["evaluations"][0]
    assert set(document) == set(NEEDED["result"].split())
    assert set(NEEDED["evaluation"].split()) < set(entry)
    assert [set(episode) for episode in entry["episode_list"]] == [set(NEEDED["episode"].split())] * 4
    assert (document["format"], document["recipe"], document["world"], document["seed"]) == (
        1,
        "reach",
        "toy/reach-v0",
        3,
    )
    assert entry["success_once"] == 0.75 and entry["success_at_end"] == 0.5
    assert tuple(entry["interval_once"]) == wilson(3, 4) and tuple(entry["interval_at_end"]) == wilson(2, 4)
    assert entry["faults"] == 1 and entry["return_mean"] == pytest.approx(0.15) and entry["length_mean"] == 11.5
    assert entry["checkpoint"] == "checkpoints/000010"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result.json"]


def test_an_evaluation_goes_to_json_and_back() -> None:
    assert Evaluation.from_json(json.loads(json.dumps(EVALUATION.to_json()))) == EVALUATION


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    before = write(path)
    bad = Evaluation("after", "s", 5, 2, 5, (PlayedEpisode(1, True, True, float("nan"), 3),))
    with pytest.raises(ValueError, match="JSON compliant"):
        write_result(path, "reach", "toy/reach-v0", 3, [(bad, {})])
    assert read_result(path) == before and os.listdir(tmp_path) == ["result.json"]


def test_provenance_names_versions_and_machine_but_no_place_or_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", str(tmp_path / "runs" / "a b"), "--config=/etc/secret/x.json", "--episodes", "100"]
    monkeypatch.setattr(sys, "argv", ["/opt/somewhere/bin/palaestra", *arguments])
    found = provenance()
    assert found["command"] == "palaestra evaluate 'runs/a b' --config=x.json --episodes 100"
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert found["versions"]["python"].startswith("3.")
    assert found["machine"]["cpus"] >= 1
    text = json.dumps(found)
    for private in (socket.gethostname(), str(tmp_path), "/opt", "/etc", str(Path(result.__file__).parent.parent)):
        assert private not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "format None"),
        ('{"format": 2}', "format 2.*reads format 1"),
        ('{"format": 1, "recipe": "x"}', "lacks world, command"),
    ],
)
def test_a_result_that_is_none_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=rf"result\.json.*{message}"):
        read_result(tmp_path / "result.json")


class Expert:
    """The toy's own expert, disturbed by draws that the evaluation seeds."""

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def act(self, observation: Observation) -> Decision:
        """Decide."""
        assert observation.state is not None
        action = expert_action(observation.state)
        return Decision((action + self.noise * torch.randn_like(action))[:, None])


def reach(entry: Mapping[str, Any]) -> LockstepWorlds:
    return LockstepWorlds(ReachEnv(entry["count"]), id="toy/reach-v0")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "result.json"
    evaluations = [
        (evaluate(reach({"count": 4}), Expert(noise), 10, seed=6, name=name), {"noise": noise})
        for name, noise in (("before", 2.5), ("after", 1.0))
    ]
    assert 0 < (evaluations[0][0].success_once or 0) < 1
    return write_result(path, "reach", "toy/reach-v0", 0, evaluations)


def test_a_replay_plays_every_episode_again_and_finds_it_the_same(recorded: Path) -> None:
    replays = replay(recorded, reach, lambda entry: Expert(entry["noise"]))
    assert [again.recorded["name"] for again in replays] == ["before", "after"]
    assert [again.differences for again in replays] == [(), ()]
    assert replays[0].again.to_json() | {"noise": 2.5} == read_result(recorded)["evaluations"][0]


def test_a_replay_of_another_policy_names_the_episodes_that_differ(recorded: Path) -> None:
    before, after = replay(recorded, reach, lambda entry: Expert(1.0))
    assert after.differences == ()
    lost = next(episode for episode in before.recorded["episode_list"] if not episode["success_once"])
    assert f"episode of seed {lost['seed']}: success_once False was recorded, now True" in before.differences


def test_a_replay_on_other_worlds_names_what_differs(recorded: Path) -> None:
    document = json.loads(recorded.read_text())
    entry = document["evaluations"][1]
    entry["quota"], entry["episodes"] = 9, 9
    gone = entry["episode_list"].pop()
    entry["episode_list"][0]["seed"] = 123
    entry["faults"] = 1
    entry["success_definition"] = "other"
    altered = recorded.with_name("altered.json")
    altered.write_text(json.dumps(document | {"evaluations": [entry]}))
    (again,) = replay(altered, reach, lambda entry: Expert(entry["noise"]))
    assert set(again.differences) == {
        "success_definition: 'other' was recorded, now \"info['success']\"",
        "faults: 1 was recorded, now 0",
        "episode of seed 123 was recorded, but not played now",
        f"episode of seed {again.again.episode_list[0].seed} was played now, but not recorded",
    }
    assert gone["seed"] not in [episode.seed for episode in again.again.episode_list]
