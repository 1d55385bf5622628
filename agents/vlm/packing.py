"""JSON and tensors in one body: a safetensors file whose metadata holds the JSON, which says `tensor:NAME`.

This spares pictures base64 and PNG, and policies the digits of their numbers. There is no pickle in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from palaestra.agents.vlm import fields
from palaestra.agents.vlm.core import AskError

CONTENT_TYPE = "application/vnd.safetensors"
"""Of such a body."""
PREFIX = "tensor:"
"""Before a tensor's name where the JSON refers to it."""

_ENTRY = "body"
_TYPES = {"U8": torch.uint8, "F32": torch.float32}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def pack(body: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return JSON and the tensors (uint8 or float32) that it refers to as one safetensors file.

    Written by hand, as the format allows in a few lines: the library's own function takes ten times as long.

    Raises:
        AskError: A tensor is of another type.
    """
    header: dict[str, Any] = {"__metadata__": {_ENTRY: json.dumps(body)}}
    parts, end = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].element_size(), reverse=True):
        if tensor.dtype not in _NAMES:
            raise AskError(f"tensor {name!r} is {tensor.dtype}; only uint8 and float32 are sent.")
        data = tensor.detach().cpu().contiguous().numpy().tobytes()
        start, end = end, end + len(data)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of their size
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON and the tensors of a body that `pack` made.

    Raises:
        AskError: It is no such body, or holds tensors of other types than uint8 and float32.
    """
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise AskError(f"the body is not a safetensors file: {error}") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # which the library has found to be sound
    metadata = header.get("__metadata__") or {}
    if _ENTRY not in metadata:
        raise AskError(f"the safetensors file's metadata should hold the request's JSON under {_ENTRY!r}.")
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _TYPES:
            raise AskError(f"tensor {name!r} is {entry['dtype']}; only U8 and F32 are read.")
        if 0 in entry["shape"]:
            raise AskError(f"tensor {name!r} of shape {entry['shape']} is empty.")
        flat = torch.frombuffer(bytearray(entry["data"]), dtype=_TYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return fields.parse(metadata[_ENTRY]), tensors
