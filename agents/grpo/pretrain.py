"""What a vision-language model brings along: seeing icons and digits, reading, and pointing, before any task.

First the eyes alone (icons in cells, digits in cut-outs), then reading and pointing in conversation, on random pages
that belong to no corpus. In between the eyes are frozen, as VRAG's are: else they forget the words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palaestra.agents.grpo.rollout import pad
from palaestra.agents.grpo.tiny import PATCHES, SIDE, TinySpeaker
from palaestra.agents.metrics import require_finite
from palaestra.envs.retrieval import tiny
from palaestra.envs.retrieval.core import Turn
from palaestra.envs.retrieval.expert import zoom
from palaestra.envs.retrieval.views import TINY, to_shown, whole

LOWER_CORNERS = (6, 8)
"""Squares of a cut-out from which its two digits are seen."""


@dataclass(frozen=True)
class PretrainConfig:
    """Stage 0 of the small model."""

    pages: int = 1000
    """Random pages to learn from; fresh noise each time they are seen."""
    vision_steps: int = 150
    """Gradient steps of the eyes alone."""
    vision_batch: int = 64
    """Pages, and as many cut-outs, of such a step."""
    steps: int = 400
    """Gradient steps of reading and pointing."""
    batch: int = 64
    """Conversations of such a step, one of four about pointing."""
    named: int = 4
    """Icons that are pointed at in a conversation."""
    learning_rate: float = 3e-3
    """AdamW's at its peak, on a cosine."""
    noise: float = 0.15
    """As the world's."""


@dataclass(frozen=True, slots=True)
class _Pool:
    """Clean views of random pages."""

    wholes: Tensor
    """[P, 24, 24, 1] uint8."""
    cells: Tensor
    """[P, 9, 24, 24, 1] uint8."""
    icons: Tensor
    """[P, 9] int64, -1 for an empty cell."""
    numbers: Tensor
    """[P, 9] int64, -1 for an empty cell."""


def pretrain(speaker: TinySpeaker, config: PretrainConfig, seed: int = 0) -> Iterator[dict[str, float]]:
    """Train, freeze the eyes, and yield metrics now and then.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    generator = np.random.default_rng((seed, 0x7072))
    pool = _pool(config.pages, generator)
    yield from _see(speaker, pool, config)
    speaker.eyes.requires_grad_(False)
    yield from _point(speaker, pool, config)


def _pool(count: int, generator: np.random.Generator) -> _Pool:
    sheets = [tiny.draw(generator) for _ in range(count)]
    raw = torch.stack([sheet.pixels for sheet in sheets]).permute(0, 3, 1, 2).float()
    cells = raw.unfold(2, tiny.CELL, tiny.CELL).unfold(3, tiny.CELL, tiny.CELL).reshape(-1, 1, tiny.CELL, tiny.CELL)

    def shown(pictures: Tensor) -> Tensor:
        scaled = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        return scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    numbers = [[int(number) if number else -1 for number in sheet.numbers] for sheet in sheets]
    icons = torch.tensor([sheet.icons for sheet in sheets])
    return _Pool(shown(raw), shown(cells).unflatten(0, (count, PATCHES)), icons, torch.tensor(numbers))


def _noisy(pictures: Tensor, level: float) -> Tensor:
    noise = torch.randn(pictures.shape) * (255 * level)
    return (pictures + noise).round().clamp(0, 255).to(torch.uint8)


def _some_cells(pool: _Pool, count: int) -> tuple[Tensor, Tensor]:
    """Draw pages, and one filled cell of each: two times [count]."""
    rows = torch.randint(len(pool.icons), (count,))
    return rows, torch.multinomial((pool.icons[rows] >= 0).float(), 1).squeeze(1)


def _optimiser(
    parameters: list[nn.Parameter], rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)


def _see(speaker: TinySpeaker, pool: _Pool, config: PretrainConfig) -> Iterator[dict[str, float]]:
    """Train the eyes: what a square shows should look like the word for it.

    An icon is named where it stands on the page; the digits of a cut-out are, in its lower corners.
    """
    words, width = speaker.words, speaker.config.width
    keys = torch.tensor([words.id(f" {key}") for key in tiny.KEYS])
    digits = torch.tensor([words.id(str(digit)) for digit in range(10)])
    empty = nn.Parameter(torch.randn(1, width))
    parameters = [*speaker.eyes.parameters(), *speaker.embedding.parameters(), empty]
    optimiser, schedule = _optimiser(parameters, config.learning_rate, config.vision_steps)
    for step in range(config.vision_steps):
        rows, cells = _some_cells(pool, config.vision_batch)
        seen = speaker.eyes(_noisy(torch.cat([pool.wholes[rows], pool.cells[rows, cells]]), config.noise))
        pages, cuts = seen.split(len(rows))
        icons = pages @ torch.cat([speaker.embedding(keys), empty]).T / width**0.5
        target = pool.icons[rows] % (len(tiny.KEYS) + 1)  # an empty cell is the last class
        read = cuts[:, LOWER_CORNERS] @ speaker.embedding(digits).T / width**0.5
        number = pool.numbers[rows, cells]
        shown = torch.stack([number // 10, number % 10], 1)
        losses = [F.cross_entropy(a.flatten(0, 1), b.flatten()) for a, b in ((icons, target), (read, shown))]
        loss = torch.stack(losses).sum()
        _update(loss, parameters, optimiser, schedule)
        if (step + 1) % 100 == 0:
            icon = (icons.argmax(-1) == target).float().mean().item()
            digit = (read.argmax(-1) == shown).float().mean().item()
            yield {"pretrain/icons": icon, "pretrain/digits": digit, "pretrain/vision_loss": loss.item()}


def _point(speaker: TinySpeaker, pool: _Pool, config: PretrainConfig) -> Iterator[dict[str, float]]:
    """Train to point at icons that were named, and to read a cut-out."""
    parameters = [p for p in speaker.parameters() if p.requires_grad]
    optimiser, schedule = _optimiser(parameters, config.learning_rate, config.steps)
    pointing = config.batch // 4
    for step in range(config.steps):
        rows, cells = _some_cells(pool, config.batch)
        pictures = torch.cat([pool.wholes[rows[:pointing]], pool.cells[rows[pointing:], cells[pointing:]]])
        numbers = pool.numbers[rows, cells].tolist()[pointing:]
        said = [_pointed(icons.tolist(), config.named) for icons in pool.icons[rows[:pointing]]]
        said += [f"<think> got</think><answer>{number:02d}</answer>" for number in numbers]
        shown = list(_noisy(pictures, config.noise))
        ids, learnt = _conversations(speaker, shown[0], said)
        logits = speaker.logits(ids, shown)[:, :-1]
        target = torch.where(learnt, ids, -100)[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        _update(loss, parameters, optimiser, schedule)
        if (step + 1) % 100 == 0:
            right = (logits.argmax(-1) == target)[target >= 0].float().mean()
            whole = ((logits.argmax(-1) == target) | (target < 0)).all(1).float()
            yield {
                "pretrain/tokens": right.item(),
                "pretrain/pointing": whole[:pointing].mean().item(),
                "pretrain/reading": whole[pointing:].mean().item(),
                "pretrain/loss": loss.item(),
            }


def _pointed(icons: list[int], count: int) -> str:
    """Return what is said when some of a page's icons are named and pointed at, one after the other."""
    view = whole("", torch.empty(tiny.SIDE, tiny.SIDE, 1), TINY)
    named = torch.randperm(len(tiny.KEYS))[:count].tolist()
    return "".join(
        zoom(tiny.thought(tiny.KEYS[icon], place := icons.index(icon)), to_shown(tiny.cell_box(place), view), view.size)
        for icon in named
    )


def _conversations(speaker: TinySpeaker, picture: Tensor, said: list[str]) -> tuple[Tensor, Tensor]:
    """Return ids [N, L] and which of them are learnt: all that is said but the names, which could be any."""
    start = speaker.read(Turn(images=(picture,)), first=True).ids
    names = torch.tensor([speaker.words.id(f" {key}") for key in tiny.KEYS])
    ids, real = pad([[*start, *speaker.words.encode(text)] for text in said])
    return ids, real & (torch.arange(ids.shape[1]) >= len(start)) & ~torch.isin(ids, names)


def _update(
    loss: Tensor,
    parameters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    require_finite(loss, "the loss of pre-training", "lower learning_rate")
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    schedule.step()
