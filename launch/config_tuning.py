"""The recipe of a vision-language model's fine-tuning: every option of it. The string under a field is its help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from palaestra.agents.vlm.questions import FAMILIES, Family
from palaestra.agents.vlm.sft import SFTConfig
from palaestra.launch.build import build, read_json


@dataclass(frozen=True)
class TuningRecipe:
    """Supervised fine-tuning of a vision-language model on rendered questions, whole."""

    name: str = "tiny-vlm"
    """What the run is called in tables."""
    base: str = ""
    """Folder of the checkpoint to start from; where empty, a tiny one with random weights is built."""
    image_size: int = 32
    """Side in pixels to which the tiny checkpoint resizes pictures."""
    families: tuple[Family, ...] = ("describe", "colour")
    """Kinds of questions to learn."""
    questions: int = 20_000
    """Of the training split, in an epoch."""
    held_out: int = 500
    """Questions of an evaluation; their combinations of shape, colour and place are in no training picture."""
    sft: Annotated[SFTConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: SFTConfig(grouped=False, learning_rate=2e-3)
    )
    """Fine-tuning."""
    every: int = 200
    """Gradient steps between checkpoints."""
    device: str = "cpu"
    """Where the model lives: cpu or cuda."""
    seed: int = 0
    """Of weights, questions and their order; held-out questions are the same for every seed."""
    threads: int = 2
    """Threads of torch."""

    def validate(self) -> None:
        """Raise ValueError on what cannot work, before anything slow starts."""
        positive = {name: getattr(self, name) for name in ("questions", "held_out", "every", "threads")}
        positive |= {name: getattr(self.sft, name) for name in ("steps", "batch", "accumulate", "rank")}
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        if self.sft.method == "lora" and not self.base:
            raise ValueError(
                "LoRA adapts what a model has learnt, and a tiny checkpoint's weights are random: "
                "first run `palaestra train tiny-vlm --run RUN`, then give --base RUN/model."
            )
        if self.base and not (Path(self.base) / "config.json").is_file():
            raise ValueError(f"base is {self.base!r}, which holds no config.json: give the folder of a checkpoint.")
        if not self.families:
            raise ValueError(f"families is empty; choose from {', '.join(FAMILIES)}.")


def tuning_from_json(path: Path) -> TuningRecipe | None:
    """Read a tuning recipe back, likewise; None where the file holds a recipe of the other kind."""
    data = read_json(path)
    if "sft" not in data:
        return None
    recipe = build(TuningRecipe, data, path.name)
    assert isinstance(recipe, TuningRecipe)
    return recipe
