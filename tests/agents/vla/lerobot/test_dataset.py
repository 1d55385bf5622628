"""A LeRobotDataset on disk trains the policy that LeRobot will deploy, and its statistics travel in the checkpoint."""

from pathlib import Path

import pytest
import torch

from palaestra.agents.flow.imitation import ImitationConfig, imitate, windows
from palaestra.agents.vla.lerobot.checkpoint import policy_for, read_policy, write_policy
from palaestra.agents.vla.lerobot.format import FormatError
from palaestra.agents.vla.lerobot.fresh import tiny_policy
from palaestra.envs import lerobot
from palaestra.envs.core import Worlds, WorldSpec
from palaestra.envs.episode import Episode
from palaestra.envs.manipulation.tabletop.world import demonstrate
from palaestra.envs.registry import make


@pytest.fixture(scope="module")
def spec(worlds: Worlds) -> WorldSpec:
    return worlds.spec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    """Demonstrations as they come back from a LeRobotDataset v3."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("data") / "tables"
    return list(lerobot.read(lerobot.write(folder, demonstrate(2, seed=3, pixels=32), fps=10)))


def test_from_data_to_checkpoint(spec: WorldSpec, data: list[Episode], tmp_path: Path) -> None:
    """The loss falls; the file's statistics are the data's quantiles; it is read for the same worlds, and no others."""
    torch.manual_seed(0)
    policy = tiny_policy("pi05", spec, horizon=4, steps=2)
    config = ImitationConfig(steps=12, batch=16, learning_rate=3e-3)
    losses = [metrics["train/imitation_loss"] for metrics in imitate(policy, data, config)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    written = write_policy(policy, tmp_path / "pi05")
    again = policy_for(spec, written)
    seen = windows(data, 4)
    assert seen.observation.state is not None
    torch.testing.assert_close(again.network.normaliser.q01, seen.observation.state.quantile(0.01, 0))  # type: ignore[union-attr]
    torch.testing.assert_close(again.scale.q99, seen.action[seen.mask].quantile(0.99, 0))
    torch.manual_seed(1)
    first = policy.act(seen.observation[torch.tensor([0, 5])]).action
    torch.manual_seed(1)
    assert torch.equal(first, again.act(seen.observation[torch.tensor([0, 5])]).action)  # type: ignore[arg-type]
    assert isinstance(first, torch.Tensor) and (first.abs() <= 1).all()
    other = make("tabletop/pick-place-v0", 1, chunk=2, pixels=48)
    with pytest.raises(FormatError, match=r"sees cameras .*32, 32, 3.*tabletop/pick-place-v0 has .*48, 48, 3"):
        policy_for(other.spec, written)
    other.close()


def test_data_that_lacks_a_camera(spec: WorldSpec, data: list[Episode]) -> None:
    """Said before the first gradient step."""
    policy = tiny_policy("smolvla", spec, horizon=4, steps=2)
    blind = [
        Episode(e.action, e.reward, e.success, e.seed, e.text, e.state, {"side": e.images["side"]}) for e in data
    ]
    with pytest.raises(ValueError, match=r"shows \['side'\]; the policy sees \['overhead', 'side'\]"):
        next(imitate(policy, blind, ImitationConfig(steps=2, batch=2)))


def test_worlds_and_sizes_that_do_not_fit(spec: WorldSpec, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="lacks pictures, text or proprioception, which pi0 reads"):
        tiny_policy("pi0", replace(spec, text=False), horizon=4)
    with pytest.raises(ValueError, match="n_action_steps is 2; it is 1 to chunk_size, 1"):
        tiny_policy("pi0", spec, horizon=1)
    policy = tiny_policy("pi0", spec, horizon=4)
    with pytest.raises(ValueError, match="'lora', but the backbone was made without adapters"):
        policy.network.tune("lora")  # type: ignore[attr-defined]
    assert read_policy(write_policy(policy, tmp_path / "pi0")).steps == 10
