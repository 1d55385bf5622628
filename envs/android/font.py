"""The phone's letters: 3 × 5 pixels each, in a cell of 4 × 6, drawn for this project.

Case is not shown: small letters look like capitals. A text's state keeps its case all the same.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

PITCH = 4
"""Pixels from one letter to the next."""
HEIGHT = 5
"""Pixels of a letter."""


def _zipped(letters: str, rows: str) -> dict[str, str]:
    return dict(zip(letters, rows.split(), strict=True))


_ROWS = {
    **_zipped("ABCDEFGHI", "25755 65656 34443 65556 74647 74644 34553 55755 72227"),
    **_zipped("JKLMNOPQR", "11152 55655 44447 57755 65555 25552 65644 25573 65655"),
    **_zipped("STUVWXYZ", "34216 72222 55557 55552 55775 55255 55222 71247"),
    **_zipped("ÄÖÜ", "52575 50757 50557"),
    **_zipped("0123456789", "75557 26227 71747 71717 55711 74717 74757 71122 75757 75717"),
    **_zipped(".,:;!?-+/@", "00002 00024 02020 02024 22202 61202 00700 02720 11244 25743"),
    **_zipped("$%()'\"_=*#", "36236 51245 12221 42224 22000 55000 00007 07070 05250 57575"),
    **_zipped("&<>|… ×÷", "25253 12421 42124 22222 00005 00000 05250 20702"),
}
"""Letter to five octal digits, one a row: the bits of a digit are its three pixels."""


def known(letter: str) -> bool:
    """Whether a letter has a picture of its own."""
    return letter.upper() in _ROWS


@lru_cache(maxsize=256)
def glyph(letter: str) -> np.ndarray:
    """Return a letter's pixels, [5, 4] bool; a filled box where it has none."""
    digits = _ROWS.get(letter.upper(), "77777")
    return np.array([[int(digit) >> 2 & 1, int(digit) >> 1 & 1, int(digit) & 1, 0] for digit in digits], bool)


@lru_cache(maxsize=8192)
def line(text: str, ink: int, paper: int) -> np.ndarray:
    """Return a line of text in palette indices, [5, 4 · letters] uint8. Not to be written to."""
    if not text:
        return np.zeros((HEIGHT, 0), np.uint8)
    mask = np.concatenate([glyph(letter) for letter in text], axis=1)
    pixels = np.where(mask, ink, paper).astype(np.uint8)
    pixels.setflags(write=False)
    return pixels
