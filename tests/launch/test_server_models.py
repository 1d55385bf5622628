"""Real models behind the real server, on the path that a large checkpoint takes."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from palaestra.agents.vlm.client import connect
from palaestra.agents.vlm.core import AskError, Embed, Generate, Message, Picture, Text, Vector, WeightsError
from palaestra.agents.vlm.images import to_url
from palaestra.agents.vlm.tiny import build_tiny_vlm
from palaestra.agents.vlm.tiny_clip import build_tiny_clip
from palaestra.launch.serve import ModelSpec, ServeOptions, open_app
from palaestra.launch.server.run import background

TOKEN = "correct-horse-battery-staple"
PICTURE = Picture(torch.randint(0, 256, (48, 64, 3), generator=torch.Generator().manual_seed(3)).to(torch.uint8))
SCENE: Any = [{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": to_url(PICTURE)}}, {"type": "text", "text": "what is it?"},
]}]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    build_tiny_vlm(folder / "vlm")
    build_tiny_vlm(folder / "vlm-again", seed=1)
    build_tiny_clip(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def url(weights: Path) -> Iterator[str]:
    options = ServeOptions(
        model=(f"judge=transformers:{weights / 'vlm'}", f"sight=open_clip:{weights / 'clip'}"), weights_from=(weights,)
    )
    with background(open_app(options, [ModelSpec.parse(text) for text in options.model], TOKEN)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as client:
        yield client


def test_a_conversation_with_a_picture(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(model="judge", messages=SCENE, max_tokens=6, temperature=0, logprobs=True)
    choice = done.choices[0]
    assert done.usage is not None and done.usage.prompt_tokens > 10 and 1 <= done.usage.completion_tokens <= 6
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == done.usage.completion_tokens
    assert all(token.logprob <= 0 for token in choice.logprobs.content)


def test_a_seed_gives_the_same_answers_and_n_gives_different_ones(client: openai.OpenAI) -> None:
    def texts() -> list[str | None]:
        done = client.chat.completions.create(model="judge", messages=SCENE, max_tokens=8, seed=1, n=3)
        return [choice.message.content for choice in done.choices]

    first = texts()
    assert first == texts() and len(set(first)) > 1


def test_a_streamed_answer_is_the_same_and_comes_in_pieces(client: openai.OpenAI) -> None:
    def ask(**options: Any) -> Any:
        return client.chat.completions.create(
            model="judge", messages=SCENE, max_tokens=24, temperature=1.5, seed=4, **options
        )

    whole = ask().choices[0]
    chunks = list(ask(stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.message.content and sum(map(bool, pieces)) > 5
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def test_choices_and_over_the_wire_equals_in_process(url: str, weights: Path) -> None:
    from palaestra.agents.vlm.engines import open_engine

    ask = Generate((Message("user", (PICTURE, "red or blue?")),), choices=("red", "blue"))
    engine = open_engine("transformers", str(weights / "vlm"))
    with connect(url, token=TOKEN) as remote, connect({"judge": engine}) as local:
        over, here = (each.ask("judge", ask) for each in (remote, local))
    assert over.version == here.version and isinstance(over.answer, Text) and isinstance(here.answer, Text)
    assert over.answer.text == here.answer.text
    assert over.answer.scores == pytest.approx(here.answer.scores, abs=1e-4)


def test_vectors_are_of_unit_length_and_the_same_in_both_encodings(client: openai.OpenAI, url: str) -> None:
    body = {"model": "sight", "input": ["a red cube", {"image_url": {"url": to_url(PICTURE)}}]}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    plain, packed = (
        httpx.post(f"{url}/v1/embeddings", json=body | {"encoding_format": form}, headers=headers).json()["data"]
        for form in ("float", "base64")
    )
    for one, other in zip(plain, packed, strict=True):
        assert np.linalg.norm(one["embedding"]) == pytest.approx(1.0, abs=1e-5)
        assert np.allclose(np.frombuffer(base64.b64decode(other["embedding"]), "<f4"), one["embedding"])
    assert client.embeddings.create(model="sight", input="a red cube").data[0].embedding == pytest.approx(
        plain[0]["embedding"], abs=1e-6
    )


def test_what_a_model_cannot_do_is_the_ask_s_fault(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(model="judge", messages=[{"role": "user", "content": "word " * 20_000}])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="sight", messages=SCENE)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="judge", input="x")


def test_weights_of_another_architecture_are_refused_and_the_old_ones_stay(url: str, weights: Path) -> None:
    with connect(url, token=TOKEN) as client:
        before = client.models()
        with pytest.raises(WeightsError):
            client.load("judge", weights / "clip")
        with pytest.raises(WeightsError):
            client.load("sight", weights / "vlm")
        assert client.models() == before
        assert isinstance(client.ask("sight", Embed(PICTURE)).answer, Vector)
        again = client.load("judge", weights / "vlm-again")
        assert again != before["judge"] and client.ask("judge", Generate((Message("user", ("hi",)),))).version == again
        with pytest.raises(AskError):
            client.ask("judge", Embed(PICTURE))
