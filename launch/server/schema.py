"""The API in OpenAPI's words: what a client may send, for people, generators and fuzzers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palaestra.agents.vlm import packing
from palaestra.agents.vlm.wire import MOST

_TEXT = {"type": "string"}
_ANY = {"type": "object"}
_URL = {"type": "string", "description": "data:image/png;base64,… (PNG, JPEG or WebP); nothing is fetched"}
_IMAGE = {
    "type": "object",
    "required": ["type", "image_url"],
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {"type": "object", "required": ["url"], "properties": {"url": _URL}},
    },
}
_WORDS = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": _TEXT},
    "additionalProperties": False,
}
_PART = {"oneOf": [_WORDS, _IMAGE]}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"oneOf": [_TEXT, {"type": "array", "items": _PART}]},
        "name": _TEXT,
    },
    "additionalProperties": False,
}


def _number(kind: str, low: float, high: float) -> dict[str, Any]:
    return {"type": kind, "minimum": low, "maximum": high}


def _strings(most: int) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": most}


_COMMON = {
    "priority": _number("integer", -10, 10) | {"description": "higher is more urgent"},
    "deadline": _number("number", 0, MOST["deadline"]) | {"description": "seconds by which the model must have begun"},
    "user": _TEXT,
}
_CHAT = {
    "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
    "n": _number("integer", 1, MOST["n"]),
    "temperature": _number("number", 0, 100) | {"default": 1},
    "top_p": _number("number", 0, 1) | {"default": 1},
    "seed": _number("integer", 0, (1 << 63) - 1 - MOST["n"]),
    "max_tokens": _number("integer", 1, MOST["max_tokens"]),
    "max_completion_tokens": _number("integer", 1, MOST["max_tokens"]),
    "stop": {"oneOf": [{"type": "string", "minLength": 1}, _strings(MOST["stop"])]},
    "logprobs": {"type": "boolean"},
    "stream": {"type": "boolean"},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
    "guided_choice": _strings(MOST["guided_choice"]) | {"description": "the answer is the likeliest of these"},
}
_EMBEDDINGS = {
    "input": {"oneOf": [_TEXT, {"type": "array", "minItems": 1, "maxItems": 8, "items": {"oneOf": [_TEXT, _PART]}}]},
    "encoding_format": {"enum": ["float", "base64"]},
}
_ACTIONS = {
    "observation": {
        "type": "object",
        "minProperties": 1,
        "properties": {
            "state": {"type": "array", "minItems": 1, "items": _number("number", -3e38, 3e38)},
            "images": {"type": "object", "additionalProperties": _URL},
            "text": _TEXT,
        },
        "additionalProperties": False,
    }
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT},
        }
    },
}


def document(models: Sequence[str]) -> dict[str, Any]:
    """Return the OpenAPI document of a server with these models."""
    chat, embeddings, actions = (
        _body(models, own, required)
        for own, required in ((_CHAT, "messages"), (_EMBEDDINGS, "input"), (_ACTIONS, "observation"))
    )
    weights = {"model": _name(models), "path": _TEXT}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Palaestra", "version": "1", "description": "OpenAI's API over a batch server."},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
        "paths": {
            "/v1/chat/completions": {"post": _post("The next turn of a conversation", chat)},
            "/v1/embeddings": {"post": _post("Unit vectors", embeddings)},
            "/v1/actions": {"post": _post("What a trained policy does", actions)},
            "/v1/weights": {"post": _post("Load other weights", _object(weights, [*weights]))},
            "/v1/models": {"get": _get("The models")},
            "/health": {"get": _get("Whether all models take asks") | {"security": []}},
            "/metrics": {"get": _get("Counts, for Prometheus", "text/plain")},
        },
    }


def _name(models: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(models)} if models else _TEXT


def _object(properties: dict[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def _body(models: Sequence[str], own: dict[str, Any], required: str) -> dict[str, Any]:
    return _object({"model": _name(models)} | own | _COMMON, ["model", required])


def _post(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": body}}
    if "observation" in body["properties"]:
        content[packing.CONTENT_TYPE] = {"schema": {"type": "string", "format": "binary"}}
    operation = _get(summary)
    operation["requestBody"] = {"required": True, "content": content}
    for status in (400, 403, 404, 409, 413, 415, 429, 500, 503, 504):
        operation["responses"][str(status)] = _response("it says what is wrong", _ERROR)
    return operation


def _get(summary: str, content_type: str = "application/json") -> dict[str, Any]:
    responses = {"200": _response("done", _ANY if content_type == "application/json" else _TEXT, content_type)}
    responses["401"] = _response("no token, or a wrong one", _ERROR)
    return {"summary": summary, "responses": responses}


def _response(text: str, schema: dict[str, Any], content_type: str = "application/json") -> dict[str, Any]:
    return {"description": text, "content": {content_type: {"schema": schema}}}
