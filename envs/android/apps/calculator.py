"""Calculator: a line, a keypad, and whole-number sums."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page
from palaestra.envs.android.palette import GREEN
from palaestra.envs.android.views import Screen, headline, label, pad

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

app = App("com.google.android.calculator", "Calculator", "calculator", GREEN)
KEYS = ["7 8 9 /", "4 5 6 *", "1 2 3 -", "C 0 = +"]


def evaluate(line: str) -> str:
    """Return the value of a sum such as "12+3*4", with * and / before + and -; "error" where it is none.

    >>> evaluate("12+3*4")
    '24'
    """
    if re.fullmatch(r"-?\d+([-+*/]\d+)*", line) is None:
        return "error"
    total = 0.0
    for sign, product in re.findall(r"([-+]?)(\d+(?:[*/]\d+)*)", line):
        value = 1.0
        for how, digits in re.findall(r"([*/]?)(\d+)", product):
            if how == "/" and int(digits) == 0:
                return "error"
            value = value / int(digits) if how == "/" else value * int(digits)
        total += -value if sign == "-" else value
    return f"{total:.10g}"


@app.screen("com.android.calculator2.Calculator")
def keypad(device: Device, page: Page) -> Screen:
    """Return the line and the keys."""
    line = page.texts.setdefault("line", "")

    def press(key: str) -> None:
        if key == "C":
            page.texts["line"] = ""
        elif key == "=":
            page.texts["line"] = evaluate(line)
        else:
            page.texts["line"] = ("" if line == "error" else line)[-14:] + key

    return Screen([label(""), headline(line or "0", fill=GREEN, name="line"), label(""), pad(KEYS, press, 4, 20)])
