"""`palaestra bench pi0`: a policy of π0's size on a GPU: decisions and samples a second, memory, and their floor."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from palaestra.agents.flow.policy import FlowPolicy
    from palaestra.envs.core import Observation

STATE, ACTION, SIDE = 14, 14, 224
"""Of the worlds that are pretended: two arms, two cameras."""


def pi0(
    kind: Literal["pi0", "pi05", "smolvla"] = "pi0",
    size: Literal["published", "tiny"] = "published",
    device: str = "cuda",
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
    steps: int = 10,
    horizon: int = 50,
    seconds: float = 2.0,
    output: Path | None = Path("results/bench-pi0.json"),
) -> dict[str, Any]:
    """Measure an untrained policy in bfloat16: neither speed nor memory depends on what it has learnt.

    Args:
        kind: Which policy.
        size: The published one, or a tiny one, to try the bench where there is no GPU.
        device: Where it runs.
        batches: Observations a decision, and samples a gradient step.
        steps: K, the denoising steps of a decision.
        horizon: H.
        seconds: About how long each is measured.
        output: Where the result is written, None for nowhere.

    Returns:
        For each batch: decisions a second (pictures to actions, the prefix read once), and samples a second that the
        learner takes: one evaluation of the expert a sample, as in a step of π_RL, with the backbone frozen, its
        prefix read anew, and the expert's layers computed again in the backward pass. Each with its peak memory, and
        with the floor: the arithmetic of it at the speed of the device's own matrix product, and the share
        of that speed which is reached.

    Raises:
        RuntimeError: There is no such device.
    """
    import torch

    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(
            "bench pi0 measures a GPU, and torch sees none here (palaestra doctor says why). A tiny one runs "
            "anywhere: palaestra.launch.benches.pi0.pi0(size='tiny', device='cpu')."
        )
    torch.set_float32_matmul_precision("high")
    policy, view = _policy(kind, size, device, steps, horizon)
    speed = _matrix_product(device, 256 if size == "tiny" else 8192, seconds)
    count = sum(weight.numel() for weight in policy.parameters())
    result: dict[str, Any] = {
        "bench": "pi0", "kind": kind, "size": size, "device": _name(device), "parameters": count, "dtype": "bfloat16",
        "steps": steps, "horizon": horizon, "matrix_product_tflops": round(speed / 1e12, 4),
    }  # fmt: skip
    for name, work in (("decisions", _decide(policy)), ("learning", _learn(policy))):
        flops = _flops(work, view)
        result[f"{name}_gflop"] = round(flops / 1e9, 4)
        result[name] = _rows(work, view, batches, speed / flops, device, seconds)
    result |= provenance()
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result


def _policy(kind: Any, size: str, device: str, steps: int, horizon: int) -> tuple[FlowPolicy, Observation]:
    """Return an untrained policy on a device, and what one world shows."""
    import numpy as np
    import torch
    from gymnasium import spaces

    from palaestra.agents.vla.lerobot.fresh import PI0, SMOLVLA, TINY, fresh_policy
    from palaestra.agents.vla.lerobot.network import LeRobotNetwork
    from palaestra.agents.vlm.tiny import CORPUS, train_tokenizer
    from palaestra.envs.core import Observation, WorldSpec

    box = spaces.Box(-np.ones(ACTION, np.float32), np.ones(ACTION, np.float32))
    cameras = {"front": (SIDE, SIDE, 3), "wrist": (SIDE, SIDE, 3)}
    spec = WorldSpec("bench/pi0", box, state=STATE, images=cameras, text=True, chunk=horizon)
    chosen = TINY[kind] if size == "tiny" else SMOLVLA if kind == "smolvla" else PI0
    tokenizer = train_tokenizer(CORPUS, 640, 2048)
    with torch.device(device):
        policy = fresh_policy(kind, spec, chosen, tokenizer, horizon, steps)
    network = policy.to(device).network
    assert isinstance(network, LeRobotNetwork)
    network.backbone.to(torch.bfloat16)
    network.expert.to(torch.bfloat16)
    network.expert.checkpointing = True
    shown = {"dtype": torch.uint8, "device": device}
    images = {name: torch.randint(256, (1, *shape), **shown) for name, shape in cameras.items()}  # type: ignore[call-overload]
    return policy, Observation(images, torch.randn(1, STATE, device=device), ("pick up the red cube",))


def _decide(policy: FlowPolicy) -> Callable[[Observation], None]:
    """Return a decision."""

    def decide(view: Observation) -> None:
        policy.act(view)

    return decide


def _learn(policy: FlowPolicy) -> Callable[[Observation], None]:
    """Return a gradient step of what is trained: the expert and what lies around it."""
    import torch

    network = policy.network
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-5)

    def learn(view: Observation) -> None:
        context = network.observe(view)
        count, device = len(view), context.device
        action = torch.zeros(count, network.horizon, policy.actions, device=device)
        mask = torch.ones(count, network.horizon, dtype=torch.bool, device=device)
        loss = policy.imitation_loss(context, action, mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return learn


def _rows(
    work: Callable[[Observation], None],
    view: Observation,
    batches: Sequence[int],
    floor: float,
    device: str,
    seconds: float,
) -> list[dict[str, Any]]:
    """Return what each batch took, as far as the memory goes; `floor` is what the arithmetic would allow a second."""
    rows: list[dict[str, Any]] = []
    for batch in batches:
        measured = _measured(work, _repeated(view, batch), device, seconds)
        if measured is None:
            return [*rows, {"batch": batch, "failed": "out of memory"}]
        rate = batch / measured["seconds"]
        row = {"batch": batch, "a_second": round(rate, 3), "floor_a_second": round(floor, 3)}
        rows.append({**row, "share_of_floor": round(rate / floor, 4), **measured})
    return rows


def _measured(
    work: Callable[[Observation], None], view: Observation, device: str, seconds: float
) -> dict[str, Any] | None:
    """Return the median seconds of a piece of work and its peak memory, None where that does not suffice."""
    import torch

    gpu = device.startswith("cuda")
    try:
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            work(view)
        spent: list[float] = []
        while len(spent) < 3 or sum(spent) < seconds:
            began = _now(gpu)
            work(view)
            spent.append(_now(gpu) - began)
    except torch.OutOfMemoryError:
        return None
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 3) if gpu else None
    return {"seconds": sorted(spent)[len(spent) // 2], "rounds": len(spent), "peak_memory_gib": peak}


def _now(gpu: bool) -> float:
    """Return the time, once the device has done what it was given."""
    import torch

    if gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def _matrix_product(device: str, side: int, seconds: float) -> float:
    """Return the operations a second of a large product in bfloat16: what no network is faster than."""
    import torch

    left, right = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    gpu = device.startswith("cuda")
    spent: list[float] = []
    torch.mm(left, right)
    while len(spent) < 5 or sum(spent) < seconds / 2:
        began = _now(gpu)
        torch.mm(left, right)
        spent.append(_now(gpu) - began)
    return 2 * side**3 / min(spent)


def _flops(work: Callable[[Observation], None], view: Observation) -> int:
    """Return the operations of a piece of work, as torch counts its products.

    Attention is done as plain products for that: torch 2.11 does not count grouped heads otherwise.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work(view)
    return int(counter.get_total_flops())


def _repeated(view: Observation, count: int) -> Observation:
    import torch

    return view[torch.zeros(count, dtype=torch.int64)]


def _name(device: str) -> str:
    import platform

    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or device
