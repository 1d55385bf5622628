"""What teachers learn from: an expert's drive as pictures, prompts, answers and captions; and CLIP's training on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from palaestra.agents.found_rl.teachers import write_pedals
from palaestra.agents.vlm.contrastive import contrastive_loss
from palaestra.agents.vlm.core import Message, Picture
from palaestra.envs.driving.describe import (
    COMMANDS,
    LATERAL,
    LONGITUDINAL,
    SPEEDS,
    action_bin,
    describe,
    sentence,
    speed_bin,
)
from palaestra.envs.driving.expert import expert_action
from palaestra.envs.driving.tables import OfRoute

if TYPE_CHECKING:
    from palaestra.agents.vlm.engines.clip import ClipEngine
    from palaestra.envs.driving.world import DrivingEnv

Objective = Literal["anchors", "pairs"]
BEHAVIOURS = len(LONGITUDINAL) * len(LATERAL)
CONTEXTS = len(COMMANDS) * len(SPEEDS)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One view, and what the expert would do there; a sample of supervised fine-tuning."""

    picture: Tensor
    """[H, W, 3] uint8."""
    prompt: str
    action: Tensor
    """[2]."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The question, as `PromptTeacher` asks it."""
        return (Message("user", (Picture(self.picture), self.prompt)),)

    @property
    def answer(self) -> str:
        """What to say."""
        return write_pedals(self.action)


@dataclass(frozen=True, slots=True)
class Drive:
    """N views of an expert's drive."""

    pictures: Tensor
    """[N, H, W, 3] uint8."""
    prompts: tuple[str, ...]
    actions: Tensor
    """[N, 2]: what the expert would do, whatever was done."""
    contexts: Tensor
    """[N] int64: 4 · command + speed."""

    @property
    def behaviours(self) -> Tensor:
        """[N] int64: which of the 30 the expert's actions are."""
        return action_bin(self.actions)

    def __len__(self) -> int:
        return len(self.prompts)

    def lessons(self) -> list[Lesson]:
        """Return the views as samples of supervised fine-tuning."""
        return [Lesson(*each) for each in zip(self.pictures, self.prompts, self.actions, strict=True)]


def record(
    env: DrivingEnv,
    picture: Callable[[Tensor], Tensor],
    views: int,
    every: int = 10,
    noise: float = 0.3,
    seed: int = 0,
) -> Drive:
    """Let the expert drive, and write down some of what it sees.

    Args:
        env: Worlds; they are reset.
        picture: Draws some worlds, see `PromptTeacher`.
        views: N.
        every: Steps between two views of a world.
        noise: Standard deviation of what disturbs half of its driving, so that it is seen finding back; what is
            written down is undisturbed.
        seed: Of starts and disturbances.
    """
    count, device = env.num_envs, env.device
    draw = torch.Generator().manual_seed(seed)
    env.reset(seed=[seed * 100_003 + row for row in range(count)])
    rows = torch.arange(count, device=device)
    parts: list[tuple[Tensor, list[str], Tensor, Tensor]] = []
    step = 0
    while sum(len(part[1]) for part in parts) < views:
        action = expert_action(env)
        if step % every == 0:
            route = env.state.clocks.route * env.tables.most + env.state.ego.pointer
            command = env.tables.routes[route, OfRoute.COMMAND].long()
            context = command * len(SPEEDS) + speed_bin(env.state.vehicles.speed[:, 0])
            prompts = describe(env.state, env.tables, rows)
            parts.append((picture(rows).cpu(), prompts, action.cpu(), context.cpu()))
        disturbed = noise * torch.randn(count, 2, generator=draw) * (step // 20 % 2)
        _, _, terminated, truncated, _ = env.step((action + disturbed.to(device)).clamp(-1, 1))
        over = terminated | truncated
        if bool(over.any()):
            env.reset(options={"reset_mask": over})
        step += 1
    pictures, _, actions, contexts = zip(*parts, strict=True)
    said = tuple(prompt for part in parts for prompt in part[1])
    return Drive(torch.cat(pictures)[:views], said[:views], torch.cat(actions)[:views], torch.cat(contexts)[:views])


def prior(drive: Drive) -> Tensor:
    """Return the log-frequency of each behaviour in each context, [6, 4, 30], each counted once more than seen."""
    counts = torch.ones(CONTEXTS * BEHAVIOURS)
    places = drive.contexts * BEHAVIOURS + drive.behaviours
    counts.index_add_(0, places, torch.ones(len(drive)))
    shares = counts.view(CONTEXTS, BEHAVIOURS)
    return (shares / shares.sum(1, keepdim=True)).log().view(len(COMMANDS), len(SPEEDS), BEHAVIOURS)


def context_captions(context: int) -> list[str]:
    """Return the 30 captions of a context."""
    command, speed = divmod(context, len(SPEEDS))
    return [sentence(command, speed, behaviour) for behaviour in range(BEHAVIOURS)]


def teach_clip(
    engine: ClipEngine, drive: Drive, steps: int, batch: int = 128, rate: float = 1e-3, objective: Objective = "anchors"
) -> Iterator[float]:
    """Train a CLIP model in place on a drive; yield each step's loss.

    anchors: which of the 30 behaviours of the known context a picture goes with, as the bonus asks. pairs: CLIP's own
    loss, pictures against each other's captions (each caption once).
    """
    model = engine.model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    behaviours = drive.behaviours
    for _ in range(steps):
        if objective == "anchors":
            # One context a step: 30 captions instead of 720, drawn as often as it occurs.
            context = drive.contexts[torch.randint(len(drive), ())]
            here = (drive.contexts == context).nonzero().flatten()
            rows = here[torch.randint(len(here), (batch,))]
            images, texts = _towers(engine, drive.pictures[rows], context_captions(int(context)))
            loss = functional.cross_entropy(model.logit_scale.exp() * images @ texts.T, behaviours[rows])
        else:
            rows = _with_different_captions(drive, batch)
            pairs = zip((drive.contexts[rows]).tolist(), behaviours[rows].tolist(), strict=True)
            images, texts = _towers(engine, drive.pictures[rows], [context_captions(c)[b] for c, b in pairs])
            loss = contrastive_loss(images, texts, model.logit_scale.exp())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6052)  # ln 100, as in CLIP
        yield loss.item()
    model.eval()


@torch.no_grad()
def clip_accuracy(engine: ClipEngine, drive: Drive, log_prior: Tensor | None = None) -> float:
    """Return the share of views whose behaviour is the likeliest of the 30 of their context."""
    right = 0
    for context in drive.contexts.unique().tolist():
        rows = (drive.contexts == context).nonzero().flatten()
        images, texts = _towers(engine, drive.pictures[rows], context_captions(context))
        logits = engine.model.logit_scale.exp() * images @ texts.T
        if log_prior is not None:
            logits = logits + log_prior.view(CONTEXTS, BEHAVIOURS)[context]
        right += int((logits.argmax(1) == drive.behaviours[rows]).sum())
    return right / len(drive)


def _towers(engine: ClipEngine, pictures: Tensor, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Return unit vectors of pictures and of captions, with gradients where they are on."""
    images = engine.model.encode_image(engine.prepare(list(pictures)))
    texts = engine.model.encode_text(engine.tokens(captions))
    return functional.normalize(images, dim=1), functional.normalize(texts, dim=1)


def _with_different_captions(drive: Drive, most: int) -> Tensor:
    """Return rows of which no two have the same caption, at most so many, [N]."""
    order = torch.randperm(len(drive))
    captions = (drive.contexts * BEHAVIOURS + drive.behaviours)[order]
    first: dict[int, int] = {}
    for row, caption in zip(order.tolist(), captions.tolist(), strict=True):
        first.setdefault(caption, row)
    return torch.tensor(list(first.values())[:most])
