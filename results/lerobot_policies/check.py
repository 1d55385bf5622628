"""Show that LeRobot's own code loads the policies that we write, and acts as ours do.

The other way round, LeRobot's folders in our code, is what tests/agents/vla/lerobot/test_parity.py holds us to. The
environment of lerobot is made as tests/agents/vla/lerobot/reference.py says.

    .venv/bin/python results/lerobot_policies/check.py write policies
    PYTHONPATH=openpi-env lerobot-env/bin/python results/lerobot_policies/check.py lerobot policies

The first writes an untrained tiny π0, π0.5 and SmolVLA, their statistics fitted to noise, and where a denoising ends.
The second lets LeRobot load each, with its own readers of configuration, weights and processors, and denoise from the
same noise; it prints the largest difference, and result.json holds that. Proprioception is padded to 32 numbers, since
LeRobot's reader of π0.5 writes so many into the prompt whatever the configuration says.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("smolvla", "pi0", "pi05")
WIDE = 32


def reference() -> ModuleType:
    """Return the formulas of inputs, and LeRobot's classes made small."""
    path = ROOT / "tests/agents/vla/lerobot/reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path) -> dict[str, Any]:
    """Write our policies and what they do."""
    import torch
    from gymnasium import spaces

    from palaestra.agents.flow.samplers import sample
    from palaestra.agents.vla.lerobot.checkpoint import write_policy
    from palaestra.agents.vla.lerobot.expert import Shape
    from palaestra.agents.vla.lerobot.fresh import Size, fresh_policy
    from palaestra.envs.core import Observation, WorldSpec

    made = reference()
    torch.manual_seed(0)
    gemma = Size(Shape(48, 3, 96, 8, 1, 8), Shape(32, 3, 64, 8, 1, 8), (64, 2, 96), 32, 8, 260)
    smol = Size(Shape(128, 4, 160, 4, 2, 64), Shape(96, 4, 256, 4, 2, 64), (64, 2, 96), 32, 8, 260, 2)
    box = spaces.Box(-np.inf, np.inf, (made.ACTION,), np.float32)
    cameras = {name: (*size, 3) for name, size in made.CAMERAS.items()}
    spec = WorldSpec("check", box, state=made.STATE, images=cameras, text=True, chunk=made.PLAYED)
    view = Observation(
        {name: torch.from_numpy(made.pictures(name)) for name in cameras}, torch.from_numpy(made.state()), made.TASKS
    )
    noise = torch.from_numpy(made.numbers(6, made.ROWS, made.CHUNK, WIDE))
    for kind in KINDS:
        words = made.tokenizer(kind != "smolvla")
        size = smol if kind == "smolvla" else gemma
        policy = fresh_policy(kind, spec, size, words, made.CHUNK, made.STEPS, WIDE)  # type: ignore[arg-type]
        policy.fit(
            Observation(state=torch.from_numpy(made.numbers(20, 99, made.STATE))),
            torch.from_numpy(made.numbers(21, 99, made.ACTION)),
        )
        write_policy(policy, folder / kind)
        with torch.no_grad():
            context = policy.network.observe(view)
            chain = sample(lambda x, t: policy.network.field(context, x, t), noise, policy.steps)  # noqa: B023
            actions = policy.to_actions(chain.points[:, -1])
        (folder / f"{kind}.json").write_text(json.dumps(actions.tolist()))
    return {"written": list(KINDS)}


def lerobot(folder: Path) -> dict[str, Any]:
    """Let LeRobot load them, and compare."""
    from importlib.metadata import version

    import torch
    import transformers
    from lerobot.policies.factory import make_pre_post_processors

    made = reference()
    found = {}
    for kind in KINDS:
        _, policy, _ = made.smolvla() if kind == "smolvla" else made.pi(kind)
        policy = type(policy).from_pretrained(folder / kind)
        words = made.tokenizer(kind != "smolvla")
        transformers.AutoTokenizer.from_pretrained = lambda *_, words=words, **__: words  # type: ignore[method-assign]
        before, after = make_pre_post_processors(policy.config, str(folder / kind))
        seen = {
            f"observation.images.{name}": torch.from_numpy(made.pictures(name)).permute(0, 3, 1, 2).float() / 255
            for name in made.CAMERAS
        }
        batch = before({**seen, "observation.state": torch.from_numpy(made.state()), "task": list(made.TASKS)})
        noise = torch.from_numpy(made.numbers(6, made.ROWS, made.CHUNK, WIDE))
        chunk = policy.predict_action_chunk(batch, noise=noise)
        actions = after(chunk)[:, : policy.config.n_action_steps]
        ours = torch.tensor(json.loads((folder / f"{kind}.json").read_text()))
        difference = float((actions - ours).abs().max())
        found[kind] = {"largest_difference": difference, "largest_action": float(ours.abs().max())}
    names = ("lerobot", "torch")
    return {**found, "versions": {**{n: version(n) for n in names}, "transformers": transformers.__version__}}


if __name__ == "__main__":
    act, place = sys.argv[1], Path(sys.argv[2])
    place.mkdir(exist_ok=True)
    print(json.dumps({"write": write, "lerobot": lerobot}[act](place), indent=2))
