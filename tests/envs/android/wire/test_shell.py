"""The phone's shell, without a wire."""

from __future__ import annotations

import resource
import sqlite3
import time

import pytest

from palaestra.envs.android.device import Device
from palaestra.envs.android.wire.commands import session
from palaestra.envs.android.wire.phone import BOOT, MOST_BYTES, MOST_FILES, Phone
from palaestra.envs.android.wire.shell import MOST_OUTPUT, Answer

ROOT = "/storage/emulated/0"


def run(line: str, phone: Phone | None = None, stdin: bytes = b"") -> Answer:
    return session(phone or Phone(Device(0))).run(line, stdin)


@pytest.mark.parametrize(
    ("line", "out"),
    [
        ("echo a  b", "a b\n"),
        ("echo 'a  b' \"c $USER\" \\$x", "a  b c root $x\n"),
        ("echo a; echo b && false || echo c", "a\nb\nc\n"),
        ("true || echo no; false && echo no; echo yes", "yes\n"),
        ("false; echo $?", "1\n"),
        ("nonsense; echo MAGIC$?", "MAGIC127\n"),
        ("X=5; echo $X ${X}1 \"$X\" '$X'", "5 51 5 $X\n"),
        ("echo $(echo a $(echo b)) `echo c`", "a b c\n"),
        ("printf x | wc -c", "2\n"),
        ("echo b a c | tr ' ' '\\n' | sort | head -n 2", "a\nb\n"),
        ("echo /a/b.txt | awk -F '/' '{print $NF}' | sed 's/txt/md/' | cut -d . -f 2", "md\n"),
        ('if [ -f "/sdcard/x" ]; then echo Exists; else echo No; fi', "No\n"),
        ("if [ -d /sdcard ]; then echo 1; if false; then echo 2; elif true; then echo 3; fi; fi; echo 4", "1\n3\n4\n"),
        ("if false; then rm -r /sdcard; fi; test -d /sdcard && echo kept", "kept\n"),
        ("exec echo hi # not this", "hi\n"),
        ("sh -c 'echo in; echo side'", "in\nside\n"),
        ("screencap '-p' | head -c 4 | wc -l | tr -d '\\n'", None),
        ("echo é✓", "é✓\n"),
        ("", ""),
    ],
)
def test_lines_mean_what_sh_means(line: str, out: str | None) -> None:
    answer = run(line)
    if out is not None:
        assert answer.out.decode() == out, answer


@pytest.mark.parametrize(
    ("line", "code", "complaint"),
    [
        ("nope", 127, "/system/bin/sh: nope: inaccessible or not found"),
        ("cat /etc/passwd", 1, "cat: /etc/passwd: No such file or directory"),
        ("cat /sdcard/../../../../etc/passwd", 1, "No such file"),
        ("cat /proc/self/environ", 1, "No such file"),
        ("python3 -c 'print(1)'", 127, "inaccessible"),
        ("echo 'unclosed", 2, "is not closed"),
        ("echo $(ls", 2, "is not closed"),
        ("; | ;", 2, "unexpected '|'"),
        ("if true; then echo", 2, "expected 'fi'"),
        ("input", 255, "Unknown command"),
        ("input tap a b", 1, "bad arguments"),
        ("input tap", 1, "bad arguments"),
        ("settings get nowhere x", 255, "Invalid namespace 'nowhere'"),
        ("am start -n com.none/.Main", 1, "does not exist"),
        ("am start -n com.android.settings/.None", 1, "Activity class {com.android.settings/.None} does not exist"),
        ("am start -a no.such.ACTION", 1, "unable to resolve Intent"),
        ("monkey -p com.none 1", 252, "No activities found"),
        ("pm clear com.none", 1, "Failed"),
        ("dumpsys nothing", 0, "Can't find service: nothing"),
        ("sqlite3 /data/data/com.android.providers.contacts/databases/contacts2.db \"ATTACH '/etc/passwd' AS x\"", 1,
         "not authorized"),
        ("sqlite3 /data/data/com.android.providers.contacts/databases/contacts2.db \"SELECT readfile('/etc')\"", 1,
         "no such function"),
        ("cat $(echo /sdcard/../../../etc/passwd)", 1, "No such file"),
        ("echo x > /sdcard/../../../../tmp/../etc/passwd; cat /etc/shadow", 1, "No such file"),
        ("am dance", 255, "Unknown command: dance"),
        ("content query --uri content://nothing", 1, "Could not find provider: nothing"),
        ("sqlite3 /data/none.db 'select 1'", 1, "unable to open database"),
        ("sqlite3 /data/data/com.android.providers.contacts/databases/contacts2.db 'sel'", 1, "syntax error"),
        ("echo " + "x" * 70_000, 126, "line too long"),
        ("(" * 500, 127, "inaccessible"),
        ("$(" * 100 + ")" * 100, 2, "nested too deeply"),
        ("grep '(a+)+$' /sdcard/x", 2, "too complex"),
    ],
)
def test_what_is_wrong_is_said(line: str, code: int, complaint: str) -> None:
    answer = run(line)
    assert answer.code == code and complaint in answer.error.decode(), answer


def test_commands_that_want_everything_get_little() -> None:
    begin = time.process_time()
    phone = Phone(Device(0))
    phone.write("/sdcard/big", b"x" * 10**6)
    assert run("cat " + "/sdcard/big " * 40, phone).code == 141
    assert run("echo x;" * 9000).code == 126
    assert run(f"cat {'/sdcard/big ' * 17} | cat" + " | cat" * 50, phone).code in (0, 141)
    for index in range(5):
        run("cat " + "/sdcard/big " * 15 + f"> /sdcard/copy{index}", phone)
    assert sum(map(len, phone.device.files.values())) <= MOST_BYTES and MOST_OUTPUT < MOST_BYTES
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("X=aaaaaaaaaa; " + "X=$X$X$X$X; " * 40 + "echo $X", "argument list too long"),
        ("echo " + "$(cat /sdcard/big)" * 3000, "argument list too long"),
        ("echo " + "$(cat /sdcard/big) " * 3000, "argument list too long"),
        ("cat " + "/sdcard/big " * 5000, "too much output"),
        ("grep -c x " + "/sdcard/big " * 5000, "too much output"),
        ("wc " + "/sdcard/big " * 5000, "too much output"),
        ("cat /sdcard/lines | sed 's/x/" + "y" * 200 + "/g'", "too much output"),
        ("echo x | sed 's/x/" + "y" * 30_000 + "/'", "too complex"),
        ("cat /sdcard/lines | awk '{print" + " $0" * 50 + "}'", "too much output"),
        ("echo x | awk '{print" + " $0" * 10_000 + "}'", "too complex"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_a_gigabyte_is_refused_before_it_is_there(line: str, complaint: str) -> None:
    phone = Phone(Device(0))
    phone.write("/sdcard/big", b"x" * 10**6)
    phone.write("/sdcard/lines", (b"x" * 9_000 + b"\n") * 100)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    answer = run(line, phone)
    assert complaint in answer.error.decode(), (answer.code, answer.error[:200])
    assert len(answer.out) <= MOST_OUTPUT and time.process_time() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000  # KiB


def test_files_have_an_end() -> None:
    phone = Phone(Device(0))
    phone.device.files.update({f"{ROOT}/{number}": b"" for number in range(MOST_FILES - len(phone.device.files) - 1)})
    assert run("echo x > /sdcard/last", phone).code == 0
    assert "no space left" in run("touch /sdcard/one-more", phone).error.decode()
    assert "no space left" in run("mkdir /sdcard/one-more", phone).error.decode()
    assert run("echo y > /sdcard/last; cat /sdcard/last", phone).out == b"y\n"


def test_files_are_made_copied_moved_and_removed() -> None:
    phone = Phone(Device(0))
    shell = session(phone)
    assert shell.run("mkdir -p /sdcard/a/b && echo one > /sdcard/a/b/x.txt && echo two >> /sdcard/a/b/x.txt").code == 0
    assert phone.device.files[f"{ROOT}/a/b/x.txt"] == b"one\ntwo\n"
    assert shell.run("cd /sdcard/a; cat b/x.txt; ls; pwd").out == b"one\ntwo\nb\n/storage/emulated/0/a\n"
    shell.run("cp -r /sdcard/a /sdcard/c; mv /sdcard/c/b/x.txt /sdcard/c/y.txt; rm -r /sdcard/a")
    assert shell.run("find /sdcard/c -type f").out.decode() == f"{ROOT}/c/y.txt\n"
    assert not any(path.startswith(f"{ROOT}/a/") for path in phone.device.files)
    assert shell.run("ls /sdcard/c/*.txt | wc -l; rm /sdcard/nope").code == 1
    assert shell.run("rm -r /sdcard; ls /").code == 0


def test_the_tools_see_what_the_phone_shows() -> None:
    phone = Phone(Device(0))
    shell = session(phone)
    assert b"Status: ok" in shell.run("am start '' -W -n com.android.settings/.Settings").out
    assert b"com.android.settings/com.android.settings.Settings" in shell.run("dumpsys window | grep mCurrentFocus").out
    assert b"visible=true topActivity=ComponentInfo{com.android.settings/" in shell.run(
        "am stack list | grep -E visible=true").out  # fmt: skip
    assert shell.run("dumpsys input").out.startswith(b"  SurfaceOrientation: 0")
    assert shell.run("wm size").out == b"Physical size: 1080x2160\n"
    assert shell.run("uiautomator dump").out == b"UI hierchary dumped to: /sdcard/window_dump.xml\n"
    xml = shell.run("cat /sdcard/window_dump.xml").out.decode()
    import re

    nodes = re.findall(r'content-desc="Display".*?bounds="\[(\d+),(\d+)\]\[(\d+),(\d+)\]"', xml)
    left, top, right, bottom = map(int, nodes[0])
    shell.run(f"input tap {(left + right) / 2} {(top + bottom) / 2}")
    assert phone.device.place_name == "Settings/display"
    shell.run("input keyevent KEYCODE_BACK; input keyevent 3")
    assert phone.device.place_name == "Home/home"
    assert shell.run("am start -a android.intent.action.VIEW -d https://bargo.com").code == 0
    assert phone.device.page.args["url"] == "https://bargo.com/"


def test_quick_swipes_fling() -> None:
    scrolls = []
    for milliseconds in (1000, 300, 100, 1):
        phone = Phone(Device(0), 640, 1280)
        shell = session(phone)
        contacts = "/data/data/com.android.providers.contacts/databases/contacts2.db"
        rows = ", ".join(f"('Zed {index}', '1', 0)" for index in range(40))
        shell.run(f'sqlite3 {contacts} "INSERT INTO contacts (name, number, starred) VALUES {rows}"')
        shell.run("monkey -p com.google.android.contacts 1")
        shell.run(f"input swipe 320 900 320 600 {milliseconds}")
        scrolls.append(phone.device.page.scroll)
    assert scrolls == [30, 30, 60, 90]


def test_a_reboot_keeps_what_is_stored() -> None:
    phone = Phone(Device(0))
    shell = session(phone)
    shell.run("echo x > /sdcard/x; settings put system screen_brightness 9; am start -n com.android.settings/.Settings")
    phone.device.copy("secret")
    phone.reboot()
    assert shell.run("getprop sys.boot_completed").out == b"\n" and phone.device.page.screen == "home"
    assert shell.run("cat /sdcard/x; settings get system screen_brightness").out == b"x\n9\n"
    assert not phone.device.state.clipboard and len(phone.device.state.tasks) == 1
    time.sleep(BOOT)
    assert shell.run("getprop sys.boot_completed").out == b"1\n"


def test_text_is_typed_and_kept() -> None:
    phone = Phone(Device(0))
    shell = session(phone)
    shell.run("am start -a android.intent.action.INSERT --es name 'Zed' ")
    assert phone.device.page.texts["name"] == "Zed"
    shell.run("input tap 300 600; input text 555%s12; input keyevent 67")
    assert phone.device.page.texts["number"] == "555 1"


def test_settings_radios_and_databases_are_one_state() -> None:
    phone = Phone(Device(0))
    shell = session(phone)
    shell.run("svc wifi disable; settings put system screen_brightness 7; cmd uimode night yes")
    assert shell.run("settings get global wifi_on; settings get system screen_brightness").out == b"0\n7\n"
    assert shell.run("settings get system none").out == b"null\n"
    contacts = "/data/data/com.android.providers.contacts/databases/contacts2.db"
    count = shell.run(f"sqlite3 {contacts} 'SELECT count(*) FROM contacts'").out
    assert count == b"8\n"
    made = "--bind display_name:s:Zed --bind number:s:1"
    shell.run(f"content insert --uri content://com.android.contacts/contacts {made}")
    assert shell.run(
        "content query --uri content://contacts/phones/ --projection display_name:number --where \"display_name='Zed'\""
    ).out == b"Row: 0 display_name=Zed, number=1\n"
    shell.run(f"sqlite3 {contacts} \"DELETE FROM contacts WHERE name='Zed'\"")
    assert phone.device.changes() == ["global/wifi_on", "secure/ui_night_mode", "system/screen_brightness"]
    assert shell.run("content query --uri content://sms/sent").out == b"No result found.\n"
    assert shell.run("pm clear com.google.android.contacts").out == b"Success\n"
    assert shell.run(f"sqlite3 {contacts} 'SELECT count(*) FROM contacts'").out == b"0\n"


def test_a_database_file_can_be_put_back_and_rubbish_cannot() -> None:
    phone = Phone(Device(0))
    path = "/data/user_de/0/com.google.android.deskclock/databases/alarms.db"
    data = phone.read(path)
    phone.device.database("com.google.android.deskclock").tables["alarms"].clear()
    phone.write(path, data)
    assert len(phone.device.table("com.google.android.deskclock", "alarms")) == 4
    with pytest.raises(sqlite3.Error):
        phone.write(path, b"rubbish")
    assert len(phone.device.table("com.google.android.deskclock", "alarms")) == 4


def test_the_clock_can_be_set() -> None:
    phone = Phone(Device(0))
    assert run("date 101512302024.00; date +%Y-%m-%dT%H:%M", phone).out.endswith(b"2024-10-15T12:30\n")
