"""A command line into words and operators, as sh does it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

_OPERATORS = ("2>&1", "2>>", "&>", "1>", "2>", ">>", "&&", "||", ";", "|", "&", "<", ">", "\n")
_RESERVED = ("then", "else", "elif", "fi")


class ShellError(Exception):
    """What a command complains of, as "name: why", and with which status it ends."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Piece:
    """A part of a word."""

    text: str
    """Its letters, quotes gone."""
    kind: Literal["plain", "double", "single"]
    """How it was quoted: in "single" nothing is expanded, in "double" no `*`."""


@dataclass(slots=True)
class Word:
    """A word before expansion."""

    pieces: list[Piece] = field(default_factory=list)
    """From left to right."""

    def add(self, text: str, kind: Literal["plain", "double", "single"]) -> None:
        """Add letters at the end."""
        if self.pieces and self.pieces[-1].kind == kind:
            self.pieces[-1].text += text
        else:
            self.pieces.append(Piece(text, kind))


Token = Word | str
"""A word, or an operator."""


def tokenise(line: str) -> list[Token]:
    """Return a line's words and operators.

    Raises:
        ShellError: Where a quote or a bracket is not closed.
    """
    tokens: list[Token] = []
    word: Word | None = None
    at = 0
    while at < len(line):
        letter = line[at]
        operator = next((known for known in _OPERATORS if line.startswith(known, at)), None)
        if operator is not None and (word is None or operator[0] not in "12"):
            tokens, word, at = [*tokens, operator], None, at + len(operator)
            continue
        if letter in " \t\r":
            word, at = None, at + 1
            continue
        if letter == "#" and word is None:
            at = len(line) if line.find("\n", at) < 0 else line.find("\n", at)
            continue
        if word is None:
            word = Word()
            tokens.append(word)
        at = _piece(line, at, word)
    return tokens


def _piece(line: str, at: int, word: Word) -> int:
    """Add what begins at a place to a word, and return where it ends."""
    letter = line[at]
    if letter == "'":
        end = _find(line, "'", at + 1)
        word.add(line[at + 1 : end], "single")
    elif letter == '"':
        return _double(line, at + 1, word)
    elif letter == "\\":
        word.add(line[at + 1 : at + 2], "single")
        return at + 2
    elif line.startswith("$(", at):
        end = _closing(line, at)
        word.add(line[at : end + 1], "plain")
    elif letter == "`":
        end = _find(line, "`", at + 1)
        word.add(f"$({line[at + 1 : end]})", "plain")
    else:
        word.add(letter, "plain")
        return at + 1
    return end + 1


def _double(line: str, at: int, word: Word) -> int:
    word.add("", "double")
    while at < len(line) and line[at] != '"':
        if line[at] == "\\" and line[at + 1 : at + 2] in ('"', "\\", "$", "`"):
            word.add(line[at + 1], "single")
            at += 2
        elif line.startswith("$(", at):
            end = _closing(line, at)
            word.add(line[at : end + 1], "double")
            at = end + 1
        else:
            word.add(line[at], "double")
            at += 1
    if at >= len(line):
        raise ShellError("syntax error: '\"' is not closed", 2)
    return at + 1


def _find(line: str, mark: str, at: int) -> int:
    end = line.find(mark, at)
    if end < 0:
        raise ShellError(f"syntax error: {mark!r} is not closed", 2)
    return end


def _closing(line: str, at: int) -> int:
    """Return where the bracket of a `$(` closes."""
    depth = 0
    for end in range(at + 1, len(line)):
        depth += {"(": 1, ")": -1}.get(line[end], 0)
        if depth == 0:
            return end
    raise ShellError("syntax error: '$(' is not closed", 2)


def split_calls(text: str) -> list[tuple[str, bool]]:
    """Return the parts of a text, and which of them stand in `$(…)`."""
    parts, start = [], 0
    while (at := text.find("$(", start)) >= 0:
        end = _closing(text, at)
        parts += [(text[start:at], False), (text[at + 2 : end], True)]
        start = end + 1
    return [*parts, (text[start:], False)]


def plain(token: Token) -> str:
    """Return a word that is not quoted at all, empty for all else."""
    if isinstance(token, Word) and len(token.pieces) == 1 and token.pieces[0].kind == "plain":
        return token.pieces[0].text
    return ""


def is_reserved(token: Token) -> bool:
    """Whether a token ends a list of commands."""
    return plain(token) in _RESERVED


def shown(token: Token) -> str:
    """Return a token as it was written, quotes gone."""
    return token if isinstance(token, str) else "".join(piece.text for piece in token.pieces)


def expect(tokens: list[Token], word: str) -> None:
    """Take a reserved word from the front.

    Raises:
        ShellError: Where something else is there.
    """
    if not tokens or plain(tokens[0]) != word:
        raise ShellError(f"syntax error: expected {word!r}, got {shown(tokens[0]) if tokens else 'the end'!r}", 2)
    tokens.pop(0)
