"""Colours by number: a canvas holds palette indices, so a dark theme is another palette and drawing is fast."""

from __future__ import annotations

import numpy as np

_COLORS = {  # name: light theme, dark theme
    "PAPER": (0xFAFAFA, 0x121212),
    "INK": (0x202124, 0xE8EAED),
    "FAINT": (0x80868B, 0x9AA0A6),
    "LINE": (0xDADCE0, 0x3C4043),
    "CARD": (0xE8EAED, 0x2A2B2E),
    "BAR": (0x3C4043, 0x000000),
    "WHITE": (0xFFFFFF, 0xFFFFFF),
    "BLACK": (0x000000, 0x000000),
    "BLUE": (0x1A73E8, 0x4A90E8),
    "GREEN": (0x188038, 0x34A853),
    "RED": (0xD93025, 0xE8453C),
    "ORANGE": (0xE8710A, 0xF08A2C),
    "PURPLE": (0x8430CE, 0xA050E0),
    "TEAL": (0x00897B, 0x26A69A),
    "YELLOW": (0xF9AB00, 0xFDD663),
    "PINK": (0xD01884, 0xE84AA8),
    "BROWN": (0x795548, 0xA1887F),
    "SKY": (0x8AB4F8, 0x2A4A80),
    "KEY": (0xFFFFFF, 0x4A4C50),
    "KEYS": (0xCFD8DC, 0x202124),
}

(PAPER, INK, FAINT, LINE, CARD, BAR, WHITE, BLACK, BLUE, GREEN) = range(10)
(RED, ORANGE, PURPLE, TEAL, YELLOW, PINK, BROWN, SKY, KEY, KEYS) = range(10, 20)
WALLPAPERS = (KEYS, LINE, YELLOW)
"""Colours behind the home screen's icons, beside the usual one."""
NONE = -1
"""No fill: what lies below shows."""


def _palette(theme: int) -> np.ndarray:
    values = [pair[theme] for pair in _COLORS.values()]
    return np.array([[value >> 16, value >> 8 & 255, value & 255] for value in values], np.uint8)


LIGHT, DARK = _palette(0), _palette(1)
"""[20, 3] uint8 each."""
