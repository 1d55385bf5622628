"""What becomes of an ask: calls of an engine that cannot lose one, and answers handed to whoever waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TypeAlias

from palaestra.agents.vlm.core import (
    Act,
    Action,
    Answer,
    Ask,
    AskError,
    Audience,
    Embed,
    Engine,
    EngineError,
    Generate,
    LateError,
    OverloadedError,
    Reply,
    ServerLostError,
    StreamingEngine,
    Text,
    UnknownModelError,
    Vector,
)
from palaestra.agents.vlm.queue import Waiter

Outcome: TypeAlias = Reply | Exception
logger = logging.getLogger(__name__)

KINDS: dict[type, type] = {Generate: Text, Embed: Vector, Act: Action}
"""What answers what."""
OWN = (AskError, UnknownModelError, OverloadedError, LateError, EngineError, ServerLostError)
"""Errors that mean something to a caller; any other of an engine's is wrapped in an `EngineError`."""


def call(
    engine: Engine, asks: Sequence[Ask], name: str, audience: Audience | None = None
) -> list[Answer | Exception] | None:
    """Return one answer or error an ask, or None where the batch failed as a whole and must be split to find out why.

    Even what would end a thread (`SystemExit`, …) fails only the ask that brings it about.
    """
    try:
        if audience is not None and isinstance(engine, StreamingEngine):
            answers = list(engine.stream(asks, audience))
        else:
            answers = list(engine.answer(asks))
    except BaseException as error:
        return [_own(error, name)] if len(asks) == 1 else None
    if len(answers) != len(asks):
        if len(asks) > 1:
            return None
        return [EngineError(f"{name} returned {len(answers)} answers to 1 ask.")]
    return [_checked(ask, answer, name) for ask, answer in zip(asks, answers, strict=True)]


def _checked(ask: Ask, answer: Answer | Exception, name: str) -> Answer | Exception:
    """Return the answer if it is one to this ask, else the error that it is or deserves."""
    if isinstance(answer, KINDS[type(ask)]):
        return answer
    if isinstance(answer, BaseException):
        return _own(answer, name)
    wanted = KINDS[type(ask)].__name__
    return EngineError(f"{name} answered {type(ask).__name__} with {type(answer).__name__}, expected {wanted}.")


def _own(error: BaseException, name: str) -> Exception:
    """Return an error of the contract: this one, or one that it caused."""
    if isinstance(error, OWN):
        return error
    wrapped = EngineError(f"{name} failed on this ask: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def hand_out(pieces: Iterable[tuple[Waiter, str]]) -> None:
    """Hand pieces of text to those who listen, in their event loops, each woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Waiter, str]]] = {}
    for waiter, piece in pieces:
        assert waiter.loop is not None
        loops.setdefault(waiter.loop, []).append((waiter, piece))
    for loop, own in loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(_hear_all, own)


def _hear_all(pieces: list[tuple[Waiter, str]]) -> None:
    for waiter, piece in pieces:
        if waiter.hear is not None and not waiter.future.done():
            waiter.hear(piece)


def settle(outcomes: Iterable[tuple[Waiter, Outcome]]) -> None:
    """Hand outcomes to those who wait: in this thread, or in their event loops, each woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Waiter, Outcome]]] = {}
    for waiter, outcome in outcomes:
        if waiter.loop is not None:
            loops.setdefault(waiter.loop, []).append((waiter, outcome))
        else:
            _resolve(waiter, outcome)
    for loop, own in loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve_all, own)


def _resolve_all(outcomes: list[tuple[Waiter, Outcome]]) -> None:
    for waiter, outcome in outcomes:
        if not waiter.future.done():
            _resolve(waiter, outcome)


def _resolve(waiter: Waiter, outcome: Outcome) -> None:
    try:
        if isinstance(outcome, Reply):
            waiter.future.set_result(outcome)
        else:
            waiter.future.set_exception(outcome)
    except BaseException:  # a callback of the caller's own; the others must not suffer for it
        logger.exception("a future's callback failed")
