"""LitServe with the echo model: `python -m palaestra.launch.benches.litserve_echo PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve

from palaestra.launch.benches.echo import BATCH, WAIT, answers


class Echo(litserve.LitAPI):  # type: ignore[misc]
    """The model as LitServe wants it."""

    def setup(self, device: str) -> None:
        """Load nothing."""

    def predict(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer a batch."""
        return answers(bodies)


if __name__ == "__main__":
    server = litserve.LitServer(
        Echo(max_batch_size=BATCH, batch_timeout=WAIT), accelerator="cpu", workers_per_device=1, timeout=60
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
