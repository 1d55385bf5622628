"""Draw the four families of worlds at play, for the README: `python results/families/make.py`.

ManiSkill's own camera (a CPU will do, see `palaestra doctor maniskill`), a town from above, a phone, and pages that are
searched and zoomed into; each played by its scripted expert.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from palaestra.envs.android.views import TALL, WIDTH
from palaestra.envs.android.world import PhoneEnv
from palaestra.envs.driving.expert import expert_action
from palaestra.envs.driving.world import DrivingEnv
from palaestra.envs.manipulation.experts import pick_cube
from palaestra.envs.registry import source
from palaestra.envs.retrieval.documents import document_corpus
from palaestra.envs.retrieval.expert import ExpertConfig, plan
from palaestra.envs.retrieval.retrievers import BM25
from palaestra.envs.retrieval.views import Budget
from palaestra.envs.retrieval.world import PageWorldConfig, PageWorlds

SIDE, LINES, FRAMES, RATE = 256, 34, 48, 6
"""Pixels of a panel and of its caption, frames, and frames a second."""
Frame = tuple[Image.Image, str]


def manipulation() -> Iterator[Frame]:
    """Play ManiSkill's PickCube."""
    env = source("maniskill/PickCube-v1", control="pd_ee_delta_pos", render_mode="rgb_array").single()
    observation, _ = env.reset(seed=3)
    while True:
        yield panel(np.asarray(env.render())), "maniskill/PickCube-v1"
        observation, *_ = env.step(pick_cube(torch.as_tensor(observation)[None])[0].numpy())


def driving() -> Iterator[Frame]:
    """Drive through a town."""
    env = DrivingEnv(maps="town", split="test", render_mode="rgb_array")
    env.reset(seed=[2])
    while True:
        for _ in range(4):
            env.step(expert_action(env))
        yield panel(env.render()[0][:384]), "driving/town-v0"


def phone() -> Iterator[Frame]:
    """Do some tasks on a phone."""
    for seed in range(100):
        phones = PhoneEnv(level=2, height=2 * TALL, width=2 * WIDTH, render_mode="rgb_array")
        observation, _ = phones.reset(seed=[seed])
        task = observation["text"][0].splitlines()[0]
        over = False
        while not over:
            yield panel(observation["screen"][0]), task
            observation, _, terminated, truncated, _ = phones.step(phones.expert())
            over = bool(terminated[0] or truncated[0])
        yield panel(observation["screen"][0]), task


def retrieval() -> Iterator[Frame]:
    """Search pages, zoom, and answer."""
    corpus, budget = document_corpus(1), Budget(least=SIDE**2, most=SIDE**2)
    pages = {page.id: page for page in corpus.pages}
    worlds = PageWorlds(corpus, BM25(corpus.texts), config=PageWorldConfig(noise=0.0), budget=budget)
    random = np.random.default_rng(0)
    for question in (each for each in corpus.splits["train"] if each.regions):
        (turn,) = worlds.reset([question])
        shown = Image.new("RGB", (SIDE, SIDE), "white")
        for action in plan(question, pages, budget, ExpertConfig(naive=0.0, skip=0.0), random):
            said = action[action.index("</think>") + len("</think>") :]
            yield from [(shown, f"{question.text} {said}")] * 4
            turn = worlds.step([0], [action])[0].turn
            if turn is not None and turn.images:
                shown = panel(turn.images[-1].numpy())
                yield from [(shown, f"{question.text} {said}")] * 4


def panel(picture: np.ndarray) -> Image.Image:
    """Fit a picture into a square, on grey."""
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    square = Image.new("RGB", (SIDE, SIDE), (40, 40, 40))
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return square


def side_by_side(frames: tuple[Frame, ...]) -> Image.Image:
    """Put the families beside each other, each over its caption."""
    font: Any = ImageFont.load_default(12)
    whole = Image.new("RGB", (SIDE * len(frames), SIDE + LINES), "white")
    draw = ImageDraw.Draw(whole)
    for place, (picture, caption) in enumerate(frames):
        whole.paste(picture, (place * SIDE, 0))
        lines = textwrap.wrap(caption, 42)[:2]
        draw.multiline_text((place * SIDE + 6, SIDE + 3), "\n".join(lines), "black", font)
    return whole


def main() -> None:
    """Write families.gif beside this file."""
    players = (manipulation(), driving(), phone(), retrieval())
    frames = [side_by_side(moment) for moment in islice(zip(*players, strict=False), FRAMES)]
    palette = frames[FRAMES // 2].quantize(128, dither=Image.Dither.NONE)
    film = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    target = Path(__file__).with_name("families.gif")
    film[0].save(target, save_all=True, append_images=film[1:], duration=1000 // RATE, loop=0, optimize=True)


if __name__ == "__main__":
    main()
