"""Open-loop load on an HTTP server, from a process of its own: requests leave on time whether answers come or not.

Run as `python -m palaestra.launch.benches.load URL BODY_FILE RATE SECONDS`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from palaestra.agents.vlm.http import Http

CONNECTIONS = 512
"""The most requests that are on their way at once."""


async def load(url: str, body: bytes, rate: float, seconds: float) -> dict[str, float]:
    """Send requests at random times (Poisson), `rate` a second on average.

    Returns:
        Answers a second within the time, the count of requests that failed, and percentiles of the latency in seconds,
        counted from when a request should have left: waiting for a connection is latency too.
    """
    parts = urlsplit(url)
    http = Http(f"{parts.scheme}://{parts.netloc}", {})
    slots = asyncio.Semaphore(CONNECTIONS)
    latencies: list[float] = []
    failed = 0

    async def ask(due: float) -> None:
        nonlocal failed
        try:
            async with slots:
                response = await http.request("POST", parts.path or "/", b"Content-Type: application/json\r\n", body)
        except OSError:
            failed += 1
            return
        now = time.perf_counter()
        failed += response.status != 200
        if response.status == 200 and now < end:
            latencies.append(now - due)

    began = time.perf_counter()
    end, due, tasks, draw = began + seconds, began, set(), random.Random(0)
    while due < end:
        pause = due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(ask(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if pause <= 0 and len(tasks) % 16 == 0:
            await asyncio.sleep(0)  # late: let answers in all the same
        due += draw.expovariate(rate)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    latencies.sort()
    found = {f"p{p}": latencies[int(p / 100 * len(latencies))] for p in (50, 90, 99)} if latencies else {}
    return {"rate": len(latencies) / seconds, "failed": failed, **found}


if __name__ == "__main__":
    address, file, per_second, duration = sys.argv[1:]
    print(json.dumps(asyncio.run(load(address, Path(file).read_bytes(), float(per_second), float(duration)))))
