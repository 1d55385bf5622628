"""Any world of tools, and any checkpoint: it imitates what a teacher said, where one did, and learns from reward."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palaestra.agents.grpo.scores import Scores
from palaestra.agents.grpo.vlm_speaker import VlmSpeaker
from palaestra.agents.vlm.sft import SFTConfig, Tuner
from palaestra.agents.vlm.tiny import build_tiny_vlm
from palaestra.envs.retrieval.core import VOID, Record
from palaestra.envs.retrieval.registry import open_worlds
from palaestra.launch.config_conversation import TINY, ToolsRecipe
from palaestra.launch.conversation import ConversationRun

SAYS = "says"
"""The key of what a teacher says, in a line of a file of rows."""


class Row(dict[str, Any]):
    """What an episode begins with, and what a teacher says in it, turn by turn; nothing where there is no teacher."""

    says: tuple[str, ...] = ()


def read_rows(path: Path) -> list[Row]:
    """Read rows from JSON Lines: an object each, with what `reset` takes and perhaps "says", a list of texts.

    Raises:
        ValueError: A line is none, or the file has no line.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            row = Row(found)
            row.says = tuple(row.pop(SAYS, ()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:60]!r} ({error}).") from None
        if not all(isinstance(text, str) for text in row.says):
            raise ValueError(f"{path}, line {number}: {SAYS!r} is a list of what a teacher says, turn by turn.")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no rows: give a JSON object a line, with what the world's reset takes.")
    return rows


class ToolsRun(ConversationRun):
    """A run in a world of tools that somebody wrote."""

    recipe: ToolsRecipe
    speaker: VlmSpeaker

    @property
    def world(self) -> str:
        """The worlds' id."""
        return self.recipe.world

    def open(self) -> None:
        """Make worlds, read rows and load the model."""
        recipe = self.recipe
        self.success = f"the world pays {recipe.solved:g} or more"
        self.worlds = open_worlds(recipe.world, turns=recipe.turns)
        rows, held_out = read_rows(Path(recipe.rows)), read_rows(Path(recipe.held_out))
        self.tasks = {"sft": [row for row in rows if row.says], "rl": rows, "test": held_out}
        tools = [tool["function"]["name"] for tool in getattr(self.worlds, "schema", [])]
        self.tuner = self._tuner(rows, tools)
        closings = [f"</{name}>" for name in (*tools, "answer")]
        self.speaker = VlmSpeaker(self.tuner.checkpoint, closings)

    def _tuner(self, rows: Sequence[Row], tools: Sequence[str]) -> Tuner:
        """Load what is trained of the model: all of it, or adapters."""
        recipe = self.recipe
        method = SFTConfig(method="lora", rank=recipe.rank, alpha=2 * recipe.rank) if recipe.rank else SFTConfig()
        with tempfile.TemporaryDirectory() as folder:
            model = Path(recipe.model)
            if recipe.model == TINY:
                tags = tuple(f"<{slash}{name}>" for name in (*tools, "answer") for slash in ("", "/"))
                corpus = [json.dumps(row) + " ".join(row.says) for row in rows]
                model = build_tiny_vlm(Path(folder) / TINY, seed=recipe.seed, corpus=corpus, phrases=tags)
            tuner = Tuner(model, method, device=recipe.device)
        tuner.model.eval()  # what samples and what is trained are one model, without dropout
        return tuner

    def pretrain(self) -> None:
        """Bring nothing along besides the checkpoint."""

    def demonstration(self, task: Row, generator: np.random.Generator) -> list[str]:
        """Return what the row's teacher says."""
        return list(task.says)

    def solution(self, task: Row) -> list[str]:
        """Return the same."""
        return list(task.says)

    def scores(self, records: Sequence[Record], learning: bool) -> Scores:
        """Return what the world pays."""
        paid = torch.tensor([record.reward or 0.0 for record in records])
        valid = torch.tensor([record.outcome not in VOID for record in records])
        return Scores(paid, valid, paid >= self.recipe.solved, paid[:, None], torch.ones(1))

    def export(self) -> None:
        """Write the trained model, or its adapter, as a folder that `palaestra serve` takes."""
        if not (self.run / "model").exists():
            self.tuner.save(self.run / "model")
