"""Conversations between an agent and worlds of tools: many in lock step, tokens kept as they were sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from palaestra.agents.grpo.speaker import Passage, Speaker
from palaestra.envs.retrieval.core import VOID, Conversations, Record, Turn


@dataclass(frozen=True)
class SpeakConfig:
    """How an agent speaks."""

    temperature: float = 1.0
    """Of the sampling; 0 takes the likeliest token."""
    longest: int = 16
    """Tokens that a turn of the agent may have: one that is not closed by then ends the episode, cut by length."""


@dataclass(slots=True)
class Trajectory:
    """One conversation, token by token."""

    ids: list[int] = field(default_factory=list)
    """All of it, the world's turns included."""
    sampled: list[bool] = field(default_factory=list)
    """Which of them the agent chose: only these are learnt from."""
    hinted: list[bool] = field(default_factory=list)
    """Which of them a teacher said in the agent's stead, before it took over."""
    logprobs: list[float] = field(default_factory=list)
    """log p of each chosen token when it was chosen, at temperature 1; 0 for the world's."""
    turns: list[int] = field(default_factory=list)
    """The agent's turn that each token belongs to, counted from 0; the world's words belong to what follows."""
    images: list[Tensor] = field(default_factory=list)
    """All pictures, in order."""
    anchors: list[Any] = field(default_factory=list)
    """What names the state in which each of the agent's turns began."""
    record: Record | None = None
    """How the world saw the episode."""

    @property
    def void(self) -> bool:
        """Whether the world or the judge broke: such an episode says nothing about the agent."""
        return self.record is not None and self.record.outcome in VOID

    def hear(self, passage: Passage, anchor: Any) -> None:
        """Append what the world said before the agent's next turn."""
        length, turn = len(passage.ids), len(self.anchors)
        self.ids += passage.ids
        self.sampled += [False] * length
        self.hinted += [False] * length
        self.logprobs += [0.0] * length
        self.turns += [turn] * length
        self.images += passage.images
        self.anchors.append(anchor)

    def say(self, token: int, logprob: float, hinted: bool = False) -> None:
        """Append a token that the agent chose, or a teacher in its stead."""
        self.ids.append(token)
        self.sampled.append(not hinted)
        self.hinted.append(hinted)
        self.logprobs.append(logprob)
        self.turns.append(len(self.anchors) - 1)


def waves(worlds: Conversations, count: int) -> list[slice]:
    """Return which of so many episodes may be in progress at once, one wave after the other."""
    live = worlds.live or max(count, 1)
    return [slice(start, start + live) for start in range(0, count, live)]


@torch.no_grad()
def converse(
    speaker: Speaker,
    worlds: Conversations,
    tasks: Sequence[Any],
    config: SpeakConfig,
    hints: Sequence[Sequence[str]] | None = None,
) -> list[Trajectory]:
    """Play one episode a task, all at once as far as the worlds allow, and return the conversations.

    Sampling draws from torch's global generator. An episode that no longer fits into the context, or in which a turn
    of the agent is not closed in time, is cut by length.

    Args:
        speaker: The agent.
        worlds: Where it acts.
        tasks: One an episode.
        config: How it speaks.
        hints: What a teacher says in each episode before the agent takes over, turn by turn.
    """
    return [
        one
        for wave in waves(worlds, len(tasks))
        for one in _wave(speaker, worlds, tasks[wave], config, None if hints is None else hints[wave])
    ]


def _wave(
    speaker: Speaker,
    worlds: Conversations,
    tasks: Sequence[Any],
    config: SpeakConfig,
    hints: Sequence[Sequence[str]] | None,
) -> list[Trajectory]:
    """Play episodes all at once; see `converse`."""
    trajectories, turns = [Trajectory() for _ in tasks], worlds.reset(tasks)
    going = list(enumerate(turns))
    if hints is not None:
        going = recite(speaker, worlds, trajectories, going, hints, hinted=True)
    memory = speaker.begin(len(going))
    known = [(0, 0)] * len(tasks)
    """Ids and pictures of each conversation that the memory holds."""
    while going:
        passages = [speaker.read(turn, first=not trajectories[row].ids) for row, turn in going]
        fits = []
        for place, ((row, turn), passage) in enumerate(zip(going, passages, strict=True)):
            if len(trajectories[row].ids) + len(passage.ids) + config.longest > speaker.context:
                worlds.records[row].outcome = "length"
                continue
            trajectories[row].hear(passage, turn.anchor)
            fits.append(place)
        if not fits:
            break
        if len(fits) < len(going):
            memory = speaker.select(memory, torch.tensor(fits))
        rows = [going[place][0] for place in fits]
        speaking = [trajectories[row] for row in rows]
        # What the agent said last is not in the memory yet: the token that closed its turn.
        unread = [one.ids[known[row][0] :] for row, one in zip(rows, speaking, strict=True)]
        images = [image for row in rows for image in trajectories[row].images[known[row][1] :]]
        said = _speak(speaker, memory, speaking, unread, images, config)
        for row, one, words in zip(rows, speaking, said, strict=True):
            known[row] = len(one.ids) - 1, len(one.images)
            if words is None:
                worlds.records[row].outcome = "length"
        acting = [(place, words) for place, words in enumerate(said) if words is not None]
        replies = worlds.step([rows[place] for place, _ in acting], [words for _, words in acting]) if acting else []
        left = [(place, reply.turn) for (place, _), reply in zip(acting, replies, strict=True) if reply.turn]
        memory = speaker.select(memory, torch.tensor([place for place, _ in left], dtype=torch.long))
        going = [(rows[place], turn) for place, turn in left]
    for trajectory, record in zip(trajectories, worlds.records, strict=True):
        trajectory.record = record
    return trajectories


def recite(
    speaker: Speaker,
    worlds: Conversations,
    trajectories: Sequence[Trajectory],
    going: Sequence[tuple[int, Turn]],
    plans: Sequence[Sequence[str]],
    hinted: bool,
) -> list[tuple[int, Turn]]:
    """Let a teacher speak in conversations that have just begun, as far as its plans go.

    Args:
        speaker: Writes the teacher's words as ids.
        worlds: Where they are carried out.
        trajectories: One an episode, to be continued.
        going: Rows, and what each was told first.
        plans: What the teacher says in each episode, turn by turn.
        hinted: Whether its words are marked as a teacher's, or taken for the agent's own, to be imitated.

    Returns:
        The rows whose episodes go on, and what each was told last, in order.
    """
    left: list[tuple[int, Turn]] = []
    while going:
        acting = []
        for row, turn in going:
            one = trajectories[row]
            if len(one.anchors) == len(plans[row]):
                left.append((row, turn))
                continue
            one.hear(speaker.read(turn, first=not one.ids), turn.anchor)
            said = plans[row][len(one.anchors) - 1]
            for token in speaker.write(said):
                one.say(token, 0.0, hinted)
            acting.append((row, said))
        replies = worlds.step([row for row, _ in acting], [said for _, said in acting]) if acting else []
        going = [(row, reply.turn) for (row, _), reply in zip(acting, replies, strict=True) if reply.turn]
    return sorted(left, key=lambda pair: pair[0])


def _speak(
    speaker: Speaker,
    memory: Any,
    trajectories: Sequence[Trajectory],
    unread: Sequence[Sequence[int]],
    images: Sequence[Tensor],
    config: SpeakConfig,
) -> list[str | None]:
    """Let the agent speak in each row until it closes its turn; return what it said, None where it did not close it."""
    said: list[list[int]] = [[] for _ in trajectories]
    speaking = torch.ones(len(trajectories), dtype=torch.bool)
    logits = speaker.extend(memory, *pad(unread), images)
    for spoken in range(config.longest):
        tokens, logprobs = choose(logits, config.temperature)
        chosen, likely = tokens.tolist(), logprobs.tolist()
        for place in speaking.nonzero().flatten().tolist():
            said[place].append(chosen[place])
            trajectories[place].say(chosen[place], likely[place])
            speaking[place] = not speaker.closed(said[place])
        if spoken + 1 == config.longest or not bool(speaking.any()):
            break
        logits = speaker.extend(memory, tokens[:, None], speaking[:, None].clone(), ())
    return [None if silent else speaker.decode(ids) for silent, ids in zip(speaking.tolist(), said, strict=True)]


def choose(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return a token for each row of logits [R, V], and its log p at temperature 1: [R] int64 and [R] float32."""
    log_p = logits.float().log_softmax(-1)
    if temperature == 0:
        tokens = log_p.argmax(-1)
    else:
        tokens = torch.multinomial((log_p / temperature).softmax(-1), 1).squeeze(1)
    return tokens, log_p.gather(1, tokens[:, None]).squeeze(1)


def pad(lines: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return ids [N, L] padded with 0 on the right, and which of them are real [N, L] bool."""
    longest = max(map(len, lines))
    lengths = torch.tensor([len(line) for line in lines])
    ids = torch.tensor([[*line, *[0] * (longest - len(line))] for line in lines])
    return ids, torch.arange(longest) < lengths[:, None]
