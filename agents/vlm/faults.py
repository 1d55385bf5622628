"""What went wrong, as an HTTP status with OpenAI's error object, and back to the same exception."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from typing import Any

from palaestra.agents.vlm.core import (
    AskError,
    EngineError,
    LateError,
    OverloadedError,
    ServerLostError,
    UnknownModelError,
    WeightsError,
)
from palaestra.agents.vlm.fields import FieldError


class TokenError(PermissionError):
    """No token came with the request, or a wrong one. HTTP 401."""


class ForbiddenError(TokenError):
    """The token does not allow this. HTTP 403."""


STATUSES: tuple[tuple[type[Exception], int, str, str | None], ...] = (
    (AskError, 400, "invalid_request_error", None),
    (ForbiddenError, 403, "permission_error", "forbidden"),
    (TokenError, 401, "authentication_error", "invalid_api_key"),
    (UnknownModelError, 404, "invalid_request_error", "model_not_found"),
    (WeightsError, 409, "conflict_error", "weights_refused"),
    (OverloadedError, 429, "rate_limit_error", "overloaded"),
    (LateError, 504, "timeout_error", "deadline_passed"),
    (ServerLostError, 503, "unavailable_error", "model_lost"),
    (EngineError, 500, "engine_error", "engine_failed"),
)
"""Exception, status, OpenAI's type, OpenAI's code."""

_BY_STATUS = {status: error for error, status, _, _ in STATUSES} | {
    **dict.fromkeys((405, 408, 411, 413, 415, 422), AskError),
    502: ServerLostError,
}


def unknown_model(name: str, names: Collection[str]) -> UnknownModelError:
    """Return the error that names the nearest models."""
    near = difflib.get_close_matches(name, names, 3, 0.4)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are {', '.join(names) or 'none'}."
    return UnknownModelError(f"no model is called {name[:80]!r}. {hint}")


def write(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return the status, body and headers that say what went wrong. An error of another kind is the server's own."""
    headers = {}
    if isinstance(error, OverloadedError):
        headers["retry-after"] = str(max(math.ceil(error.retry_after), 1))
        headers["retry-after-ms"] = str(max(math.ceil(1000 * error.retry_after), 1))
    field = error.field if isinstance(error, FieldError) else None
    for kind, status, name, code in STATUSES:
        if isinstance(error, kind):
            return status, body(str(error), name, code, field), headers
    return 500, body(f"{type(error).__name__}: the server failed; its log says how.", "server_error", None), headers


def body(message: str, kind: str, code: str | None, field: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


def read(status: int, answer: object, headers: Mapping[str, str]) -> Exception:
    """Return the exception that a status and its body stand for, whoever's server sent them."""
    found = answer.get("error", answer) if isinstance(answer, dict) else answer
    message = found.get("message") or found.get("detail") if isinstance(found, dict) else found
    text = f"{str(message)[:500] if message else 'no reason given'}"
    kind = _BY_STATUS.get(status, AskError if 400 <= status < 500 else EngineError)
    if kind is OverloadedError:
        return OverloadedError(text, retry_after(headers, 1.0))
    return kind(text)


def retry_after(headers: Mapping[str, str], default: float) -> float:
    """Return the seconds after which to try again: OpenAI's milliseconds where given, else HTTP's seconds."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:  # absent, or a date
            continue
        if 0 <= seconds < math.inf:
            return seconds
    return default
