"""Export: the file decides as the policy does, for any number of worlds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from palaestra.agents.found_rl.policy import DrivingPolicy
from palaestra.envs.core import Observation, WorldSpec
from palaestra.launch.export import export

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
BOX = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize("images", [pytest.param({}, marks=pytest.mark.slow), {"bev": (32, 32, 15)}])
def test_the_file_decides_as_the_policy(images: dict[str, tuple[int, int, int]], tmp_path: Path) -> None:
    spec = WorldSpec(id="test", action=BOX, state=9, images=images, chunk=2)
    policy = DrivingPolicy(spec, 32)
    torch.nn.init.normal_(policy.actor.leave.weight)
    policy.encoder.scale.fit(3 * torch.randn(50, 9) + 1)
    measured = export(policy, spec, tmp_path / "policy.onnx")
    assert measured["largest_difference"] < 1e-5
    assert 0 < measured["latency_ms"]["onnxruntime"] < 100
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        state = torch.randn(count, 9)
        shown = {name: torch.randint(0, 256, (count, *shape), dtype=torch.uint8) for name, shape in images.items()}
        given = {"state": state.numpy()} | {name: picture.numpy() for name, picture in shown.items()}
        (found,) = session.run(None, given)
        expected = policy.act(Observation(shown, state)).action
        assert isinstance(expected, torch.Tensor)
        np.testing.assert_allclose(found, expected[:, 0].numpy(), atol=1e-5)
