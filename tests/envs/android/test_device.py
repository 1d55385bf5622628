"""The phone: screens, touches, back stack, keyboard, storage, snapshots."""

from __future__ import annotations

import sqlite3
from random import Random

import numpy as np
import pytest

from palaestra.envs.android import font, language, touch
from palaestra.envs.android.apps import APPS, LAUNCHER
from palaestra.envs.android.apps.calculator import evaluate
from palaestra.envs.android.device import Device
from palaestra.envs.android.noise import WILD, Noise, noise_named, ordered
from palaestra.envs.android.system import Popup
from palaestra.envs.android.views import TALL, WIDTH

CONTACTS = "com.google.android.contacts"


def tap_on(device: Device, name: str) -> None:
    placed = next(p for p in reversed(device.look()) if p.view.name == name and p.visible)
    assert touch.tap(device, placed.x + placed.view.width / 2, placed.y + placed.view.height / 2), name


def wander(device: Device, random: Random, steps: int) -> list[bytes]:
    """Touch at random and return the screens."""
    screens = []
    for _ in range(steps):
        x, y = random.uniform(0, WIDTH), random.uniform(0, TALL)
        what = random.randrange(8)
        if what < 5:
            touch.tap(device, x, y)
        elif what == 5:
            touch.swipe(device, x, y, random.uniform(0, WIDTH), random.uniform(0, TALL))
        elif what == 6:
            touch.type_text(device, "hello")
        else:
            random.choice((touch.back, touch.enter, touch.home))(device)
        device.tick(2)
        screens.append(device.screen().tobytes())
    return screens


@pytest.mark.parametrize("preset", ["calm", "wild", "drift(3)"])
def test_same_seed_and_touches_give_the_same_screens(preset: str) -> None:
    first, second = Device(5, noise_named(preset)), Device(5, noise_named(preset))
    assert wander(first, Random(1), 300) == wander(second, Random(1), 300)
    assert len(set(wander(Device(5), Random(1), 300))) > 40  # the wanderer sees something
    assert Device(6).database(CONTACTS)["contacts"] != Device(5).database(CONTACTS)["contacts"]


def test_a_snapshot_goes_on_as_the_phone_did() -> None:
    device = Device(5, WILD)
    wander(device, Random(1), 50)
    kept = device.snapshot()
    after = wander(device, Random(2), 100)
    device.restore(kept)
    assert wander(device, Random(2), 100) == after
    other = Device(99, WILD)
    other.restore(kept)
    assert wander(other, Random(2), 100) == after


def test_every_screen_of_every_app_can_be_drawn_and_left() -> None:
    device = Device(0)
    for package, app in APPS.items():
        device.open(package)
        assert device.activity == f"{package}/{app.activities[app.main]}"
        home = device.screen()
        touch.home(device)
        assert device.page.package == LAUNCHER
        if package != LAUNCHER:
            assert (device.screen() != home).any()


def test_larger_screens_show_the_same() -> None:
    device = Device(0)
    small, large = device.screen(), device.screen(3 * TALL, 3 * WIDTH)
    assert (large[::3, ::3] == small).all() and (large[2::3, 2::3] == small).all()
    assert device.screen(2400, 1080).shape == (2400, 1080, 3)


def test_the_home_screen_leads_to_apps_and_back_keeps_its_order() -> None:
    device = Device(0)
    tap_on(device, "Settings")
    tap_on(device, "Display")
    tap_on(device, "Font size")
    tap_on(device, "Large")
    assert device.setting("system", "font_scale") == "1.15"
    places = []
    for _ in range(4):
        places.append(device.place_name)
        touch.back(device)
    assert places == ["Settings/font", "Settings/display", "Settings/groups", "Home/home"]
    assert device.changes() == ["system/font_scale"]


def test_an_app_stays_where_it_was_behind_the_home_screen() -> None:
    device = Device(0)
    tap_on(device, "Settings")
    tap_on(device, "Sound")
    touch.home(device)
    tap_on(device, "Settings")
    assert device.place_name == "Settings/sound"


def test_text_goes_to_the_focused_field_or_nowhere() -> None:
    device = Device(0)
    assert not touch.type_text(device, "lost")
    device.open(CONTACTS, "form")
    assert not touch.type_text(device, "lost")
    tap_on(device, "Name")
    assert touch.type_text(device, "Ada, \"B\"\n") and device.page.texts["name"] == 'Ada, "B"'
    assert touch.tap(device, 3, 93)  # q on the keyboard
    assert device.page.texts["name"] == 'Ada, "B"q'
    touch.type_text(device, "x" * 10**6)
    assert len(device.page.texts["name"]) == touch.TEXT_LIMIT
    touch.back(device)
    assert not device.state.focus and device.place_name == "Contacts/form"
    tap_on(device, "clear name")
    assert device.page.texts["name"] == ""


def test_touches_off_the_screen_do_nothing() -> None:
    device = Device(0)
    before = device.snapshot()
    for x, y in ((-1, 5), (64, 5), (5, 128), (1e9, 1e9), (float("nan"), 5)):
        assert not touch.tap(device, x, y) and not touch.long_press(device, x, y)
        assert not touch.swipe(device, x, y, 500, -500)
    assert device.page == before.tasks[-1][-1]


def test_lists_scroll_to_their_end_and_no_further() -> None:
    device = Device(0)
    device.open("com.android.settings", "apps")
    first = device.screen()
    for _ in range(9):
        touch.swipe(device, 30, 100, 30, 40)
    end = device.page.scroll
    assert end > 0 and (device.screen() != first).any()
    assert next(p for p in device.look() if p.view.name == "Calculator").y + 12 == TALL
    for _ in range(9):
        touch.swipe(device, 30, 40, 30, 100)
    assert device.page.scroll == 0 and (device.screen() == first).all()


def test_a_popup_takes_all_touches_until_it_is_answered() -> None:
    device = Device(0)
    device.state.popup = Popup("cookie", False, 40)
    device.changed()
    touch.tap(device, 10, 30)
    assert device.place_name == "Home/home" and device.state.popup
    tap_on(device, "REJECT")
    assert device.state.popup is None
    device.state.popup = Popup("rate", False, 40)
    device.open("com.android.settings")
    tap_on(device, "5 STARS")
    assert device.place_name == "Home/home"


def test_each_chance_of_a_preset_does_what_it_says() -> None:
    """Where it is 1 it happens at once, where it is 0 never."""
    tired = Device(0, Noise(loading=1.0))
    tired.open(CONTACTS)
    assert not touch.back(tired) and not touch.swipe(tired, 30, 100, 30, 40) and tired.page.screen == "people_list"
    assert any(placed.view.name == "loading" for placed in tired.look())
    tired.tick(2)
    assert touch.back(tired) and tired.page.package == LAUNCHER
    pushy = Device(0, Noise(popup=1.0))
    pushy.open(CONTACTS)
    assert pushy.state.popup is not None
    noisy = Device(0, Noise(heads_up=1.0))
    noisy.tick(2)
    assert noisy.state.heads_up is not None and touch.tap(noisy, 30, 12)
    assert noisy.page.package == "com.simplemobiletools.smsmessenger"  # it took the touch
    frail = Device(0, Noise(crash=1.0))
    frail.open(CONTACTS)
    frail.tick(2)
    assert frail.page.package == LAUNCHER and all(stack[0].package != CONTACTS for stack in frail.state.tasks)
    assert Device(0, Noise(dark=1.0)).setting("secure", "ui_night_mode") == "2"
    papered, foreign = Device(0, Noise(wallpaper=1.0)), Device(0, Noise(german=1.0))
    assert (papered.screen()[100, 2] != Device(0).screen()[100, 2]).any()
    foreign.open("com.android.settings")
    texts = {placed.view.text for placed in foreign.look()}
    assert "Netzwerk" in texts and "Network" not in texts
    tap_on(foreign, "Network")  # its name stays
    assert foreign.page.screen == "network"
    plain, mixed, later = Device(0), Device(0, Noise(shuffle=1.0)), Device(0, Noise(shuffle=1.0, layout=1))
    assert len({device.screen().tobytes() for device in (plain, mixed, later)}) == 3
    calm = Device(0)
    wander(calm, Random(3), 300)
    assert calm.state.popup is None and not calm.state.notifications and not calm.state.loading_until


def test_a_keyboard_that_corrects_takes_one_word_for_another() -> None:
    device = Device(0, Noise(autocorrect=1.0))
    device.open(CONTACTS)
    tap_on(device, "plus")
    tap_on(device, "Name")
    touch.type_text(device, "good luck")
    typed = device.page.texts["name"]
    assert typed != "good luck" and len(set(typed.split()) & {"good", "luck"}) == 1
    assert language.autocorrected("xyzzy", Random(0)) == "xyzzy"  # nothing looks like it
    assert language.autocorrected("", Random(0)) == ""


def test_a_captcha_shuts_every_shop_for_good() -> None:
    device = Device(0, Noise(captcha=1.0))
    device.open("com.android.chrome")
    tap_on(device, "bargo.com")
    for _ in range(3):
        texts = {placed.view.text for placed in device.look()}
        assert "ARE YOU HUMAN?" in texts and "WELCOME" not in texts
        tap_on(device, "I am no robot")
    kept = device.snapshot()
    device.reset(0)
    assert not device.state.walled
    device.restore(kept)
    assert device.state.walled


def test_german_has_a_letter_for_every_sign_and_names_nothing_twice() -> None:
    assert all(font.known(letter) for text in language.GERMAN.values() for letter in text if letter != " ")
    same_page = ("Network", "Devices", "Display", "Sound", "Location", "Time", "About")
    assert len({language.GERMAN[word] for word in same_page}) == len(same_page)


def test_airplane_mode_ends_the_radios() -> None:
    device = Device(0)
    device.set("global", "bluetooth_on", "1")
    device.set("global", "airplane_mode_on", "1")
    assert device.setting("global", "wifi_on") == device.setting("global", "bluetooth_on") == "0"


def test_the_shade_turns_wifi_off() -> None:
    device = Device(0)
    assert touch.swipe(device, 30, 2, 30, 60) and device.state.shade
    tap_on(device, "Wi-Fi")
    assert device.setting("global", "wifi_on") == "0"
    touch.back(device)
    assert not device.state.shade


def test_tables_are_sqlite_where_asked() -> None:
    database = Device(0).database(CONTACTS)
    assert database.execute("SELECT count(*) FROM contacts") == [(8,)]
    database.execute("DELETE FROM contacts WHERE _id > 2")
    database.execute("UPDATE contacts SET name = 'Zed' WHERE _id = 1")
    changed = [(change[1], change[3] and change[3]["name"]) for change in database.changes()]
    assert changed[:2] == [(1, "Zed"), (3, None)]
    copy = sqlite3.connect(":memory:")
    copy.deserialize(database.file())
    assert copy.execute("SELECT name FROM contacts ORDER BY _id").fetchone() == ("Zed",)


@pytest.mark.parametrize(
    "sql",
    ["DROP nothing", "ATTACH DATABASE 'x.db' AS x", "SELECT 1; SELECT 2",
     "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n"],
)  # fmt: skip
def test_bad_sql_is_refused(sql: str) -> None:
    with pytest.raises(sqlite3.Error):
        Device(0).database(CONTACTS).execute(sql)


def test_contacts_are_made_changed_and_deleted() -> None:
    device = Device(0)
    device.open(CONTACTS)
    tap_on(device, "plus")
    tap_on(device, "save button")
    assert device.state.toast == "Name?"
    tap_on(device, "Name")
    touch.type_text(device, "Zed Ox")
    tap_on(device, "Phone")
    touch.type_text(device, "123")
    tap_on(device, "save")
    assert device.changes() == [f"{CONTACTS}/contacts/9"]
    row = device.database(CONTACTS)["contacts"][9]
    assert (row["name"], row["number"]) == ("Zed Ox", "123")
    for _ in range(3):
        touch.swipe(device, 30, 100, 30, 40)
    tap_on(device, "Zed Ox")
    tap_on(device, "trash")
    assert touch.back(device) and not device.page.state["dialog"]
    tap_on(device, "trash")
    tap_on(device, "DELETE")
    assert device.changes() == []


@pytest.mark.parametrize(
    ("line", "value"),
    [("12+3*4", "24"), ("7-10", "-3"), ("1/0", "error"), ("8/2/2", "2"), ("", "error"), ("2+", "error"), ("-2+5", "3"),
     ("__import__('os')", "error")],
)  # fmt: skip
def test_the_calculator_calculates(line: str, value: str) -> None:
    assert evaluate(line) == value


def test_presets_are_known_by_name() -> None:
    assert noise_named("drift(2)").layout == 2 and noise_named("drift(0)").shuffle == 0
    assert noise_named("drift(9)").popup > noise_named("drift(1)").popup
    with pytest.raises(ValueError, match="no preset 'stormy'"):
        noise_named("stormy")


def test_drift_swaps_two_entries_a_version_on_all_phones_and_wild_shuffles_each() -> None:
    entries = list("abcdefghij")
    before = entries
    for version in range(1, 4):
        now = ordered(noise_named(f"drift({version})"), 5, "icons", entries)
        assert sum(one != two for one, two in zip(before, now, strict=True)) == 2 and sorted(now) == entries
        assert now == ordered(noise_named(f"drift({version}.5)"), 6, "icons", entries)
        before = now
    assert ordered(noise_named("drift(0)"), 5, "icons", entries) == entries
    assert ordered(WILD, 5, "icons", entries) == ordered(WILD, 5, "icons", entries)
    assert ordered(WILD, 5, "icons", entries) != ordered(WILD, 6, "icons", entries)


def test_dark_themes_change_colours_only() -> None:
    device = Device(0)
    light = device.screen()
    device.set("secure", "ui_night_mode", "2")
    dark = device.screen()
    assert (light != dark).any(2).mean() > 0.02
    assert np.unique(dark.reshape(-1, 3), axis=0).shape == np.unique(light.reshape(-1, 3), axis=0).shape
