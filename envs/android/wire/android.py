"""The shell's programs that are Android's own: activities, settings, packages, input, databases, what is running."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable

from palaestra.envs.android.apps.shops import address
from palaestra.envs.android.wire.shell import Command, Shell
from palaestra.envs.android.wire.words import ShellError

PROPERTIES = {
    "sys.boot_completed": "1", "dev.bootcomplete": "1", "ro.build.version.sdk": "33", "ro.build.version.release": "13",
    "ro.product.model": "Palaestra 1", "ro.product.manufacturer": "Palaestra", "ro.product.brand": "palaestra",
    "ro.product.name": "palaestra", "ro.product.device": "palaestra", "ro.product.cpu.abi": "x86_64",
    "ro.build.type": "userdebug", "ro.kernel.qemu": "1", "ro.boot.qemu": "1", "init.svc.bootanim": "stopped",
    "persist.sys.timezone": "UTC", "ro.serialno": "PALAESTRA1", "ro.debuggable": "1",
}  # fmt: skip
_BOOTING = {"sys.boot_completed": "", "dev.bootcomplete": "", "init.svc.bootanim": "running"}
KEYS = {3: "HOME", 4: "BACK", 66: "ENTER", 67: "DEL", 111: "ESCAPE", 160: "NUMPAD_ENTER", 278: "COPY",
        279: "PASTE"}  # fmt: skip
"""Android's key codes that do something here; the others are taken and do nothing."""
PROVIDERS = {"com.android.providers.contacts": "com.google.android.contacts",
             "com.android.providers.telephony": "com.simplemobiletools.smsmessenger"}  # fmt: skip
"""Packages that keep an app's rows on Android, and the app that keeps them here."""


def _input(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    words = [word for word in arguments if word]
    if words[:1] in (["touchscreen"], ["keyboard"], ["mouse"]):
        words = words[1:]
    what, rest = words[0] if words else "", words[1:]
    phone = shell.phone
    if what == "tap":
        phone.tap(float(rest[0]), float(rest[1]))
    elif what in ("swipe", "draganddrop"):
        numbers = [float(word) for word in rest]
        x, y, to_x, to_y, *rest_of_it = numbers
        phone.swipe(x, y, to_x, to_y, *rest_of_it[:1])
    elif what == "text":
        phone.text(" ".join(rest).replace("%s", " "))
    elif what in ("keyevent", "keycombination"):
        for word in rest:
            if not word.startswith("--"):
                phone.key(KEYS.get(int(word), "") if word.isdigit() else word.upper().removeprefix("KEYCODE_"))
    elif what not in ("roll", "press", "motionevent"):
        raise ShellError(f"Error: Unknown command: {what}", 255)
    return ""


def _am(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    words = [word for word in arguments if word]
    what, rest = words[0] if words else "", words[1:]
    device = shell.phone.device
    if what in ("start", "start-activity"):
        return _start(shell, rest)
    if what == "force-stop":
        device.stop(rest[-1])
    elif what == "kill-all":
        for package in list(device.apps):
            device.stop(package)
    elif what == "broadcast":
        return _broadcast(shell, rest)
    elif words[:2] == ["stack", "list"]:
        return _stacks(shell)
    elif what not in ("stack", "task", "get-current-user", "startservice", "kill"):
        raise ShellError(f"Unknown command: {what}", 255)
    return "0\n" if what == "get-current-user" else ""


def _value(words: list[str], *flags: str) -> str:
    return next((words[index + 1] for index, word in enumerate(words[:-1]) if word in flags), "")


def _extras(words: list[str]) -> dict[str, str]:
    """Return an intent's extras, all as text."""
    return {words[index + 1]: words[index + 2] for index, word in enumerate(words[:-2]) if word in (
        "--es", "-e", "--ei", "--ez", "--el", "--ef")}  # fmt: skip


def _start(shell: Shell, words: list[str]) -> str:
    device = shell.phone.device
    component, action, data = _value(words, "-n"), _value(words, "-a"), _value(words, "-d")
    component = component or next((word for word in words if re.fullmatch(r"[\w.]+/[\w.$]+", word)), "")
    intent = f"Starting: Intent {{ act={action or 'android.intent.action.MAIN'} cmp={component} }}\n"
    if component:
        package, _, activity = component.partition("/")
        known = device.apps.get(package)
        screen = known.screen_of(activity) if known else None
        if known is None or screen is None:
            raise ShellError(f"{intent}Error type 3\nError: Activity class {{{component}}} does not exist.", 1)
        if "-S" in words:
            device.stop(package)
        device.open(package, "" if screen == known.main else screen)
    elif not _by_intent(shell, action, data, _extras(words)):
        raise ShellError(f"{intent}Error: Activity not started, unable to resolve Intent {{ act={action} }}", 1)
    device.changed()
    waited = f"Status: ok\nLaunchState: COLD\nActivity: {device.activity}\nTotalTime: 1\nWaitTime: 1\nComplete\n"
    return intent + (waited if "-W" in words else "")


def _by_intent(shell: Shell, action: str, data: str, extras: dict[str, str]) -> bool:
    """Open what an intent asks for; returns whether anything does."""
    device = shell.phone.device
    if data.startswith("http"):
        device.open("com.android.chrome", "web", url=address(data))
    elif data.startswith(("sms:", "smsto:")):
        device.open("com.simplemobiletools.smsmessenger", "thread", address=data.partition(":")[2])
        device.page.texts["body"] = extras.get("sms_body", "")
    elif action == "android.intent.action.INSERT":
        device.open("com.google.android.contacts", "form")
        device.page.texts.update(name=extras.get("name", ""), number=extras.get("phone", ""))
    elif action.startswith("android.settings."):
        screens = {"WIFI": "network", "BLUETOOTH": "devices", "DISPLAY": "display", "SOUND": "sound", "DATE": "clock"}
        screen = next((screen for name, screen in screens.items() if name in action), "")
        device.open("com.android.settings", screen)
    else:
        return False
    return True


def _broadcast(shell: Shell, words: list[str]) -> str:
    action, extras = _value(words, "-a"), _extras(words)
    state, answer = shell.phone.device.state, "result=0"
    if action == "clipper.set":
        state.clipboard = extras.get("text", "")
        answer = 'result=-1, data="Text is copied into clipboard."'
    elif action == "clipper.get":
        answer = f'result=-1, data="{state.clipboard}"'
    elif action in ("ADB_INPUT_TEXT", "ADB_INPUT_B64"):
        shell.phone.text(extras.get("msg", ""))
    return f"Broadcasting: Intent {{ act={action} }}\nBroadcast completed: {answer}\n"


def _stacks(shell: Shell) -> str:
    device = shell.phone.device
    lines = []
    for number, stack in enumerate(reversed(device.state.tasks), 1):
        page = stack[-1]
        name = f"{page.package}/{device.apps[page.package].activities[page.screen]}"
        lines.append(f"RootTask id={number} bounds=[0,0][{shell.phone.size[0]},{shell.phone.size[1]}] displayId=0")
        lines.append(f"  taskId={number}: {name} bounds=[0,0] userId=0 visible={'true' if number == 1 else 'false'} "
                     f"topActivity=ComponentInfo{{{name}}}")  # fmt: skip
    return "\n".join(lines) + "\n"


def _settings(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    what, *rest = arguments[2:] if arguments[:1] == ["--user"] else arguments
    device = shell.phone.device
    spaces = device.state.settings
    if not rest or rest[0] not in spaces:
        raise ShellError(f"Invalid namespace '{rest[0] if rest else ''}'. Choose of {', '.join(spaces)}.", 255)
    if what == "get":
        return (spaces[rest[0]].get(rest[1], "") or "null") + "\n"
    if what == "list":
        return "".join(f"{key}={value}\n" for key, value in sorted(spaces[rest[0]].items()))
    if what == "put":
        device.set(rest[0], rest[1], rest[2])
    elif what == "delete":
        gone = spaces[rest[0]].pop(rest[1], None)
        device.changed()
        return f"Deleted {int(gone is not None)} rows\n"
    elif what != "reset":
        raise ShellError(f"Invalid command: {what}", 255)
    return ""


def _svc(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    what, how = arguments[0], arguments[1]
    keys = {"wifi": "wifi_on", "bluetooth": "bluetooth_on", "data": "mobile_data"}
    if what not in keys or how not in ("enable", "disable"):
        raise ShellError(f"svc: no such service or command: {what} {how}")
    shell.phone.device.set("global", keys[what], "1" if how == "enable" else "0")
    return ""


def _cmd(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    device = shell.phone.device
    if arguments[:2] == ["uimode", "night"]:
        if len(arguments) > 2:
            device.set("secure", "ui_night_mode", "2" if arguments[2] == "yes" else "1")
        return f"Night mode: {'yes' if device.setting('secure', 'ui_night_mode') == '2' else 'no'}\n"
    if arguments[:2] == ["connectivity", "airplane-mode"]:
        device.set("global", "airplane_mode_on", "1" if arguments[2] == "enable" else "0")
        return ""
    if arguments[:1] == ["package"]:
        return _pm(shell, arguments[1:], stdin)
    raise ShellError(f"cmd: Can't find service: {arguments[0] if arguments else ''}", 20)


def _pm(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    words = [word for word in arguments if word]
    device = shell.phone.device
    if words[:2] == ["list", "packages"]:
        wanted = next((word for word in words[2:] if not word.startswith("-")), "")
        return "".join(f"package:{package}\n" for package in device.apps if wanted in package)
    package = PROVIDERS.get(words[-1], words[-1])
    if words[0] in ("path", "clear") and package not in device.apps:
        raise ShellError("Failed" if words[0] == "clear" else "")
    if words[0] == "path":
        return f"package:/data/app/{package}/base.apk\n"
    if words[0] == "clear":
        device.stop(package)
        database = device.database(package)
        database.tables = {name: {} for name in database.schema}
    if words[0] in ("clear", "grant", "revoke", "install", "uninstall"):
        return "Success\n" if words[0] != "uninstall" else "Failure [DELETE_FAILED_INTERNAL_ERROR]\n"
    return ""


def _monkey(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    package = _value(arguments, "-p")
    if package not in shell.phone.device.apps:
        raise ShellError("** No activities found to run, monkey aborted.", 252)
    shell.phone.device.open(package)
    return "Events injected: 1\n"


def _wm(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    if arguments[:1] == ["density"]:
        return f"Physical density: {round(160 * shell.phone.size[0] / 411)}\n"
    return f"Physical size: {shell.phone.size[0]}x{shell.phone.size[1]}\n"


def _getprop(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    properties = PROPERTIES if shell.phone.booted else PROPERTIES | _BOOTING
    if arguments:
        return properties.get(arguments[0], "") + "\n"
    return "".join(f"[{key}]: [{value}]\n" for key, value in sorted(properties.items()))


def _service(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    return f"Service {arguments[1]}: found\n" if arguments[0] == "check" else "Result: Parcel(00000000    '....')\n"


def _logcat(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    log = shell.phone.device.state.log
    if "-c" in arguments:
        log.clear()
        return ""
    tags = [word.partition(":")[0] for word in arguments if re.fullmatch(r"\w+:[VDIWEF]", word)]
    lines = [line for line in log if not tags or any(f" {tag}: " in line for tag in tags)]
    return "".join(f"{line}\n" for line in lines)


def _sqlite(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    words = [word for word in arguments if not word.startswith("-")]
    path = shell.phone.path(words[0])
    known = {app.database: package for package, app in shell.phone.device.apps.items() if app.database}
    if path not in known:
        raise ShellError(f"Error: unable to open database \"{words[0]}\": unable to open database file")
    sql = " ".join(words[1:]) or stdin.decode(errors="replace")


    try:
        rows = shell.phone.device.database(known[path]).execute(sql)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise ShellError(f"Error: {error}") from error
    shell.phone.device.changed()
    return "".join("|".join("" if value is None else str(value) for value in row) + "\n" for row in rows)


def _nothing(text: str = "") -> Callable[[Shell, list[str], bytes], str]:
    return lambda shell, arguments, stdin: text


ANDROID: dict[str, Command] = {
    "input": _input, "am": _am, "settings": _settings, "svc": _svc, "cmd": _cmd, "pm": _pm, "monkey": _monkey,
    "wm": _wm, "getprop": _getprop, "setprop": _nothing(), "service": _service, "logcat": _logcat, "sqlite3": _sqlite,
    "ime": _nothing(), "appops": _nothing(), "log": _nothing(), "screenrecord": _nothing(), "getenforce":
    _nothing("Permissive\n"), "stop": _nothing(), "start": _nothing(),
}  # fmt: skip
"""By name."""
