"""Answers that are kept for the next time, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from palaestra.agents.vlm.core import Answer, Text, Vector

OVERHEAD = 512
"""About how many bytes an entry takes beside its content."""


class Cache:
    """Answers by content and version; the least recently used go first."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._entries: OrderedDict[tuple[str, str], tuple[Answer, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, version: str) -> Answer | None:
        """Return the answer that these weights gave to this content, if it is kept."""
        entry = self._entries.get((key, version))
        if entry is None:
            return None
        self._entries.move_to_end((key, version))
        return entry[0]

    def put(self, key: str, version: str, answer: Answer) -> None:
        """Keep an answer, unless it alone is too large."""
        size = size_of(answer)
        if size > self.most_bytes or (key, version) in self._entries:
            return
        self._entries[key, version] = answer, size
        self.bytes += size
        while self.bytes > self.most_bytes:
            self.bytes -= self._entries.popitem(last=False)[1][1]


def size_of(answer: Answer) -> int:
    """Return about how many bytes keeping an answer takes."""
    if isinstance(answer, Text):
        texts = sum(len(text) + 64 for text in (answer.text, *answer.token_texts))
        return OVERHEAD + 4 * texts + 40 * (len(answer.tokens) + len(answer.logprobs) + len(answer.scores))
    content = answer.values if isinstance(answer, Vector) else answer.action
    if isinstance(content, Tensor):
        return OVERHEAD + content.untyped_storage().nbytes()
    return OVERHEAD + 4 * len(content)
