"""What `palaestra bench server` measures beside our server: the same model function behind others' batching."""

from __future__ import annotations

import time
from typing import Any

DELAY = 0.02
"""Seconds that the model takes for a batch, whatever its size."""
BATCH = 32
"""The most asks in a batch."""
WAIT = 0.005
"""Seconds that an ask may wait for companions."""


def answers(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Do what our echo engine does: answer each conversation with its last text, after `DELAY` seconds."""
    time.sleep(DELAY)
    return [{"text": body["messages"][-1]["content"]} for body in bodies]
