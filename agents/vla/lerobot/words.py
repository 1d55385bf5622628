"""Prompts of π0, π0.5 and SmolVLA, and their tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.agents.vla.lerobot.format import FormatError, Kind

BINS = 256
"""π0.5 writes each entry of the state as one of so many numbers between -1 and 1."""


def prompt(kind: Kind, instruction: str, state: list[int]) -> str:
    """Return the text that a policy reads.

    Args:
        kind: Which policy.
        instruction: What the world asks for.
        state: π0.5: the entries of the state, as `binned`.

    Raises:
        ValueError: The instruction is empty.
    """
    if not instruction.strip():
        raise ValueError(f"the instruction {instruction!r} is empty; a policy follows words.")
    if kind != "pi05":
        return instruction if instruction.endswith("\n") else instruction + "\n"
    cleaned = instruction.strip().replace("_", " ").replace("\n", " ")
    return f"Task: {cleaned}, State: {' '.join(map(str, state))};\nAction: "


def binned(state: Tensor) -> Tensor:
    """Return which of 256 bins of [-1, 1] each entry of a normalised state falls into; -1 under, 255 over it."""
    edges = torch.linspace(-1, 1, BINS + 1, dtype=torch.float64, device=state.device)[:-1]
    return torch.bucketize(state.double(), edges, right=True) - 1


class Words:
    """Turns prompts into tokens."""

    def __init__(self, tokenizer: Any, longest: int) -> None:
        """Take a tokenizer of `transformers`, and how many tokens a prompt may have."""
        self.tokenizer, self.longest = tokenizer, longest
        self._known: dict[str, list[int]] = {}

    def __call__(self, prompts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return tokens [N, L], padded on the right to the longest, and which are real [N, L] bool.

        Raises:
            ValueError: A prompt is too long.
        """
        rows = [self._tokens(text) for text in prompts]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return ids, torch.arange(length, device=device) < lengths[:, None]

    def _tokens(self, text: str) -> list[int]:
        found = self._known.get(text)
        if found is None:
            # Split: what an instruction says is never read as a special token.
            found = self.tokenizer(text, split_special_tokens=True)["input_ids"]
            if len(found) > self.longest:
                raise ValueError(
                    f"the instruction {text[:60]!r}… makes {len(found)} tokens; the policy was trained on prompts of "
                    f"at most {self.longest}: say it shorter."
                )
            if len(self._known) < 4096:  # π0.5's prompts hold the state, and hardly ever come again
                self._known[text] = found
        return found


def open_tokenizer(folder: Path, name: str) -> Any:
    """Return the tokenizer that lies in a folder or, where there is none, the one of a name.

    LeRobot does not save it: the name is of another repository, looked for as a folder and among what has been
    downloaded before.

    Raises:
        FormatError: There is none.
    """
    from transformers import AutoTokenizer

    if any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        name = str(folder)
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise FormatError(
            f"{folder} holds no tokenizer, and {name!r} is neither a folder nor downloaded: put that repository's "
            "tokenizer.json and tokenizer_config.json into it, or give tokenizer=FOLDER."
        ) from error
