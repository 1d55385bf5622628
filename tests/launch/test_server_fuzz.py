"""Requests that nobody thought of, made from the server's own description of itself: never a 500."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.engines.echo import EchoEngine
from palaestra.launch.server.app import App
from palaestra.launch.server.routes import ROUTES
from palaestra.launch.server.run import background

PATHS = ["/v1/chat/completions", "/v1/embeddings", "/v1/actions", "/v1/weights"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with background(App({"m": Batcher(EchoEngine())}, ROUTES)) as address:
        yield address


def examples(url: str, path: str, count: int) -> None:
    """Try valid and invalid requests to one path, and check what comes back against the description."""
    schema = schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json").json())
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        _try_all(schema[path]["POST"].as_strategy(generation_mode=mode), url, count)


def _try_all(strategy: Any, url: str, count: int) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def check(case: Any) -> None:
        response = case.call(base_url=url)
        assert response.status_code != 500, (case.body, response.text)
        assert response.status_code in (200, 400, 403, 404, 504), (case.body, response.text)
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    check()


@pytest.mark.parametrize("path", PATHS)
def test_no_request_breaks_the_server(url: str, path: str) -> None:
    examples(url, path, 6)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_no_request_of_many_breaks_the_server(url: str, path: str) -> None:
    examples(url, path, 200)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(PATHS), st.sampled_from(["application/json", "application/vnd.safetensors"]), st.binary())
def test_no_bytes_break_the_server(path: str, kind: str, data: bytes) -> None:
    """Straight at the application, without the network between."""
    import asyncio

    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"content-type", kind.encode())]}
    asyncio.run(APP(scope, receive, send))
    assert sent[0]["status"] in (400, 403), sent


APP = App({"m": Batcher(EchoEngine())}, ROUTES)
