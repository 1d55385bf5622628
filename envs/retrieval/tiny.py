"""A corpus that a model of 150,000 parameters can learn to search, zoom into and read in minutes on one core.

A page is 96 pixels square: 3 x 3 cells, six of which hold an icon above a two-digit number. Seen whole through 24 x 24
pixels it shows its icons and no number; a cell cut out shows both. Retrieval knows a page by its title of two words,
while questions use everyday words for them: who searches in the user's own words finds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from palaestra.envs.retrieval.corpus import Corpus, Page, Question, Region

SIDE = 96
"""Of a page, in pixels."""
CELL = 32
"""Of one of its 3 x 3 cells."""
ICONS = {"ring": 0b111101111, "cross": 0b010111010, "corner": 0b100100111, "bar": 0b000111000}
ICONS |= {"stairs": 0b001011111, "chess": 0b101010101}
KEYS = tuple(ICONS)
"""Names of the icons, each of 3 x 3 blocks: the bits, row by row."""
PLACES = ("upper-left", "upper", "upper-right", "left", "middle", "right", "lower-left", "lower", "lower-right")
"""What the cells are called, row by row."""
FONT = (
    0x3A33AE62E, 0x11842108E, 0x3A211111F, 0x7C441062E, 0x8CA97C42,
    0x7E1E0862E, 0x1910F462E, 0x7C2222108, 0x3A317462E, 0x3A317844C,
)  # fmt: skip
"""Digits of 5 x 7 blocks: the bits, row by row."""
SYNONYMS = (
    "physician/doctor automobile/car infant/baby vessel/ship residence/house currency/money garment/clothes "
    "timber/wood beverage/drink canine/dog feline/cat equine/horse bovine/cow avian/bird maritime/sea solar/sun "
    "lunar/moon dental/tooth optical/eye manual/hand nocturnal/night culinary/kitchen arboreal/tree lexical/word "
    "fiscal/tax judicial/court military/army aerial/air thermal/heat acoustic/sound urban/city rural/village "
    "juvenile/child senile/elder tuition/school footwear/shoe cutlery/knife foliage/leaf precipitation/rain "
    "textile/cloth"
)
"""Title words, and what people say instead."""
TITLES, ALIASES = zip(*(pair.split("/") for pair in SYNONYMS.split()), strict=True)


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """What a page shows."""

    pixels: torch.Tensor
    """[96, 96, 1] uint8."""
    icons: tuple[int, ...]
    """[9] index into `KEYS` of each cell's icon, row by row; -1 for an empty cell."""
    numbers: tuple[str, ...]
    """[9] two digits in each cell, or empty."""


def draw(generator: np.random.Generator) -> Sheet:
    """Draw a page with each icon once, in six of its cells."""
    page = np.zeros((SIDE, SIDE), np.uint8)
    icons, numbers = [-1] * 9, [""] * 9
    for icon, place in enumerate(generator.permutation(9)[: len(KEYS)].tolist()):
        y, x = (CELL * part for part in divmod(place, 3))
        icons[place], numbers[place] = icon, f"{generator.integers(100):02d}"
        page[y + 4 : y + 16, x + 8 : x + 20] = _blocks(ICONS[KEYS[icon]], 3, 3, 4)
        for digit, left in zip(numbers[place], (5, 17), strict=True):
            page[y + 17 : y + 31, x + left : x + left + 10] = _blocks(FONT[int(digit)], 7, 5, 2)
    return Sheet(torch.from_numpy(page)[..., None], tuple(icons), tuple(numbers))


def _blocks(bits: int, rows: int, columns: int, side: int) -> NDArray[np.uint8]:
    """Return a bitmap, each bit a square of so many pixels."""
    flat = [255 * (bits >> place & 1) for place in reversed(range(rows * columns))]
    return np.kron(np.array(flat, np.uint8).reshape(rows, columns), np.ones((side, side), np.uint8))


def cell_box(place: int) -> tuple[float, float, float, float]:
    """Return the box of a cell, 0 to 8 row by row, in raw pixels."""
    row, column = divmod(place, 3)
    return float(CELL * column), float(CELL * row), float(CELL * (column + 1)), float(CELL * (row + 1))


def thought(key: str, place: int) -> str:
    """Return what one thinks before cutting out a cell: what is looked for, and where it is."""
    return f"{key} {PLACES[place]}"


def tiny_corpus(seed: int = 0, *, sft: int = 250, rl: int = 250, test: int = 100) -> Corpus:
    """Make a corpus: every page is a document of its own, with one question an icon, and belongs to one split.

    Args:
        seed: Of pages, titles and their order; the corpus is a pure function of the arguments.
        sft: Pages whose questions experts demonstrate.
        rl: Pages whose questions are for reinforcement.
        test: Pages held out.

    Raises:
        ValueError: More pages than the 780 pairs of title words.
    """
    pairs = list(combinations(range(len(TITLES)), 2))
    total = sft + rl + test
    if total > len(pairs) or min(sft, rl, test) < 0:
        raise ValueError(
            f"{total} pages (sft {sft}, rl {rl}, test {test}): titles are unique for at most {len(pairs)}."
        )
    generator = np.random.default_rng((seed, 0x7469))
    order = generator.permutation(len(pairs))[:total].tolist()
    splits = ["sft"] * sft + ["rl"] * rl + ["test"] * test
    pages: list[Page] = []
    questions: dict[str, list[Question]] = {"sft": [], "rl": [], "test": []}
    # Retrievers break ties by page number: splits are mixed, so that no split comes first.
    for number, place in enumerate(generator.permutation(total).tolist()):
        sheet, pair = draw(generator), pairs[order[number]]
        document = f"sheet{number:03d}"
        page = Page(f"{document}_1", " ".join(TITLES[word] for word in pair), sheet.pixels, document)
        pages.append(page)
        questions[splits[place]] += _questions(page, sheet, pair)
    return Corpus(tuple(pages), {name: tuple(of_split) for name, of_split in questions.items()})


def _questions(page: Page, sheet: Sheet, pair: tuple[int, int]) -> list[Question]:
    """Return one question an icon."""
    made = []
    alias = " ".join(ALIASES[word] for word in pair)
    for place, (icon, number) in enumerate(zip(sheet.icons, sheet.numbers, strict=True)):
        if icon >= 0:
            made.append(
                Question(
                    id=f"{page.document}-{KEYS[icon]}",
                    text=f"What is below the {KEYS[icon]} of {alias}?",
                    answer=number,
                    gold=(page.id,),
                    kind="zoom",
                    regions=(Region(page.id, cell_box(place)),),
                    queries=(page.text,),
                    naive=alias,
                    thought=thought(KEYS[icon], place),
                )
            )
    return made
