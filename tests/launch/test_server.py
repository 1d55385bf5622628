"""The server over real HTTP, as users and strangers meet it."""

import base64
import dataclasses
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from PIL import Image

from palaestra.agents.vlm import packing
from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.core import Act, Answer, Ask, AskError, Audience, Generate, Picture, Text
from palaestra.agents.vlm.engines.echo import EchoEngine
from palaestra.agents.vlm.images import to_url
from palaestra.launch.server.app import App
from palaestra.launch.server.bodies import Limits
from palaestra.launch.server.routes import ROUTES
from palaestra.launch.server.run import background

TOKEN = "correct-horse-battery-staple"
HELLO = [{"role": "user", "content": "hello"}]
CHAT, EMBED, ACT, WEIGHTS = "/v1/chat/completions", "/v1/embeddings", "/v1/actions", "/v1/weights"


class Engine(EchoEngine):
    """Echoes, writes down what it is asked, and misbehaves when told to."""

    def __init__(self) -> None:
        super().__init__(version="v1")
        self.seen: list[Ask] = []
        self.free = threading.Event()
        self.free.set()
        self.may_say = threading.Semaphore(0)
        """For each word of a streamed text that begins with "step"."""
        self.steps = 0

    def stream(self, asks: Sequence[Ask], audience: Audience) -> list[Answer | Exception]:
        self.seen += asks
        texts = [str(ask.messages[-1].content[-1]) if isinstance(ask, Generate) else "" for ask in asks]

        def tell(pieces: Mapping[int, str]) -> Collection[int]:
            self.steps += 1
            if any(text.startswith("step") for text in texts):
                assert self.may_say.acquire(timeout=10)
            if any("raise" in piece for piece in pieces.values()):
                raise RuntimeError("out of memory")
            return audience.tell(pieces)

        answers = super().stream(asks, Audience(audience.places, tell))
        return [_with_logprobs(ask, answer) for ask, answer in zip(asks, answers, strict=True)]

    def check(self, ask: Ask) -> None:
        super().check(ask)
        if isinstance(ask, Generate) and len(str(ask.messages[-1].content[:1])) > 10_000:
            raise AskError("the prompt has 12345 tokens; the context holds 4096.")

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        self.seen += asks
        self.free.wait(10)
        texts = [str(ask.messages[-1].content[-1]) if isinstance(ask, Generate) else "" for ask in asks]
        if "raise" in texts:
            raise RuntimeError("out of memory")
        answers = super().answer(asks)
        if "miscount" in texts:
            return answers + answers
        return [_with_logprobs(ask, answer) for ask, answer in zip(asks, answers, strict=True)]


def _with_logprobs(ask: Ask, answer: Answer | Exception) -> Answer | Exception:
    if not (isinstance(ask, Generate) and isinstance(answer, Text) and ask.logprobs):
        return answer
    return dataclasses.replace(answer, tokens=(7,), token_texts=(answer.text,), logprobs=(-0.5,), prompt_tokens=3)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    (folder / "good.json").write_text('{"version": "v2"}')
    (folder / "bad.json").write_text('{"architecture": "other"}')
    (folder / "link.json").symlink_to(Path(__file__))
    return folder


@pytest.fixture(scope="module")
def url(engine: Engine, allowed: Path) -> Iterator[str]:
    models = {"parrot": Batcher(engine, hang_seconds=1.0), "second": Batcher(EchoEngine())}
    limits = Limits(body=1 << 20, bytes=8 << 20, pixels=1 << 18)
    app = App(models, ROUTES, token=TOKEN, weights_from=(allowed,), limits=limits)
    with background(app) as address:
        yield address


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as client:
        yield client


def refused(response: httpx.Response, status: int, *reasons: str) -> dict[str, Any]:
    """Check that an error is in OpenAI's shape and says why; return it."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for reason in reasons:
        assert reason in error["message"]
    return dict(error)


def ask_with_picture(url: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    return {"model": "parrot", "messages": [{"role": "user", "content": parts}]}


# ---------------------------------------------------------------- as the openai client uses it


def test_openai_chat(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model="parrot", messages=HELLO, temperature=0, max_tokens=5, logprobs=True)
    choice = done.choices[0]
    assert (choice.message.content, choice.message.role, choice.finish_reason) == ("hello", "assistant", "stop")
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert (choice.logprobs.content[0].token, choice.logprobs.content[0].logprob) == ("hello", -0.5)
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (3, 1, 4)
    assert done.model == "parrot" and done.object == "chat.completion" and done.system_fingerprint == "v1"


def test_openai_options_reach_the_engine(client: openai.OpenAI, engine: Engine) -> None:
    client.chat.completions.create(
        model="parrot", messages=HELLO, temperature=0.5, top_p=0.25, seed=9, max_completion_tokens=11, stop=["a", "b"]
    )
    ask = engine.seen[-1]
    assert isinstance(ask, Generate)
    assert (ask.temperature, ask.top_p, ask.seed, ask.max_tokens, ask.stop) == (0.5, 0.25, 9, 11, ("a", "b"))


def test_openai_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="parrot", messages=HELLO, n=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = ["", ""]
    finished = set()
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                finished.add(choice.index)
    assert texts == ["hello", "hello"] and finished == {0, 1} and chunks[-1].usage is not None


def test_a_stream_comes_as_it_is_made(client: openai.OpenAI, engine: Engine) -> None:
    """Each word arrives while the model has not been let to say the next; so many seconds are no hang."""
    engine.may_say.release()
    stream = client.chat.completions.create(
        model="parrot", messages=[{"role": "user", "content": "step by step"}], logprobs=True, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = []
    for words in ("step", "step by", "step by step"):
        time.sleep(0.4)
        while "".join(each.choices[0].delta.content or "" for each in chunks) != words:
            chunks.append(next(stream))
        if words != "step by step":
            engine.may_say.release()
    chunks += stream
    *pieces, last, usage = chunks
    assert [each.choices[0].delta.role for each in pieces] == ["assistant", *[None] * (len(pieces) - 1)]
    assert all(each.choices[0].finish_reason is None and each.usage is None for each in pieces)
    assert last.choices[0].finish_reason == "stop" and last.choices[0].delta.content is None
    assert last.system_fingerprint == engine.version and len({each.id for each in chunks}) == 1
    assert usage.choices == [] and usage.usage is not None and usage.usage.total_tokens == 4
    content = [entry for each in pieces if (found := each.choices[0].logprobs) for entry in found.content or ()]
    assert [entry.token for entry in content] == ["step by step"]


def test_what_fails_before_a_stream_begins_is_an_error_and_later_ends_it(client: openai.OpenAI) -> None:
    def stream(text: str) -> Any:
        return client.chat.completions.create(model="parrot", messages=[{"role": "user", "content": text}], stream=True)

    with pytest.raises(openai.InternalServerError, match="out of memory"):
        stream("raise")
    chunks = stream("well raise")
    assert next(chunks).choices[0].delta.content == "well"
    with pytest.raises(openai.APIError, match="out of memory"):
        list(chunks)


def test_who_hangs_up_in_the_middle_of_a_stream_frees_the_model(client: openai.OpenAI, engine: Engine) -> None:
    engine.may_say.release()
    stream = client.chat.completions.create(
        model="parrot", messages=[{"role": "user", "content": "step " * 50}], stream=True
    )
    next(iter(stream))
    stream.close()
    time.sleep(0.5)
    before = engine.steps
    engine.may_say.release(100)
    assert client.chat.completions.create(model="parrot", messages=HELLO).choices[0].message.content == "hello"
    assert engine.steps - before <= 2
    while engine.may_say.acquire(blocking=False):
        pass


def test_openai_n_answers_with_a_seed_have_seeds_of_their_own(client: openai.OpenAI, engine: Engine) -> None:
    before = len(engine.seen)
    done = client.chat.completions.create(model="parrot", messages=HELLO, n=3, seed=5)
    assert [choice.index for choice in done.choices] == [0, 1, 2]
    assert sorted(ask.seed for ask in engine.seen[before:] if isinstance(ask, Generate)) == [5, 6, 7]


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_openai_embeddings(client: openai.OpenAI, form: Any) -> None:
    options = {} if form is None else {"encoding_format": form}
    one = client.embeddings.create(model="parrot", input="red cube", **options).data[0].embedding
    many = client.embeddings.create(model="parrot", input=["blue", "red cube"], **options)
    assert [entry.index for entry in many.data] == [0, 1]
    if form != "base64":
        assert one == pytest.approx(many.data[1].embedding)
        assert sum(x * x for x in one) == pytest.approx(1.0)


def test_openai_models_and_errors(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["parrot", "second"]
    assert client.models.retrieve("second").id == "second"
    with pytest.raises(openai.NotFoundError, match="Did you mean 'parrot'"):
        client.chat.completions.create(model="parot", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="parrot", messages=HELLO, temperature=-1)
    with pytest.raises(openai.InternalServerError, match="out of memory"):
        client.chat.completions.create(model="parrot", messages=[{"role": "user", "content": "raise"}])
    with pytest.raises(openai.AuthenticationError, match="wrong token"):
        client.with_options(api_key="guess").models.list()
    with pytest.raises(openai.APIStatusError) as late:
        client.chat.completions.create(model="parrot", messages=HELLO, extra_body={"deadline": 0})
    assert late.value.status_code == 504


async def _openai_async(url: str) -> str | None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=TOKEN) as client:
        done = await client.chat.completions.create(model="parrot", messages=HELLO)
        return done.choices[0].message.content


def test_openai_async(url: str) -> None:
    import asyncio

    assert asyncio.run(_openai_async(url)) == "hello"


def test_choices_are_guided(http: httpx.Client) -> None:
    body = {"model": "parrot", "messages": [{"role": "user", "content": "no"}], "guided_choice": ["yes", "no"]}
    choice = http.post(CHAT, json=body).json()["choices"][0]
    assert choice["message"]["content"] == "no" and choice["palaestra"]["scores"] == [-1.0, 0.0]


def test_a_picture_arrives_pixel_for_pixel(http: httpx.Client, engine: Engine) -> None:
    pixels = torch.randint(0, 256, (9, 13, 3)).to(torch.uint8)
    assert http.post(CHAT, json=ask_with_picture(to_url(Picture(pixels)))).status_code == 200
    ask = engine.seen[-1]
    assert isinstance(ask, Generate)
    picture = ask.messages[0].content[0]
    assert isinstance(picture, Picture) and torch.equal(picture.pixels, pixels)


@pytest.mark.parametrize("packed", [False, True])
def test_actions(http: httpx.Client, engine: Engine, packed: bool) -> None:
    """Numbers come back as they went out, in the form in which they were sent."""
    if packed:
        data = packing.pack(
            {"model": "parrot", "observation": {"state": "tensor:s"}}, {"s": torch.tensor([[0.1, -2.0]])}
        )
        response = http.post(ACT, content=data, headers={"content-type": packing.CONTENT_TYPE})
        body, tensors = packing.unpack(response.content)
        assert response.headers["content-type"] == packing.CONTENT_TYPE
        assert body["action"] == "tensor:action" and torch.equal(tensors["action"], torch.tensor([[0.1, -2.0]]))
    else:
        response = http.post(ACT, json={"model": "parrot", "observation": {"state": [0.5, -2]}})
        assert response.json()["action"] == [[0.5, -2.0]]
    assert isinstance(engine.seen[-1], Act)


# ---------------------------------------------------------------- bad input


def bomb() -> str:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1251 * 10_000), 9))
    return "data:image/png;base64," + base64.b64encode(data + chunk(b"IEND", b"")).decode()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("url_of_picture", "reason"),
    [
        ("data:image/png;base64," + base64.b64encode(b"this is text").decode(), "no whole PNG, JPEG, WEBP picture"),
        (bomb(), "10000x10000 pixels"),
        ("data:image/jpeg;base64," + base64.b64encode(jpeg()[:-200]).decode(), "no whole"),
        ("https://example.com/cat.png", "fetches nothing"),
        ("http://169.254.169.254/latest/meta-data", "fetches nothing"),
        ("file:///etc/passwd", "opens no files"),
    ],
)
def test_bad_pictures(http: httpx.Client, url_of_picture: str, reason: str) -> None:
    refused(http.post(CHAT, json=ask_with_picture(url_of_picture)), 400, reason)
    refused(http.post(EMBED, json={"model": "parrot", "input": [{"image_url": {"url": url_of_picture}}]}), 400, reason)


def test_a_prompt_over_the_context(http: httpx.Client) -> None:
    body = {"model": "parrot", "messages": [{"role": "user", "content": "x" * 20_000}]}
    refused(http.post(CHAT, json=body), 400, "context holds 4096")


@pytest.mark.parametrize("path", [CHAT, EMBED, ACT])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": 1}', b"\xff\xfe\x00", b'{"model": "parrot"}'])
def test_bodies_that_are_no_request(http: httpx.Client, path: str, body: bytes) -> None:
    refused(http.post(path, content=body, headers={"content-type": "application/json"}), 400)
    refused(http.post(path, content=body, headers={"content-type": packing.CONTENT_TYPE}), 400, "safetensors")


def test_wrong_types_are_named(http: httpx.Client) -> None:
    error = refused(http.post(CHAT, json={"model": "parrot", "messages": HELLO, "max_tokens": "many"}), 400)
    assert error["param"] == "max_tokens"


def test_paths_methods_and_types(http: httpx.Client) -> None:
    refused(http.post("/v1/chat/completion", json={}), 404, "/v1/chat/completions")
    response = http.get(CHAT)
    refused(response, 405, "use POST")
    assert response.headers["allow"] == "POST"
    refused(http.post(CHAT, content=b"{}", headers={"content-type": "text/plain"}), 415, "application/json")
    refused(http.get("/v1/models/nobody"), 404, "no model is called 'nobody'")
    assert http.head("/health").content == b""


def test_an_oversized_body_is_refused_before_it_is_read(http: httpx.Client, url: str) -> None:
    refused(http.post(CHAT, content=b"x" * (2 << 20), headers={"content-type": "application/json"}), 413, "1,048,576")

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    refused(http.post(CHAT, content=endless(), headers={"content-type": "application/json"}), 413, "1,048,576")
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
@pytest.mark.parametrize("path", [CHAT, EMBED, ACT, WEIGHTS, "/v1/models", "/metrics"])
def test_without_the_token_nothing_is_told(url: str, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    post = path not in ("/v1/models", "/metrics")
    response = httpx.request("POST" if post else "GET", url + path, headers=headers, json={} if post else None)
    refused(response, 401, "Authorization: Bearer TOKEN")
    assert TOKEN not in response.text


def test_health_and_the_api_s_description_are_public(url: str) -> None:
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "models": {"parrot": "open", "second": "open"}}
    assert httpx.get(f"{url}/openapi.json").json()["openapi"].startswith("3.1")


def test_metrics_count_for_prometheus_and_for_people(http: httpx.Client) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    http.post(CHAT, json={"model": "second", "messages": HELLO})
    families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    numbers = http.get("/metrics", headers={"accept": "application/json"}).json()["second"]
    counted = {s.labels["model"]: s.value for s in families["palaestra_answered"].samples if s.name.endswith("_total")}
    assert counted["second"] == numbers["answered"] >= 1
    buckets = [s for s in families["palaestra_queue_seconds"].samples if s.labels.get("model") == "second"]
    infinite = next(s.value for s in buckets if s.labels.get("le") == "+Inf")
    assert infinite == next(s.value for s in buckets if s.name.endswith("_count"))


# ---------------------------------------------------------------- engines that fail


@pytest.mark.parametrize(("text", "reason"), [("raise", "out of memory"), ("miscount", "2 answers to 1 ask")])
def test_an_engine_s_failure_is_told_and_over(http: httpx.Client, text: str, reason: str) -> None:
    body = {"model": "parrot", "messages": [{"role": "user", "content": text}]}
    refused(http.post(CHAT, json=body), 500, reason)
    assert http.post(CHAT, json={"model": "parrot", "messages": HELLO}).status_code == 200


def test_an_engine_that_hangs_is_given_up(http: httpx.Client, engine: Engine) -> None:
    engine.free.clear()
    try:
        began = time.monotonic()
        refused(http.post(CHAT, json={"model": "parrot", "messages": HELLO}), 500, "hung")
        assert time.monotonic() - began < 5
    finally:
        engine.free.set()
    assert http.post(CHAT, json={"model": "parrot", "messages": HELLO}).status_code == 200


# ---------------------------------------------------------------- weights


def test_weights_are_swapped_and_wrong_ones_are_not(http: httpx.Client, allowed: Path) -> None:
    def load(path: Path | str) -> httpx.Response:
        return http.post(WEIGHTS, json={"model": "second", "path": str(path)})

    def version() -> Any:
        return http.post(CHAT, json={"model": "second", "messages": HELLO}).json()["system_fingerprint"]

    assert version() == "echo"
    refused(load(allowed / "bad.json"), 409, "version")
    refused(load(allowed / "absent.json"), 409)
    assert version() == "echo"
    assert load(allowed / "good.json").json() == {"model": "second", "version": "v2"}
    assert version() == "v2"


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "{}/../x.json", "{}/link.json", "a\0b", ""])
def test_weights_come_from_allowed_folders_only(http: httpx.Client, allowed: Path, path: str) -> None:
    body = {"model": "second", "path": path.replace("{}", str(allowed))}
    refused(http.post(WEIGHTS, json=body), 403, "not in a folder")


def test_weights_are_never_loaded_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{"version": "v2"}')
    with background(App({"m": Batcher(EchoEngine())}, ROUTES, weights_from=(tmp_path,))) as url:
        response = httpx.post(url + WEIGHTS, json={"model": "m", "path": str(tmp_path / "good.json")})
        refused(response, 403, "--token-file")
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["version"] == "echo"


# ---------------------------------------------------------------- the end


def test_what_is_in_progress_is_finished_when_the_server_ends() -> None:
    engine = Engine()
    engine.free.clear()
    answers: list[httpx.Response] = []
    with background(App({"m": Batcher(engine)}, ROUTES)) as url:
        thread = threading.Thread(
            target=lambda: answers.append(httpx.post(url + CHAT, json={"model": "m", "messages": HELLO}, timeout=20))
        )
        thread.start()
        while not engine.seen:
            time.sleep(0.01)
        threading.Timer(0.3, engine.free.set).start()
    thread.join()
    assert json.loads(answers[0].content)["choices"][0]["message"]["content"] == "hello"


def test_a_closed_model_is_lost_and_health_says_so() -> None:
    batcher = Batcher(EchoEngine())
    with background(App({"m": batcher}, ROUTES)) as url:
        batcher.drain()
        assert httpx.get(f"{url}/health").json()["status"] == "draining"
        batcher.close()
        health = httpx.get(f"{url}/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        refused(httpx.post(url + CHAT, json={"model": "m", "messages": HELLO}), 503, "closed")
