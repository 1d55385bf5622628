"""Our π0, π0.5 and SmolVLA beside LeRobot's own code on the same weights and inputs, in float32."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.flow.samplers import sample
from palaestra.agents.vla.backbone import Prefix
from palaestra.agents.vla.lerobot.checkpoint import read_policy
from palaestra.envs.core import Observation

KINDS = ("smolvla", "pi0", "pi05")


def recorded(kind: str) -> dict[str, Any]:
    """Return what LeRobot computed."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name(f"{kind}.json").read_text())
    return found


def close(found: Tensor, expected: list[Any]) -> None:
    """Assert that numbers are LeRobot's, to 1e-4."""
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def denoised(policy: FlowPolicy, context: Prefix, reference: ModuleType) -> Tensor:
    """Return where the denoising ends that starts from the reference's noise."""
    noise = torch.from_numpy(reference.numbers(6, reference.ROWS, reference.CHUNK, reference.WIDE))
    return sample(lambda x, t: policy.network.field(context, x, t), noise, policy.steps).points[:, -1]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_prompts_and_proprioception(
    kind: str, policies: dict[str, FlowPolicy], reference: ModuleType, view: Observation
) -> None:
    """The same tokens up to their padding, and the same normalised numbers."""
    network, expected = policies[kind].network, recorded(kind)
    state = network._state(view)  # type: ignore[attr-defined]
    close(state, expected["state"])
    ids, real = network._prompts(view.text, state)  # type: ignore[attr-defined]
    for row, spoken, tokens in zip(ids, real, expected["tokens"], strict=True):
        assert row[spoken].tolist() == [token for token in tokens if token]  # 0 pads
    close(policies[kind].from_actions(torch.from_numpy(reference.action()))[..., :3], expected["normalised_action"])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_denoising(kind: str, policies: dict[str, FlowPolicy], reference: ModuleType, view: Observation) -> None:
    """The same chunk from the same noise, before and after the statistics; it is clipped to what is played."""
    policy, expected = policies[kind], recorded(kind)
    chain = denoised(policy, policy.network.observe(view), reference)
    close(chain, expected["denoised"])
    close(policy.to_actions(chain), [row[: reference.PLAYED] for row in expected["actions"]])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_training_loss(
    kind: str, policies: dict[str, FlowPolicy], reference: ModuleType, view: Observation
) -> None:
    """LeRobot trains prefix and suffix in one pass, we reuse the prefix: the same squared errors, entry by entry."""
    policy, expected = policies[kind], recorded(kind)
    action = policy.from_actions(torch.from_numpy(reference.action()))
    noise = torch.from_numpy(reference.numbers(6, reference.ROWS, reference.CHUNK, reference.WIDE))
    t = torch.tensor([0.25, 0.9])
    x = t[:, None, None] * noise + (1 - t[:, None, None]) * action
    velocity = policy.network.field(policy.network.observe(view), x, t).velocity
    close((velocity - (noise - action)) ** 2, expected["loss"])


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
@torch.no_grad()
def test_a_masked_camera(kind: str, folders: dict[str, Path], reference: ModuleType, view: Observation) -> None:
    """LeRobot masks the tokens of a camera that is not there; left out, they change as little."""
    policy = read_policy(folders[kind], masked=["wrist"])
    seen = Observation({"base": view.images["base"]}, view.state, view.text)
    close(denoised(policy, policy.network.observe(seen), reference), recorded(kind)["denoised_without_wrist"])
