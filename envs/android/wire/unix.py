"""The shell's programs for files and text."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable

from palaestra.envs.android.wire.shell import MOST_OUTPUT, Command, Shell
from palaestra.envs.android.wire.words import ShellError


def _flags(arguments: list[str], valued: str = "") -> tuple[dict[str, str], list[str]]:
    """Return the flags (letters of `valued` take the next argument, or what follows them) and what else there is."""
    flags: dict[str, str] = {}
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            return flags, rest + waiting
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        if word[1:].isdigit() and "n" in valued:
            flags["n"] = word[1:]
            continue
        for index, letter in enumerate(word[1:], 2):
            if letter in valued:
                flags[letter] = word[index:] or (waiting.pop(0) if waiting else "")
                break
            flags[letter] = ""
    return flags, rest


def _whole(shell: Shell, path: str) -> str:
    return shell.phone.path(path if path.startswith("/") else f"{shell.folder}/{path}")


def _input(shell: Shell, paths: list[str], stdin: bytes, name: str) -> str:
    """Return the text of files, or of the input where no file is named."""
    return (_all(shell, paths, name) if paths else stdin).decode(errors="replace")


def _all(shell: Shell, paths: list[str], name: str) -> bytes:
    """Return the contents of files one after the other, as many bytes as a command may answer."""
    data = bytearray()
    for path in paths:
        data += _read(shell, path, name)
        _check_size(len(data))
    return bytes(data)


def _check_size(size: int) -> None:
    if size > MOST_OUTPUT:
        raise ShellError("too much output", 141)


def _lines(lines: Iterable[str]) -> str:
    """Return lines with their ends, as many as a command may answer."""
    size, found = 0, []
    for line in lines:
        size += len(line) + 1
        _check_size(size)
        found.append(f"{line}\n")
    return "".join(found)


def _read(shell: Shell, path: str, name: str) -> bytes:
    whole = _whole(shell, path)
    if not shell.phone.is_file(whole):
        why = "Is a directory" if shell.phone.is_folder(whole) else "No such file or directory"
        raise ShellError(f"{name}: {path}: {why}")
    return shell.phone.read(whole)


def _echo(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    if arguments[:1] == ["-n"]:
        return " ".join(arguments[1:])
    if arguments[:1] == ["-e"]:
        return " ".join(arguments[1:]).replace("\\n", "\n").replace("\\t", "\t") + "\n"
    return " ".join(arguments) + "\n"


def _cat(shell: Shell, arguments: list[str], stdin: bytes) -> bytes:
    paths = _flags(arguments)[1]
    return _all(shell, paths, "cat") if paths else stdin


def _ls(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    flags, paths = _flags(arguments)
    flags["l"] = "l" * sum(word.count("l") for word in arguments if word[:1] == "-")  # twice: with the full time
    lines: list[str] = []
    for path in paths or [shell.folder]:
        whole = _whole(shell, path)
        if shell.phone.is_file(whole) or ("d" in flags and shell.phone.is_folder(whole)):
            lines.append(_entry(shell, whole, path, flags["l"]))
        elif not shell.phone.is_folder(whole):
            raise ShellError(f"ls: {path}: No such file or directory")
        else:
            lines += _folder(shell, whole, flags, len(paths) > 1 or "R" in flags)
    return "".join(f"{line}\n" for line in lines)


def _folder(shell: Shell, path: str, flags: dict[str, str], titled: bool) -> list[str]:
    names = [name for name in shell.phone.entries(path) if "a" in flags or not name.startswith(".")]
    lines = [f"{path}:"] if titled else []
    lines += [f"total {4 * len(names)}"] if flags["l"] else []
    lines += [_entry(shell, f"{path}/{name}", name, flags["l"]) for name in names]
    if "R" in flags:
        for name in names:
            if shell.phone.is_folder(f"{path}/{name}"):
                lines += ["", *_folder(shell, f"{path}/{name}", flags, True)]
    return lines


def _entry(shell: Shell, path: str, name: str, long: str) -> str:
    if not long:
        return name
    when = _time(shell, path, "%Y-%m-%d %H:%M:%S.000000000 +0000" if long == "ll" else "%Y-%m-%d %H:%M")
    if shell.phone.is_file(path):
        return f"-rw-rw---- 1 root everybody {len(shell.phone.read(path)):>8} {when} {name}"
    return f"drwxrwx--x 2 root everybody     4096 {when} {name}"


def _time(shell: Shell, path: str, form: str) -> str:
    return time.strftime(form, time.gmtime(shell.phone.written(path)))


def _rm(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    flags, paths = _flags(arguments)
    for path in paths:
        whole = _whole(shell, path)
        if shell.phone.is_folder(whole) and "r" not in flags and "R" not in flags:
            raise ShellError(f"rm: {path}: is directory")
        if not shell.phone.remove(whole) and "f" not in flags:
            raise ShellError(f"rm: {path}: No such file or directory")
    return ""


def _copies(shell: Shell, paths: list[str], name: str) -> list[tuple[str, str]]:
    """Return from where to where files go; the last path is a folder or the new name."""
    *sources, target = paths
    whole = _whole(shell, target)
    pairs = []
    for source in sources:
        start = _whole(shell, source)
        if not shell.phone.is_file(start) and not shell.phone.is_folder(start):
            raise ShellError(f"{name}: {source}: No such file or directory")
        into = f"{whole}/{start.rsplit('/', 1)[1]}" if shell.phone.is_folder(whole) else whole
        inside = [path for path in shell.phone.paths() if path.startswith(f"{start}/")]
        pairs += [(path, into + path[len(start) :]) for path in inside] or [(start, into)]
    return pairs


def _cp(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    for source, target in _copies(shell, _flags(arguments)[1], "cp"):
        if source.endswith("/"):
            shell.phone.make_folder(target)
        else:
            shell.phone.write(target, shell.phone.read(source))
    return ""


def _mv(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    paths = _flags(arguments)[1]
    _cp(shell, paths, b"")
    for source in paths[:-1]:
        shell.phone.remove(_whole(shell, source))
    return ""


def _mkdir(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    flags, paths = _flags(arguments, "m")
    for path in paths:
        whole = _whole(shell, path)
        if shell.phone.is_folder(whole) and "p" not in flags:
            raise ShellError(f"mkdir: '{path}': File exists")
        shell.phone.make_folder(whole)
    return ""


def _touch(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    for path in _flags(arguments, "dt")[1]:
        if not shell.phone.is_file(_whole(shell, path)):
            shell.phone.write(_whole(shell, path), b"")
    return ""


def _find(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    start = _whole(shell, arguments[0] if arguments and not arguments[0].startswith("-") else ".")
    kind = {arguments[index + 1] for index, word in enumerate(arguments[:-1]) if word == "-type"}
    lines = []
    for path in sorted({path.rstrip("/") for path in shell.phone.paths() if path.startswith(start)}):
        if not kind or ("f" if shell.phone.is_file(path) else "d") in kind:
            lines.append(path)
    return "".join(f"{line}\n" for line in lines)


def _stat(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    flags, paths = _flags(arguments, "c")
    written = _time(shell, _whole(shell, paths[0]), "%Y-%m-%d %H:%M:%S.000000000")
    values = {"%y": written, "%s": str(len(_read(shell, paths[0], "stat"))), "%n": paths[0]}
    return re.sub(r"%[ysn]", lambda match: values[match[0]], flags.get("c", "%n %s")) + "\n"


def _grep(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    flags, rest = _flags(arguments, "em")
    pattern, paths = (flags["e"], rest) if "e" in flags else (rest[0], rest[1:])
    if len(pattern) > 200 or re.search(r"[*+}]\)?[*+{]", pattern):
        raise ShellError("grep: pattern too complex", 2)
    expression = re.compile(re.escape(pattern) if "F" in flags else pattern, re.IGNORECASE if "i" in flags else 0)
    lines = _input(shell, paths, stdin, "grep").splitlines()
    found = [line for line in lines if bool(expression.search(line[:10_000])) != ("v" in flags)]
    if not found:
        raise ShellError("", 1)
    if "q" in flags:
        return ""
    if "o" in flags:
        found = [match[0] for line in found for match in expression.finditer(line)]
    return f"{len(found)}\n" if "c" in flags else "".join(f"{line}\n" for line in found)


def _ends(first: bool) -> Command:
    def cut(shell: Shell, arguments: list[str], stdin: bytes) -> str:
        flags, paths = _flags(arguments, "n")
        count = int(flags.get("n", "10"))
        lines = _input(shell, paths, stdin, "head").splitlines(keepends=True)
        return "".join(lines[:count] if first else lines[max(0, len(lines) - count) :])

    return cut


def _wc(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    flags, paths = _flags(arguments)
    data = _all(shell, paths, "wc") if paths else stdin
    counts = {"l": data.count(b"\n"), "w": len(data.split()), "c": len(data)}
    return " ".join(str(value) for key, value in counts.items() if key in flags or not flags) + "\n"


def _md5sum(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    paths = _flags(arguments)[1]
    if not paths:
        return f"{hashlib.md5(stdin).hexdigest()}  -\n"
    return "".join(f"{hashlib.md5(_read(shell, path, 'md5sum')).hexdigest()}  {path}\n" for path in paths)


def _awk(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    """Print fields: `{print $1}`, `{print $NF}`."""
    flags, rest = _flags(arguments, "F")
    fields = re.findall(r"\$(NF|\d+)", rest[0])
    if len(fields) > 50:
        raise ShellError("awk: program too complex", 2)

    def picked(line: str) -> str:
        parts = line.split(flags.get("F") or None)
        return " ".join(line if name == "0" else _part(parts, -1 if name == "NF" else int(name) - 1) for name in fields)

    return _lines(picked(line[:10_000]) for line in _input(shell, rest[1:], stdin, "awk").splitlines())


def _part(parts: list[str], index: int) -> str:
    return parts[index] if -len(parts) <= index < len(parts) else ""


def _sed(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    """Replace: `s/old/new/` and `s/old/new/g`."""
    script = next(word for word in arguments if not word.startswith("-"))
    mark = script[1]
    _, old, new, how = script.split(mark)
    text = stdin.decode(errors="replace")
    if len(old) > 200 or len(new) > 200 or re.search(r"[*+}]\)?[*+{]", old):
        raise ShellError("sed: pattern too complex", 2)
    count = 0 if "g" in how else 1
    return _lines(re.sub(old, new.replace("&", r"\g<0>"), line[:10_000], count=count) for line in text.splitlines())


def _tr(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    flags, sets = _flags(arguments)
    unescaped = [text.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t") for text in sets]
    text = stdin.decode(errors="replace")
    if "d" in flags:
        return text.translate({ord(letter): None for letter in unescaped[0]})
    old, new = unescaped
    return text.translate(dict(zip(map(ord, old), new.ljust(len(old), new[-1:]), strict=False)))


def _cut(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    flags, paths = _flags(arguments, "df")
    index = int(flags["f"]) - 1
    lines = _input(shell, paths, stdin, "cut").splitlines()
    return "".join(f"{_part(line.split(flags.get('d', chr(9))), index)}\n" for line in lines)


def _sort(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    flags, paths = _flags(arguments)
    lines = _input(shell, paths, stdin, "sort").splitlines()
    return "".join(f"{line}\n" for line in sorted(set(lines) if "u" in flags else lines, reverse="r" in flags))


def _test(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    words = arguments[:-1] if arguments[-1:] == ["]"] else arguments
    negated = words[:1] == ["!"]
    words = words[1:] if negated else words
    if len(words) == 3:
        left, how, right = words
        numbers: dict[str, Callable[[int, int], bool]] = {
            "-eq": lambda a, b: a == b, "-ne": lambda a, b: a != b, "-gt": lambda a, b: a > b,
            "-lt": lambda a, b: a < b,
        }  # fmt: skip
        holds = numbers[how](int(left), int(right)) if how in numbers else (left == right) == (how in ("=", "=="))
    elif len(words) == 2:
        path = _whole(shell, words[1])
        checks = {"-f": shell.phone.is_file(path), "-d": shell.phone.is_folder(path), "-n": bool(words[1]),
                  "-z": not words[1], "-e": shell.phone.is_file(path) or shell.phone.is_folder(path)}  # fmt: skip
        holds = checks[words[0]]
    else:
        holds = bool(words and words[0])
    if holds == negated:
        raise ShellError("", 1)
    return ""


def _cd(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    path = _whole(shell, arguments[0] if arguments else "/")
    if not shell.phone.is_folder(path):
        raise ShellError(f"cd: {arguments[0]}: No such file or directory")
    shell.folder = path
    return ""


def _export(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    for word in arguments:
        name, _, value = word.partition("=")
        shell.variables[name] = value
    return ""


def _date(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    """Print the phone's time, or set it: MMDDhhmmyy.ss."""
    state = shell.phone.device.state
    now = time.gmtime(state.clock)
    if arguments[:1] and re.fullmatch(r"\d{8,12}(\.\d\d)?", arguments[0]):
        digits, _, seconds = arguments[0].partition(".")
        year = f"20{digits[8:10]}" if len(digits) == 10 else digits[8:] or time.strftime("%Y", now)
        parsed = time.strptime(f"{digits[:8]}{year}{seconds or '00'}", "%m%d%H%M%Y%S")
        state.clock = float(int(time.mktime((*parsed[:6], 0, 0, 0))) - time.timezone)
        shell.phone.device.changed()
        now = time.gmtime(state.clock)
    form = next((word[1:] for word in arguments if word.startswith("+")), "%a %b %d %H:%M:%S GMT %Y")
    return time.strftime(form.replace("%s", str(int(state.clock))), now) + "\n"


def _sleep(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    """Let virtual time pass, at most an hour."""
    shell.phone.device.tick(min(3600.0, max(0.0, float(arguments[0]))))
    return ""


def _status(code: int) -> Command:
    def end(shell: Shell, arguments: list[str], stdin: bytes) -> str:
        if code:
            raise ShellError("", code)
        return ""

    return end


UNIX: dict[str, Command] = {
    "echo": _echo, "printf": _echo, "cat": _cat, "ls": _ls, "rm": _rm, "cp": _cp, "mv": _mv, "mkdir": _mkdir,
    "touch": _touch,
    "find": _find, "stat": _stat, "grep": _grep, "head": _ends(True), "tail": _ends(False), "wc": _wc,
    "md5sum": _md5sum, "awk": _awk, "sed": _sed,
    "tr": _tr, "cut": _cut, "sort": _sort, "test": _test, "[": _test, "cd": _cd, "export": _export,
    "date": _date, "true": _status(0), "false": _status(1), ":": _status(0), "sleep": _sleep, "sync": _status(0),
    "chmod": _status(0), "chown": _status(0), "restorecon": _status(0), "exit": _status(0),
    "pwd": lambda shell, arguments, stdin: shell.folder + "\n",
    "whoami": lambda shell, arguments, stdin: "root\n",
    "id": lambda shell, arguments, stdin: "uid=0(root) gid=0(root)\n",
    "df": lambda shell, arguments, stdin: "Filesystem 1K-blocks Used Available Use% Mounted on\n"
                                          "/data/media    65536    0     65536   0% /storage/emulated\n",
}  # fmt: skip
"""By name."""
