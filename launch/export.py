"""A trained policy for elsewhere: one for driving as an ONNX file, a π0, π0.5 or SmolVLA as LeRobot would save it.

The ONNX file goes without the teacher, the critics or this package, and its latency is measured.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.agents.flow.policy import FlowPolicy
from palaestra.agents.found_rl.policy import DrivingPolicy
from palaestra.agents.vla.lerobot.checkpoint import write_policy
from palaestra.envs.core import Observation, WorldSpec

TIMED = 200
"""Decisions that the latency is the median of."""


class _Flat(nn.Module):
    """The policy with its observation's parts as arguments, in the order of `inputs`."""

    def __init__(self, policy: DrivingPolicy, names: list[str]) -> None:
        super().__init__()
        self.policy, self.names = policy, names

    def forward(self, *parts: Tensor) -> Tensor:
        shown = dict(zip(self.names, parts, strict=True))
        state = shown.pop("state", None)
        action: Tensor = self.policy(Observation(shown, state))
        return action


def inputs(spec: WorldSpec, count: int = 1) -> dict[str, Tensor]:
    """Return an observation of zeros by name: "state" [count, S] float32, and pictures [count, H, W, C] uint8."""
    parts = {} if spec.state is None else {"state": torch.zeros(count, spec.state)}
    return parts | {name: torch.zeros(count, *shape, dtype=torch.uint8) for name, shape in spec.images.items()}


def export(policy: DrivingPolicy, spec: WorldSpec, path: Path) -> dict[str, Any]:
    """Write a policy as ONNX, check it against torch, and return what was measured.

    The file takes any number of worlds, and returns their actions, [N, A] in [-1, 1], as "action".

    Args:
        policy: Trained.
        spec: Of its worlds.
        path: Of the file.

    Returns:
        Bytes of the file, parameters, the largest difference from torch, and the median latency in milliseconds of one
        decision on one thread, by onnxruntime and by torch.

    Raises:
        ModuleNotFoundError: The packages that write and run ONNX are missing, with what to install.
        ValueError: The exported policy decides otherwise than the policy.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('exporting needs ONNX: pip install "palaestra[onnx]"', name=error.name) from error
    policy = policy.to("cpu").eval()
    shown = inputs(spec, 2)
    names = list(shown)
    flat = _Flat(policy, names).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = tuple({0: torch.export.Dim("worlds")} for _ in names)
    torch.onnx.export(
        flat,
        tuple(shown.values()),
        str(path),
        input_names=names,
        output_names=["action"],
        dynamic_shapes=(sizes,),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    difference = _difference(flat, session, spec, names)
    if difference > 1e-4:
        raise ValueError(f"the exported policy's actions differ from the policy's by up to {difference:.2g}.")
    one = {name: part[:1].numpy() for name, part in shown.items()}
    with torch.inference_mode():
        by_torch = _median_milliseconds(lambda: flat(*(part[:1] for part in shown.values())))
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "parameters": sum(each.numel() for each in (*policy.encoder.parameters(), *policy.actor.parameters())),
        "largest_difference": difference,
        "latency_ms": {"onnxruntime": _median_milliseconds(lambda: session.run(None, one)), "torch": by_torch},
    }


def _difference(flat: _Flat, session: Any, spec: WorldSpec, names: list[str]) -> float:
    """Return by how much the two differ at most on random observations of three worlds."""
    shown = inputs(spec, 3)
    for name, part in shown.items():
        shown[name] = torch.randn_like(part) if name == "state" else torch.randint_like(part, 256)
    with torch.inference_mode():
        expected = flat(*(shown[name] for name in names))
    (found,) = session.run(None, {name: part.numpy() for name, part in shown.items()})
    return float(np.abs(found - expected.numpy()).max())


def _median_milliseconds(decide: Any) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(TIMED):
            began = time.perf_counter()
            decide()
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return round(1e3 * float(np.median(seconds)), 4)


def export_run(run: Path, path: Path | None = None, checkpoint: str | None = None) -> dict[str, Any]:
    """Export a run's policy and return what was measured of it; of ONNX that is written beside it.

    Args:
        run: The folder of a run of Found-RL, or of one that trains a policy of LeRobot's.
        path: Of the file, by default RUN/policy.onnx; or of the folder, by default RUN/lerobot.
        checkpoint: Whose policy; by default the newest.

    Raises:
        ValueError: The run trains another kind of policy.
    """
    from palaestra.launch.config import FoundRLRecipe, VLARecipe, from_json
    from palaestra.launch.files import write_atomically
    from palaestra.launch.train import load_policy, make_worlds

    recipe = from_json(run / "config.json")
    if not isinstance(recipe, FoundRLRecipe | VLARecipe):
        raise ValueError(
            f"{run} trains neither a driving policy, which is exported as ONNX, nor one of LeRobot's, which is "
            "written as LeRobot would."
        )
    worlds = make_worlds(recipe, 1)
    try:
        policy = load_policy(run, recipe, worlds.spec, checkpoint)
        if isinstance(policy, FlowPolicy):
            return {"folder": str(write_policy(policy, path or run / "lerobot"))}
        assert isinstance(policy, DrivingPolicy)
        path = path or run / "policy.onnx"
        measured = export(policy, worlds.spec, path)
    finally:
        worlds.close()
    write_atomically(path.with_suffix(".json"), (json.dumps(measured, indent=2) + "\n").encode())
    return measured
