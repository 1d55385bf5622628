"""The phone's shell: as much of sh as Android tools send. Nothing of it ever reaches the host.

Known are quotes, `;` `&&` `||` `|` `>` `>>` `2>&1`, `$?` `$NAME` `$(…)`, `*` in paths, and `if …; then …; else …; fi`.
"""

from __future__ import annotations

import fnmatch
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from palaestra.envs.android.wire.phone import Phone
from palaestra.envs.android.wire.words import (
    ShellError,
    Token,
    Word,
    expect,
    is_reserved,
    plain,
    shown,
    split_calls,
    tokenise,
)

LONGEST_LINE = 64 * 1024
"""Letters of a command line."""
MOST_OUTPUT = 16 * 2**20
"""Bytes that a command may answer."""
MOST_ARGUMENTS = 2**20
"""Letters that a command's arguments may have together, as on Linux."""
DEEPEST = 8
"""Levels of `$(…)` and `sh -c`."""
MOST_COMMANDS = 2000
"""Commands that a line may run."""

@dataclass(slots=True)
class Answer:
    """What a command line came to."""

    out: bytes = b""
    """Its output."""
    error: bytes = b""
    """Its complaints."""
    code: int = 0
    """Its status."""


Command = Callable[["Shell", list[str], bytes], str | bytes]
"""A program: gets its arguments and its input, returns its output."""


class Shell:
    r"""One session.

    Example:
        >>> from palaestra.envs.android.device import Device
        >>> from palaestra.envs.android.wire.commands import COMMANDS
        >>> Shell(Phone(Device(0)), COMMANDS).run("settings get global wifi_on && echo 'a b' | wc -w").out
        b'1\n2\n'
    """

    def __init__(self, phone: Phone, commands: dict[str, Command]) -> None:
        self.phone = phone
        self.commands = commands
        self.folder = "/"
        self.variables = {"HOME": "/", "EXTERNAL_STORAGE": "/sdcard", "ANDROID_DATA": "/data", "USER": "root"}
        self.code = 0
        self._ran = 0
        self._depth = 0

    def run(self, line: str, stdin: bytes = b"") -> Answer:
        """Run a command line and return what it came to. It raises nothing: whatever is wrong is in the answer."""
        if len(line) > LONGEST_LINE:
            return Answer(error=b"/system/bin/sh: line too long\n", code=126)
        self._ran = 0
        answer = Answer()
        try:
            tokens = tokenise(line)
            self._list(tokens, answer, stdin, True)
            if tokens:
                raise ShellError(f"syntax error: unexpected '{shown(tokens[0])}'", 2)
        except ShellError as error:
            answer.error += f"/system/bin/sh: {error}\n".encode()
            answer.code = error.code
        except (OSError, sqlite3.Error) as error:
            answer.error += f"/system/bin/sh: {error}\n".encode()
            answer.code = 1
        except RecursionError:
            answer.error, answer.code = b"/system/bin/sh: nested too deeply\n", 2
        self.code = answer.code
        return answer

    def nested(self, line: str) -> bytes:
        """Run a line inside another, as `sh -c` does, and return its output.

        Raises:
            ShellError: Where it ends with a status other than 0; its complaints are the message.
        """
        answer = self._inside(line)
        if answer.code or answer.error:
            raise ShellError(answer.error.decode(errors="replace").rstrip("\n"), answer.code)
        return answer.out

    # Grammar. Each method takes its tokens from the front of the list; `active` is False in branches not taken.

    def _list(self, tokens: list[Token], answer: Answer, stdin: bytes, active: bool) -> None:
        while tokens and not is_reserved(tokens[0]):
            if tokens[0] in (";", "\n", "&"):
                tokens.pop(0)
                continue
            self._chain(tokens, answer, stdin, active)

    def _chain(self, tokens: list[Token], answer: Answer, stdin: bytes, active: bool) -> None:
        self._pipe(tokens, answer, stdin, active)
        while tokens and tokens[0] in ("&&", "||"):
            wanted = (tokens.pop(0) == "&&") == (answer.code == 0)
            self._pipe(tokens, answer, stdin, active and wanted)

    def _pipe(self, tokens: list[Token], answer: Answer, stdin: bytes, active: bool) -> None:
        part = Answer(code=answer.code)
        self._command(tokens, part, stdin, active)
        while tokens and tokens[0] == "|":
            tokens.pop(0)
            after = Answer(error=part.error)
            self._command(tokens, after, part.out, active)
            part = after
        if not active:
            return
        answer.out += part.out
        answer.error += part.error
        answer.code = self.code = part.code
        if len(answer.out) > MOST_OUTPUT:
            raise ShellError("too much output", 141)

    def _command(self, tokens: list[Token], answer: Answer, stdin: bytes, active: bool) -> None:
        if tokens and plain(tokens[0]) == "if":
            self._branches(tokens, answer, stdin, active)
            return
        words: list[Word] = []
        targets: list[tuple[str, str]] = []
        while tokens and (isinstance(tokens[0], Word) or ">" in tokens[0] or tokens[0] == "<"):
            token = tokens.pop(0)
            if isinstance(token, Word):
                words.append(token)
            elif token == "2>&1":
                targets.append((token, ""))
            elif not tokens or not isinstance(tokens[0], Word):
                raise ShellError("syntax error: a file's name is missing", 2)
            else:
                name = tokens.pop(0)
                assert isinstance(name, Word)
                targets.append((token, " ".join(self._expand(name)) if active else ""))
        if not words and not targets:
            raise ShellError(f"syntax error: unexpected '{shown(tokens[0]) if tokens else 'end'}'", 2)
        if active:
            self._execute(words, targets, answer, stdin)

    def _branches(self, tokens: list[Token], answer: Answer, stdin: bytes, active: bool) -> None:
        """Run `if …; then …; elif …; then …; else …; fi`."""
        tokens.pop(0)
        test = Answer()
        self._list(tokens, test, stdin, active)
        expect(tokens, "then")
        taken = active and test.code == 0
        answer.out, answer.error = answer.out + test.out, answer.error + test.error
        answer.code = 0
        self._list(tokens, answer, stdin, taken)
        if tokens and plain(tokens[0]) == "elif":
            self._branches(tokens, answer, stdin, active and not taken)
            return
        if tokens and plain(tokens[0]) == "else":
            tokens.pop(0)
            self._list(tokens, answer, stdin, active and not taken)
        expect(tokens, "fi")

    # Words into arguments, arguments into answers.

    def _execute(self, words: list[Word], targets: list[tuple[str, str]], answer: Answer, stdin: bytes) -> None:
        self._ran += 1
        if self._ran > MOST_COMMANDS:
            raise ShellError("too many commands", 126)
        arguments = self._arguments(words)
        for how, path in targets:
            if how == "<":
                stdin = self.phone.read(path)
        answer.code = 0
        while arguments and re.fullmatch(r"\w+=.*", arguments[0], re.DOTALL):
            name, _, value = arguments.pop(0).partition("=")
            self.variables[name] = value
        if arguments and arguments[0] in ("exec", "command", "nohup"):
            arguments.pop(0)
        if arguments:
            self._call(arguments, stdin, answer)
        self._redirect(targets, answer)

    def _arguments(self, words: list[Word]) -> list[str]:
        arguments: list[str] = []
        room = MOST_ARGUMENTS
        for word in words:
            found = self._expand(word)
            room -= sum(map(len, found))
            if room < 0:
                raise ShellError("argument list too long", 126)
            arguments += found
        return arguments

    def _call(self, arguments: list[str], stdin: bytes, answer: Answer) -> None:
        name = arguments[0].rpartition("/")[2] if arguments[0].startswith("/system/") else arguments[0]
        command = self.commands.get(name)
        if command is None:
            answer.error += f"/system/bin/sh: {arguments[0]}: inaccessible or not found\n".encode()
            answer.code = 127
            return
        try:
            out = command(self, arguments[1:], stdin)
            answer.out += out if isinstance(out, bytes) else out.encode()
        except ShellError as error:
            answer.error += f"{error}\n".encode() if str(error) else b""
            answer.code = error.code
        except (OSError, ValueError, LookupError, TypeError, AttributeError, sqlite3.Error) as error:
            answer.error += f"{name}: bad arguments {arguments[1:]}: {error}\n"[:2000].encode()
            answer.code = 1

    def _redirect(self, targets: list[tuple[str, str]], answer: Answer) -> None:
        for how, path in targets:
            if how == "2>&1":
                answer.out, answer.error = answer.out + answer.error, b""
            elif how == "<":
                continue
            elif path == "/dev/null":
                answer.out, answer.error = (answer.out, b"") if how.startswith("2") else (b"", answer.error)
            else:
                data = answer.error if how.startswith("2") else answer.out
                whole = self.phone.path(path if path.startswith("/") else f"{self.folder}/{path}")
                old = self.phone.read(whole) if how.endswith(">>") and self.phone.is_file(whole) else b""
                self.phone.write(whole, old + data)
                answer.out, answer.error = (answer.out, b"") if how.startswith("2") else (b"", answer.error)

    def _expand(self, word: Word) -> list[str]:
        """Return the arguments that a word becomes."""
        text, pattern = "", ""
        for piece in word.pieces:
            value = piece.text if piece.kind == "single" else self._substitute(piece.text)
            text += value
            pattern += value if piece.kind == "plain" else re.sub(r"([*?\[])", r"[\1]", value)
        bare = all(piece.kind == "plain" for piece in word.pieces)
        if bare and "$" in "".join(piece.text for piece in word.pieces):
            return text.split()
        if re.search(r"(?<!\[)[*?]", pattern):
            return self._matches(pattern) or [text]
        return [text]

    def _matches(self, pattern: str) -> list[str]:
        folder, _, last = pattern.rpartition("/")
        where = folder if pattern.startswith("/") else self.folder
        found = fnmatch.filter(self.phone.entries(where or "/"), last)
        return [f"{folder}/{name}" if "/" in pattern else name for name in found]

    def _substitute(self, text: str) -> str:
        def value(name: str) -> str:
            return str(self.code) if name == "?" else self.variables.get(name, "")

        whole = ""
        for part, call in split_calls(text):
            if call:
                whole += self._capture(part)
            else:
                for index, piece in enumerate(re.split(r"(\$(?:\{(?:\w+|\?)\}|\w+|\?))", part)):
                    whole += value(piece[1:].strip("{}")) if index % 2 else piece
                    if len(whole) > MOST_ARGUMENTS:
                        break
            if len(whole) > MOST_ARGUMENTS:
                raise ShellError("argument list too long", 126)
        return whole

    def _capture(self, line: str) -> str:
        return self._inside(line).out.decode(errors="replace").rstrip("\n")

    def _inside(self, line: str) -> Answer:
        self._depth += 1
        try:
            if self._depth > DEEPEST:
                raise ShellError("nested too deeply", 2)
            answer, tokens = Answer(), tokenise(line)
            self._list(tokens, answer, b"", True)
            return answer
        finally:
            self._depth -= 1
