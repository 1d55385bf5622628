"""Ray Serve with the echo model: `python -m palaestra.launch.benches.ray_serve_echo PORT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import ray
from ray import serve

from palaestra.launch.benches.echo import BATCH, WAIT, answers


class Echo:
    """The model as Ray Serve wants it."""

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT)
    async def predict(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer a batch, in a thread: requests come in meanwhile."""
        return await asyncio.to_thread(answers, bodies)

    async def __call__(self, request: Any) -> Any:
        """Answer one request."""
        return await self.predict(await request.json())


if __name__ == "__main__":
    ray.init(log_to_driver=False, include_dashboard=False, num_cpus=2)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    deployment: Any = serve.deployment(max_ongoing_requests=4096, ray_actor_options={"num_cpus": 1})(Echo)
    serve.run(deployment.bind(), route_prefix="/predict", blocking=True)
