"""Vision-language-action policies of either head behind the batcher: like lengths together, bad asks at the door."""

from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import torch

from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.vla.player import ChunkPlayer
from palaestra.agents.vla.policy import LONGEST, backbone_checkpoint, token_policy, vla_policy
from palaestra.agents.vla.token_policy import TokenPolicy
from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.client import connect
from palaestra.agents.vlm.core import Act, Action, AskError
from palaestra.agents.vlm.engines.policy import PolicyEngine
from palaestra.envs.core import Observation, Worlds

Head = Literal["flow", "tokens"]
HEADS: tuple[Head, ...] = ("flow", "tokens")


@pytest.fixture(scope="module")
def policies(worlds: Worlds) -> dict[Head, FlowPolicy | TokenPolicy]:
    """An untrained policy of each head, which no test changes."""
    torch.manual_seed(0)
    checkpoint = backbone_checkpoint("", 16, 32)
    return {
        "flow": vla_policy(worlds.spec, checkpoint, horizon=2, steps=2, hidden=32),
        "tokens": token_policy(worlds.spec, checkpoint, horizon=2, bins=16),
    }


@pytest.fixture
def engines(policies: dict[Head, FlowPolicy | TokenPolicy], worlds: Worlds) -> dict[Head, PolicyEngine]:
    return {head: PolicyEngine(policy, worlds.spec, head) for head, policy in policies.items()}


def row(view: Observation, index: int, text: str) -> Observation:
    """Return one world's part of a view, with other words."""
    return replace(view[torch.tensor([index])], text=(text,))


def test_a_batch_decides_as_one_by_one(engines: dict[Head, PolicyEngine], view: Observation) -> None:
    """The likeliest tokens of four tables with instructions of many lengths, whatever they are padded to."""
    asks = [Act(row(view, index, text)) for index, text in enumerate(("go", "open the drawer", "put " * 9, "a b"))]
    together = engines["tokens"].answer(asks)
    for ask, answer in zip(asks, together, strict=True):
        (alone,) = engines["tokens"].answer([ask])
        assert isinstance(answer, Action) and isinstance(alone, Action)
        assert isinstance(answer.action, torch.Tensor) and isinstance(alone.action, torch.Tensor)
        assert torch.equal(answer.action, alone.action) and answer.action.shape == (2, 4)


@pytest.mark.parametrize("head", HEADS)
def test_long_instructions_do_not_slow_short_ones(
    head: Head, engines: dict[Head, PolicyEngine], view: Observation
) -> None:
    """With no padding allowed, two short instructions and two long ones make two batches; the pictures are read once
    a batch, however often the action is denoised or spoken on."""
    engine = engines[head]
    policy = engine.policy
    assert isinstance(policy, FlowPolicy | TokenPolicy)
    reads: list[int] = []
    handle = policy.network.backbone.register_forward_hook(  # type: ignore[attr-defined]
        lambda module, given, prefix: reads.append(len(prefix))
    )
    short, long = row(view, 0, "open the drawer"), row(view, 1, "would you please put the red cube on the plate")
    assert engine.size(Act(short)) < engine.size(Act(long))
    with connect({"a": Batcher(engine, max_padding=0.0, max_wait=0.5, max_batch=4)}) as client:
        futures = [client.ask_nowait("a", Act(seen), wait=True) for seen in (short, long, short, long)]
        assert [future.result().batch for future in futures] == [2, 2, 2, 2]
    handle.remove()
    assert reads == [2, 2]


@pytest.mark.parametrize("head", HEADS)
def test_bad_asks_are_refused_before_they_wait(
    head: Head, engines: dict[Head, PolicyEngine], view: Observation
) -> None:
    engine, good = engines[head], row(view, 0, "go")
    engine.check(Act(good))
    assert good.state is not None
    wrong = [
        (row(view, 0, "word " * 90), f"follows 1 to {LONGEST}"),
        (row(view, 0, ""), "has 0 tokens"),
        (replace(good, text=()), "expects 1 texts"),
        (replace(good, images={"side": good.images["side"]}), "expects as image 'overhead'"),
        (replace(good, images={**good.images, "side": good.images["side"][:, :16]}), r"\[1, 32, 32, 3\], got"),
        (replace(good, images={**good.images, "side": good.images["side"].float()}), "torch.uint8"),
        (replace(good, state=good.state[:, :2]), r"\[1, 5\], got torch.float32 \[1, 2\]"),
        (replace(good, state=good.state * torch.nan), "not finite"),
    ]
    for observation, message in wrong:
        with pytest.raises(AskError, match=message):
            engine.check(Act(observation))


def test_heads_side_by_side(engines: dict[Head, PolicyEngine], view: Observation) -> None:
    """Two policies behind one client, each played by a world of its own, the next chunk asked for ahead."""
    with connect(engines) as client:
        def ask(model: str, seen: Observation) -> object:
            return client.ask_nowait(model, Act(seen), wait=True)

        players = {head: ChunkPlayer(partial(ask, head), 1) for head in HEADS}  # type: ignore[arg-type]
        for _ in range(4):
            for index, player in enumerate(players.values()):
                assert player.act(row(view, index, "go")).shape == (4,)
    assert all(set(player.versions) == {head} for head, player in players.items())
