"""The screen at large sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from palaestra.envs.android import touch
from palaestra.envs.android.adb_world import averaged
from palaestra.envs.android.apps import APPS
from palaestra.envs.android.device import Device
from palaestra.envs.android.draw import STATUS
from palaestra.envs.android.fine import LEAST, corner, fitted, line, picture, ramp
from palaestra.envs.android.keyboard import TOP
from palaestra.envs.android.palette import DARK, LIGHT, PURPLE
from palaestra.envs.android.views import TALL, WIDTH

CLOCK, CONTACTS = "com.google.android.deskclock", "com.google.android.contacts"


def test_texts_are_set_smaller_before_they_are_cut() -> None:
    assert fitted("Files", 9) == ("Files", 1.0)
    assert fitted("Settings", 4) == ("Settings", 0.5)
    assert fitted("Calculator", 4) == ("Calcula…", 0.5)
    assert fitted("", 3) == ("", 1.0)


def test_corners_are_quarters_of_a_disc() -> None:
    assert corner(1).tolist() == [[int(255 * (1.5 - math.sqrt(0.5)))]]
    assert corner(40).sum() / 255 == pytest.approx(math.pi * 1600 / 4, rel=0.01)
    assert (corner(9) == corner(9).T).all() and corner(9)[-1, -1] == 255 and corner(9)[0, 0] == 0


def test_inks_run_from_paper_to_ink() -> None:
    colors = ramp(bytes([0, 200, 50]), bytes([255, 100, 50]))
    assert colors[0].tolist() == [255, 100, 50] and colors[255].tolist() == [0, 200, 50]
    assert colors[51].tolist() == [204, 120, 50]


def test_letters_have_case_and_the_pitch_of_the_small_ones() -> None:
    assert (line("a", 100, 8000, 8000) != line("A", 100, 8000, 8000)).any()
    assert line("Wi-Fi", 100, 8000, 8000).shape == (7 * 8, 5 * 4 * 8)
    assert line("il", 50, 8000, 8000).shape == (28, 32)
    first, second = np.hsplit(line("II", 100, 8000, 8000), 2)
    assert (first == second).all() and first.max() == 255


def test_icons_are_smooth_and_fill_what_the_small_ones_fill() -> None:
    alpha = picture("file", 80, 80)
    assert ((alpha > 0) & (alpha < 255)).any()
    coarse = alpha.reshape(8, 10, 8, 10).mean((1, 3)) > 127
    from palaestra.envs.android.icons import mask

    assert (coarse == mask("file")).mean() > 0.9


@pytest.mark.parametrize("package", APPS)
def test_large_screens_show_what_small_ones_do_where_they_do(package: str) -> None:
    device = Device(0)
    device.open(package)
    small, large = device.screen(), averaged(device.screen(8 * TALL, 8 * WIDTH), TALL, WIDTH)

    def likeness(one: np.ndarray) -> float:
        return float(np.corrcoef(one.ravel(), large.ravel())[0, 1])

    assert likeness(small) > 0.75
    assert all(likeness(np.roll(small, by, axis)) < likeness(small) - 0.05 for by in (-3, 3) for axis in (0, 1))


@pytest.mark.parametrize("night", ["1", "2"])
def test_fills_have_their_colours_and_nothing_is_drawn_over_bars(night: str) -> None:
    device = Device(0)
    device.set("secure", "ui_night_mode", night)
    device.open(CLOCK)
    for _ in range(9):
        device.database(CLOCK).insert("alarms", hour=1, minutes=1)
    device.changed()
    before = device.screen(16 * TALL, 16 * WIDTH)
    palette = DARK if night == "2" else LIGHT
    assert (before[16 * STATUS + 2, 16 * 40 : 16 * 60] == palette[PURPLE]).all()
    touch.swipe(device, 30, 90, 30, 70)
    after = device.screen(16 * TALL, 16 * WIDTH)
    bar = slice(0, 16 * (STATUS + 10))
    assert device.page.scroll > 0 and (before != after).any() and (before[bar] == after[bar]).all()


def test_the_keyboard_covers_the_lower_part() -> None:
    device = Device(0)
    device.open(CONTACTS, "form")
    touch.tap(device, 20, 22)
    assert device.typing
    letters = device.screen(8 * TALL, 8 * WIDTH)[8 * TOP :]
    device.state.digits = True
    device.changed()
    assert (device.screen(8 * TALL, 8 * WIDTH)[8 * TOP :] != letters).any()


def test_sizes_take_turns_and_each_shows_the_newest() -> None:
    device = Device(0)
    small, large = device.screen(), device.screen(2 * LEAST, LEAST)
    device.open(CONTACTS)
    assert (device.screen(2 * LEAST, LEAST) != large).any() and (device.screen() != small).any()
    touch.home(device)
    assert (device.screen() == small).all() and (device.screen(2 * LEAST, LEAST) == large).all()
