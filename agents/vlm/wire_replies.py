"""Replies as OpenAI's JSON and back.

How an answer came about stands beside it under `palaestra`: the weights' version, queue and model seconds, the ids of
the tokens. OpenAI's clients pass such fields over; servers of others do not send them.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palaestra.agents.vlm import packing
from palaestra.agents.vlm.core import Act, Action, Ask, Embed, EngineError, Generate, Reply, Text, Vector

EXTENSION = "palaestra"
"""Under which ours stands beside theirs."""
IMPOSSIBLE = -9999.0
"""OpenAI's logarithm of probability 0, for which JSON has no number."""


_PROCESS, _COUNT = os.urandom(6).hex(), itertools.count()


def write_chat(model: str, replies: Sequence[Reply]) -> dict[str, Any]:
    """Return a `chat.completion` with one choice a reply."""
    choices, usage = [], _usage(replies)
    for index, reply in enumerate(replies):
        text = _text(reply)
        choices.append(
            {
                "index": index,
                "message": {"role": "assistant", "content": text.text, "refusal": None},
                "logprobs": _logprobs(text),
                "finish_reason": text.finish,
                EXTENSION: _extension(reply) | {"tokens": text.tokens, "scores": _logarithms(text.scores)},
            }
        )
    return _envelope("chat.completion", model, replies[0].version) | {"choices": choices, "usage": usage}


class ChatEvents:
    """Writes the server-sent events of a streamed answer: pieces of text as they come, then how each choice ended."""

    def __init__(self, model: str, usage: bool) -> None:
        self._envelope = _envelope("chat.completion.chunk", model, None) | ({"usage": None} if usage else {})
        self._usage = usage
        self._sent: dict[int, str] = {}

    def piece(self, index: int, text: str, logprobs: dict[str, Any] | None = None) -> bytes:
        """Return the event that adds to a choice's text, which begins with its role."""
        delta = {"content": text} if index in self._sent else {"role": "assistant", "content": text}
        self._sent[index] = self._sent.get(index, "") + text
        return self._event({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None})

    def end(self, replies: Sequence[Reply]) -> bytes:
        """Return the last events: what pieces have left out, reasons to finish, and the usage if it is wanted.

        All log-probabilities come with the last piece.

        Raises:
            EngineError: A text is another one than the pieces have been of: its batch failed and was asked again, and
                without a seed the model said something else.
        """
        self._envelope["system_fingerprint"] = replies[0].version
        events = []
        for index, reply in enumerate(replies):
            text, sent = _text(reply), self._sent.get(index, "")
            if not text.text.startswith(sent):
                raise EngineError("the answer began anew while it was streamed; ask again, with a seed to avoid this.")
            if len(text.text) > len(sent) or text.logprobs or index not in self._sent:
                events.append(self.piece(index, text.text[len(sent) :], _logprobs(text)))
            last = {"index": index, "delta": {}, "logprobs": None, "finish_reason": text.finish}
            events.append(self._event(last | {EXTENSION: _extension(reply)}))
        if self._usage:
            events.append(event(self._envelope | {"choices": [], "usage": _usage(replies)}))
        return b"".join([*events, b"data: [DONE]\n\n"])

    def _event(self, choice: dict[str, Any]) -> bytes:
        return event(self._envelope | {"choices": [choice]})


def event(body: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _envelope(kind: str, model: str, version: str | None) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{_PROCESS}{next(_COUNT):08x}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": version,
    }


def _text(reply: Reply) -> Text:
    if not isinstance(reply.answer, Text):
        raise EngineError(f"the engine answered a conversation with {type(reply.answer).__name__}, not Text.")
    return reply.answer


def _logprobs(text: Text) -> dict[str, Any] | None:
    if not text.logprobs:
        return None
    if len(text.logprobs) != len(text.token_texts):
        raise EngineError(f"the engine gave {len(text.logprobs)} log-probabilities of {len(text.token_texts)} tokens.")
    content = [
        {"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": []}
        for token, value in zip(text.token_texts, _logarithms(text.logprobs), strict=True)
    ]
    return {"content": content, "refusal": None}


def _logarithms(values: tuple[float, ...]) -> list[float]:
    """Return logarithms of probabilities as JSON can hold them."""
    if any(value != value for value in values):
        raise EngineError("the engine's log-probabilities hold NaN.")
    return [max(value, IMPOSSIBLE) for value in values]


def _extension(reply: Reply) -> dict[str, Any]:
    return {
        "version": reply.version,
        "queue_seconds": reply.queue_seconds,
        "model_seconds": reply.model_seconds,
        "batch": reply.batch,
        "kept": reply.kept,
    }


def _usage(replies: Sequence[Reply]) -> dict[str, int]:
    texts = [_text(reply) for reply in replies]
    prompt, completion = texts[0].prompt_tokens, sum(max(len(text.tokens), len(text.logprobs)) for text in texts)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def write_embeddings(model: str, replies: Sequence[Reply], as_base64: bool) -> dict[str, Any]:
    """Return a list of embeddings, as numbers or as float32 bytes in base64."""
    data, tokens = [], 0
    for index, reply in enumerate(replies):
        if not isinstance(reply.answer, Vector):
            raise EngineError(f"the engine answered an embedding with {type(reply.answer).__name__}, not Vector.")
        values, tokens = _finite(reply.answer.values), tokens + reply.answer.prompt_tokens
        vector = base64.b64encode(values.numpy().tobytes()).decode() if as_base64 else values.tolist()
        data.append({"object": "embedding", "index": index, "embedding": vector, EXTENSION: _extension(reply)})
    return {
        "object": "list",
        "model": model,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def write_action(model: str, reply: Reply, tensors: dict[str, Tensor] | None) -> dict[str, Any]:
    """Return an action: a list of C actions, or a text; with `tensors`, a chunk goes there (see `packing.py`)."""
    if not isinstance(reply.answer, Action):
        raise EngineError(f"the engine answered an observation with {type(reply.answer).__name__}, not Action.")
    action: Any = reply.answer.action
    if isinstance(action, Tensor) and tensors is not None:
        tensors["action"], action = _finite(action), packing.PREFIX + "action"
    elif isinstance(action, Tensor):
        action = _finite(action).tolist()
    return {"object": "action", "model": model, "action": action, EXTENSION: _extension(reply)}


def _finite(values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise EngineError("the engine's answer holds NaN or infinity.")
    return values


def read(ask: Ask, body: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> Reply:
    """Read the reply to an ask, from any OpenAI-compatible server.

    Raises:
        EngineError: It is not one.
    """
    try:
        if isinstance(ask, Generate):
            return _read_chat(ask, body)
        if isinstance(ask, Embed):
            return _read_embedding(body)
        assert isinstance(ask, Act)
        return _read_action(body, tensors or {})
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(f"the server's reply is not in OpenAI's shape: {type(error).__name__} {error}") from error


def _read_chat(ask: Generate, body: dict[str, Any]) -> Reply:
    choice = body["choices"][0]
    ours = choice.get(EXTENSION) or {}
    content = (choice.get("logprobs") or {}).get("content") or []
    text = Text(
        text=choice["message"]["content"] or "",
        tokens=tuple(ours.get("tokens", ())),
        token_texts=tuple(entry["token"] for entry in content),
        logprobs=tuple(float(entry["logprob"]) for entry in content),
        finish="length" if choice.get("finish_reason") == "length" else "stop",
        prompt_tokens=int((body.get("usage") or {}).get("prompt_tokens") or 0),
        scores=tuple(ours.get("scores", ())),
    )
    if ask.choices and text.text not in ask.choices:
        raise EngineError(f"the server answered {text.text[:80]!r}, which is none of the choices {ask.choices[:8]}.")
    return _reply(text, ours, body)


def _read_embedding(body: dict[str, Any]) -> Reply:
    entry = body["data"][0]
    given = entry["embedding"]
    if isinstance(given, str):
        values = torch.from_numpy(np.frombuffer(base64.b64decode(given), dtype="<f4").copy())
    else:
        values = torch.tensor(given, dtype=torch.float32)
    tokens = int((body.get("usage") or {}).get("prompt_tokens") or 0)
    return _reply(Vector(values, tokens), entry.get(EXTENSION) or {}, body)


def _read_action(body: dict[str, Any], tensors: dict[str, Tensor]) -> Reply:
    action = body["action"]
    if isinstance(action, list):
        action = torch.tensor(action, dtype=torch.float32)
    elif action.startswith(packing.PREFIX):
        action = tensors[action.removeprefix(packing.PREFIX)]
    return _reply(Action(action), body.get(EXTENSION) or {}, body)


def _reply(answer: Text | Vector | Action, ours: dict[str, Any], body: dict[str, Any]) -> Reply:
    return Reply(
        answer,
        version=str(ours.get("version") or body.get("system_fingerprint") or body.get("model") or "unknown"),
        queue_seconds=float(ours.get("queue_seconds", 0.0)),
        model_seconds=float(ours.get("model_seconds", 0.0)),
        batch=int(ours.get("batch", 1)),
        kept=bool(ours.get("kept", False)),
    )
