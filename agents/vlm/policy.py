"""A vision-language model as a policy: it sees what a world shows, reads the instruction, and says what it does."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from palaestra.agents.core import Decision
from palaestra.agents.vlm.checkpoint import Checkpoint
from palaestra.agents.vlm.core import Generate, Message, Picture
from palaestra.agents.vlm.speaker import Speaker
from palaestra.envs.core import Observation

Prompt = tuple[Message, ...]


def prompts_of(observation: Observation, cameras: Sequence[str]) -> list[Prompt]:
    """Return one prompt a row: the cameras' pictures in that order, then the row's text.

    Raises:
        ValueError: A camera is not in the observation.
    """
    missing = [camera for camera in cameras if camera not in observation.images]
    if missing:
        there = ", ".join(observation.images) or "none"
        raise ValueError(f"the policy looks through {missing[0]!r}, but the world's cameras are: {there}.")
    views = [observation.images[camera].cpu() for camera in cameras]
    texts = observation.text or ("",) * len(observation)
    return [
        (Message("user", (*(Picture(view[row]) for view in views), text)),) for row, text in enumerate(texts)
    ]


class VLMPolicy:
    """Answers each prompt with the text of an action.

    Its draws come from torch's global generator, one seed an answer, so an evaluation's seed decides them all and the
    size of a batch none.
    """

    def __init__(
        self, checkpoint: Checkpoint, cameras: Sequence[str], *, max_tokens: int = 64, temperature: float = 1.0
    ) -> None:
        """Take a checkpoint in memory, which may go on being trained.

        Args:
            checkpoint: The model.
            cameras: What it looks through, in this order.
            max_tokens: Longest action.
            temperature: Of the sampling; 0 says the likeliest action.
        """
        self.checkpoint, self.cameras = checkpoint, tuple(cameras)
        self.max_tokens, self.temperature = max_tokens, temperature
        self.speaker = Speaker(checkpoint)

    def act(self, observation: Observation) -> Decision:
        """Say what to do in N worlds."""
        asked = prompts_of(observation, self.cameras)
        seeds = torch.randint(2**62, (len(asked),)).tolist() if self.temperature else [None] * len(asked)
        asks = [
            Generate(prompt, max_tokens=self.max_tokens, temperature=self.temperature, seed=seed)
            for prompt, seed in zip(asked, seeds, strict=True)
        ]
        was = self.checkpoint.model.training
        self.checkpoint.model.eval()
        answers = self.speaker.answer(asks)
        self.checkpoint.model.train(was)
        return Decision(tuple(answer.text for answer in answers))
