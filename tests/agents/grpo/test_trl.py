"""The family against TRL's own numbers: `results/trl/check.py` made them."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from palaestra.agents.grpo import advantages
from palaestra.agents.grpo.objective import Objective, loss
from palaestra.agents.grpo.presets import preset

TRL = json.loads((Path(__file__).parents[3] / "results" / "trl" / "result.json").read_text())
LOSSES: dict[str, Objective] = {
    name: preset(name) for name in ("grpo", "dr_grpo", "dapo", "gspo", "luspo", "cispo", "sapo", "rloo", "dual")
} | {"unbiased": replace(preset("grpo"), kl="unbiased")}


def given(name: str) -> Tensor:
    return torch.tensor(TRL["given"][name])


@pytest.mark.parametrize("name", list(TRL["losses"]))
def test_losses_and_gradients(name: str) -> None:
    """Ragged conversations with holes, ratios beyond every edge: the same loss, and the same slope at every token."""
    logprob = given("logprob").requires_grad_()
    mask = given("mask").bool()
    found, _ = loss(
        logprob, given("old"), given("advantage")[:, None].expand(mask.shape), mask, LOSSES[name], given("reference")
    )
    found.backward()  # type: ignore[no-untyped-call]
    theirs = TRL["losses"][name]
    assert found.item() == pytest.approx(theirs["loss"], rel=1e-5)
    torch.testing.assert_close(logprob.grad, torch.tensor(theirs["gradient"]), rtol=1e-4, atol=1e-6)


WHOLE: dict[str, Callable[[Tensor, int, Tensor], Tensor]] = {
    "grpo": lambda score, group, valid: advantages.grpo(score, group, valid, 1e-4),  # TRL's ε
    "dr_grpo": advantages.centred,
    "lite_ppo": lambda score, group, valid: advantages.lite_ppo(score, group, valid, 1e-4),
    "rloo": advantages.rloo,
}


@pytest.mark.parametrize("name", list(TRL["advantages"]))
def test_advantages(name: str) -> None:
    parts = torch.tensor(TRL["rewards"])
    valid, theirs = torch.ones(len(parts), dtype=torch.bool), torch.tensor(TRL["advantages"][name])
    if name == "gdpo":
        found = advantages.gdpo(parts, torch.tensor([0.2, 0.7, 0.1]), 4, valid, 1e-4)
        found = found * math.sqrt((len(parts) - 1) / len(parts))  # TRL divides by the unbiased deviation
    else:
        found = WHOLE[name](parts[:, 0], 4, valid)
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=2e-4 if name == "gdpo" else 1e-5)


def test_the_fixture_is_no_triviality() -> None:
    """Every rule is at work in it: losses differ, and some slopes are clipped away."""
    values = [entry["loss"] for entry in TRL["losses"].values()]
    assert len({round(value, 5) for value in values}) == len(values) >= 10
    assert sum(slope == 0 for row in TRL["losses"]["dapo"]["gradient"] for slope in row) > 6
