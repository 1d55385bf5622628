"""Settings: a list of groups, each with switches, sliders and choices."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page
from palaestra.envs.android.noise import ordered
from palaestra.envs.android.palette import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, RED, TEAL
from palaestra.envs.android.views import Screen, View, label, row, slider, switch, toolbar

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

app = App("com.android.settings", "Settings", "settings", FAINT)

SWITCHES = {  # group: (title, namespace, key, value of on, value of off, icon)
    "network": [
        ("Wi-Fi", "global", "wifi_on", "1", "0", "wifi"),
        ("Airplane", "global", "airplane_mode_on", "1", "0", "airplane"),
        ("Data", "global", "mobile_data", "1", "0", "apps"),
    ],
    "devices": [("Bluetooth", "global", "bluetooth_on", "1", "0", "bluetooth")],
    "display": [
        ("Dark theme", "secure", "ui_night_mode", "2", "1", "moon"),
        ("Rotate", "system", "accelerometer_rotation", "1", "0", "reset"),
    ],
    "sound": [
        ("No disturb", "global", "zen_mode", "1", "0", "sound"),
        ("Vibrate", "system", "vibrate_when_ringing", "1", "0", "sound"),
    ],
    "location": [("Location", "secure", "location_mode", "3", "0", "location")],
    "clock": [("Auto time", "global", "auto_time", "1", "0", "clock")],
}
GROUPS = {  # screen: (title, icon, colour)
    "network": ("Network", "wifi", BLUE),
    "devices": ("Devices", "bluetooth", TEAL),
    "display": ("Display", "display", ORANGE),
    "sound": ("Sound", "sound", PURPLE),
    "location": ("Location", "location", RED),
    "clock": ("Time", "clock", GREEN),
    "apps": ("Apps", "apps", TEAL),
    "about": ("About", "about", FAINT),
}
FONTS = {"Small": "0.85", "Normal": "1.0", "Large": "1.15", "Largest": "1.3"}
"""Title to `font_scale`."""
TIMEOUTS = {"15 s": "15000", "30 s": "30000", "1 min": "60000", "5 min": "300000", "10 min": "600000"}
"""Title to `screen_off_timeout`."""


@app.screen("com.android.settings.Settings")
def groups(device: Device, page: Page) -> Screen:
    """Return the list of groups."""
    rows = []
    for name in ordered(device.noise, device.state.seed, "settings", list(GROUPS)):
        title, picture, color = GROUPS[name]
        rows.append(row(title, "", picture, partial(device.push, name), color))
    return Screen(rows, toolbar("Settings", fill=FAINT))


def _group(device: Device, name: str, more: list[View] | None = None) -> Screen:
    rows = [
        switch(title, device.setting(namespace, key) == on, device.toggler(namespace, key, on, off), picture,
               ink=GROUPS[name][2])
        for title, namespace, key, on, off, picture in SWITCHES.get(name, [])
    ]
    return Screen(rows + (more or []), toolbar(GROUPS[name][0], fill=GROUPS[name][2], back=device.finish))


@app.screen("com.android.settings.Settings$NetworkDashboardActivity")
def network(device: Device, page: Page) -> Screen:
    """Return Wi-Fi, airplane mode and mobile data."""
    return _group(device, "network")


@app.screen("com.android.settings.Settings$ConnectedDeviceDashboardActivity")
def devices(device: Device, page: Page) -> Screen:
    """Return Bluetooth."""
    return _group(device, "devices")


@app.screen("com.android.settings.Settings$DisplaySettingsActivity")
def display(device: Device, page: Page) -> Screen:
    """Return brightness, theme, font size and timeout."""
    bright = int(device.setting("system", "screen_brightness"))

    def set_brightness(share: float) -> None:
        level = 1 if share < 0.07 else 255 if share > 0.93 else round(1 + 254 * share)
        device.set("system", "screen_brightness", str(level))

    font, timeout = device.setting("system", "font_scale"), device.setting("system", "screen_off_timeout")
    return _group(device, "display", [
        label("Brightness", FAINT),
        slider((bright - 1) / 254, set_brightness, "brightness"),
        row("Font size", _title(FONTS, font), "edit", partial(device.push, "font"), ORANGE),
        row("Timeout", _title(TIMEOUTS, timeout), "timer", partial(device.push, "timeout"), ORANGE),
    ])  # fmt: skip


def _title(choices: dict[str, str], value: str) -> str:
    return next((title for title, known in choices.items() if known == value), value)


def _choices(device: Device, title: str, choices: dict[str, str], key: str) -> Screen:
    now = device.setting("system", key)
    rows = [
        row(name, "", "check" if value == now else "", partial(device.set, "system", key, value), BLUE)
        for name, value in choices.items()
    ]
    return Screen(rows, toolbar(title, fill=ORANGE, back=device.finish))


@app.screen("com.android.settings.Settings$TextReadingActivity")
def font(device: Device, page: Page) -> Screen:
    """Return the sizes of text."""
    return _choices(device, "Font size", FONTS, "font_scale")


@app.screen("com.android.settings.Settings$ScreenTimeoutActivity")
def timeout(device: Device, page: Page) -> Screen:
    """Return after how long the screen goes off."""
    return _choices(device, "Timeout", TIMEOUTS, "screen_off_timeout")


@app.screen("com.android.settings.Settings$SoundSettingsActivity")
def sound(device: Device, page: Page) -> Screen:
    """Return do not disturb, vibration and volume."""
    volume = int(device.setting("system", "volume_music"))
    return _group(device, "sound", [
        label("Volume", FAINT),
        slider(volume / 15, lambda share: device.set("system", "volume_music", str(round(15 * share))), "volume"),
    ])  # fmt: skip


@app.screen("com.android.settings.Settings$LocationSettingsActivity")
def location(device: Device, page: Page) -> Screen:
    """Return whether apps may know where the phone is."""
    return _group(device, "location")


@app.screen("com.android.settings.Settings$DateTimeSettingsActivity")
def clock(device: Device, page: Page) -> Screen:
    """Return whether the network sets the time."""
    return _group(device, "clock")


@app.screen("com.android.settings.Settings$ManageApplicationsActivity")
def apps(device: Device, page: Page) -> Screen:
    """Return the installed apps."""
    rows = [row(known.title, "", known.icon, None, known.color) for known in device.apps.values()]
    return Screen(rows, toolbar("Apps", fill=TEAL, back=device.finish))


@app.screen("com.android.settings.Settings$MyDeviceInfoActivity")
def about(device: Device, page: Page) -> Screen:
    """Return what phone this is."""
    rows = [row("Model", "Palaestra 1"), row("Android", "13"), row("Serial", f"PA{device.state.seed % 10**8:08d}")]
    return Screen([*rows, label("All simulated", INK)], toolbar("About", fill=FAINT, back=device.finish))
