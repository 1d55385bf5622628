"""LeRobot's policies behind the batcher: padding-aware batches, bad asks refused at the door, versions side by side."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.vla.lerobot.checkpoint import policy_spec, write_policy
from palaestra.agents.vla.player import ChunkPlayer
from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.client import connect
from palaestra.agents.vlm.core import Act, Action, AskError, WeightsError
from palaestra.agents.vlm.engines.policy import PolicyEngine
from palaestra.envs.core import Observation
from palaestra.launch.serve import open_policy


def row(view: Observation, index: int, text: str) -> Observation:
    """Return one world's part of a view, with other words."""
    return replace(view[torch.tensor([index])], text=(text,))


def test_a_folder_is_served_and_replaced(
    folders: dict[str, Path], policies: dict[str, FlowPolicy], view: Observation, tmp_path: Path
) -> None:
    """As `palaestra serve --model arm=policy:FOLDER` opens it; weights of another kind of policy are refused."""
    engine = open_policy(str(folders["pi0"]))
    torch.manual_seed(0)
    (answer,) = engine.answer([Act(row(view, 0, "go"))])
    torch.manual_seed(0)
    alone = policies["pi0"].act(row(view, 0, "go")).action
    assert isinstance(answer, Action) and isinstance(alone, torch.Tensor)
    torch.testing.assert_close(answer.action, alone[0])
    other = engine.load(write_policy(policies["pi05"], tmp_path / "pi05"))
    assert other.version != engine.version
    spec = policy_spec(folders["pi0"])
    assert spec.images == {"base": (20, 28, 3), "wrist": (32, 32, 3)} and spec.chunk == 4 and spec.state == 5
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        engine.load(tmp_path)


def test_bad_asks_are_refused_before_they_wait(
    policies: dict[str, FlowPolicy], folders: dict[str, Path], view: Observation
) -> None:
    engine = PolicyEngine(policies["smolvla"], policy_spec(folders["smolvla"]), "v1")
    good = row(view, 0, "go")
    engine.check(Act(good))
    wrong = [
        (row(view, 0, "word " * 90), "prompts of at most 48: say it shorter"),
        (row(view, 0, " "), "is empty"),
        (replace(good, images={"base": good.images["base"]}), "expects as image 'wrist'"),
        (replace(good, images={**good.images, "base": good.images["base"].float()}), "torch.uint8"),
    ]
    for observation, message in wrong:
        with pytest.raises(AskError, match=message):
            engine.check(Act(observation))
    assert engine.size(Act(good)) == 3 and engine.size(Act(row(view, 0, "go there"))) == 9


def test_long_prompts_do_not_slow_short_ones(
    policies: dict[str, FlowPolicy], folders: dict[str, Path], view: Observation
) -> None:
    """Asks of like length share a batch: with no padding allowed, two short prompts and two long ones make two."""
    spec = policy_spec(folders["smolvla"])
    engine = PolicyEngine(policies["smolvla"], spec, "v1")
    short, long = row(view, 0, "go"), row(view, 1, "put the red cube on the plate")
    with connect({"a": Batcher(engine, max_padding=0.0, max_wait=0.5, max_batch=4)}) as client:
        futures = [client.ask_nowait("a", Act(seen), wait=True) for seen in (short, long, short, long)]
        assert [future.result().batch for future in futures] == [2, 2, 2, 2]


def test_versions_side_by_side(policies: dict[str, FlowPolicy], folders: dict[str, Path], view: Observation) -> None:
    """Two policies behind one client, each played by a world of its own, the next chunk asked for ahead."""
    engines = {
        kind: PolicyEngine(policies[kind], policy_spec(folders[kind]), kind) for kind in ("smolvla", "pi0")
    }
    with connect(engines) as client:
        def ask(model: str, seen: Observation) -> object:
            return client.ask_nowait(model, Act(seen), wait=True)

        players = {kind: ChunkPlayer(partial(ask, kind), 2) for kind in engines}  # type: ignore[arg-type]
        for _ in range(6):
            for index, player in enumerate(players.values()):
                assert player.act(row(view, index, "go")).shape == (3,)
    assert all(set(player.versions) == {kind} for kind, player in players.items())
