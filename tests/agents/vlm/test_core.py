"""The contract of asks: what makes two of them the same."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents.vlm.core import Act, Ask, AskError, Embed, Generate, Message, Picture, digest
from palaestra.envs.core import Observation


def picture(*values: int, height: int = 1) -> Picture:
    return Picture(torch.tensor(values, dtype=torch.uint8).reshape(height, -1, 3))


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    count = height * width * 3
    values = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    return Picture(torch.tensor(values, dtype=torch.uint8).reshape(height, width, 3))


CONTENT = st.lists(st.text("a,'(\\", max_size=3) | pictures(), max_size=3).map(tuple)
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["system", "user"]), CONTENT), max_size=3).map(tuple)
ASKS = st.builds(
    Generate,
    MESSAGES,
    max_tokens=st.integers(1, 3),
    seed=st.none() | st.integers(0, 1),
    stop=st.lists(st.text("a,'", max_size=2), max_size=2).map(tuple),
    logprobs=st.booleans(),
    choices=st.lists(st.text("a,'", max_size=2), max_size=2).map(tuple),
) | st.builds(Embed, st.text("a,'", max_size=3) | pictures())


def content(value: object) -> object:
    """Return nested plain values that are equal if and only if the contents are: the law's own reading of an ask."""
    if isinstance(value, Picture):
        return ["picture", value.pixels.tolist()]
    if isinstance(value, tuple):
        return [content(item) for item in value]
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, *(content(getattr(value, field.name)) for field in dataclasses.fields(value))]
    return value


@settings(max_examples=300, deadline=None)
@given(ASKS, ASKS)
def test_digests_are_equal_exactly_where_contents_are(left: Ask, right: Ask) -> None:
    assert (digest(left) == digest(right)) == (content(left) == content(right))


@settings(max_examples=50, deadline=None)
@given(ASKS)
def test_a_digest_is_of_the_content_not_the_object(ask: Ask) -> None:
    """Cloned pixels, in another memory layout, are the same content."""
    if isinstance(ask, Generate):
        messages = tuple(
            Message(m.role, tuple(Picture(strided(p.pixels)) if isinstance(p, Picture) else p for p in m.content))
            for m in ask.messages
        )
        twin: Ask = dataclasses.replace(ask, messages=messages)
    else:
        assert isinstance(ask, Embed)
        twin = Embed(Picture(strided(ask.item.pixels)) if isinstance(ask.item, Picture) else ask.item)
    assert digest(twin) == digest(ask)


def strided(pixels: torch.Tensor) -> torch.Tensor:
    return torch.stack([pixels, pixels], -1)[..., 0]


def test_pixels_of_another_shape_are_another_picture() -> None:
    assert digest(Embed(picture(1, 2, 3, 4, 5, 6))) != digest(Embed(picture(1, 2, 3, 4, 5, 6, height=2)))


def test_every_field_of_generate_counts() -> None:
    """No field can be added to an ask without its digest knowing."""
    base = Generate((Message("user", ("hi",)),), seed=1)
    changed = {
        "messages": (Message("system", ("hi",)),),
        "max_tokens": 65,
        "temperature": 0.5,
        "top_p": 0.5,
        "seed": 2,
        "stop": ("x",),
        "logprobs": True,
        "choices": ("x",),
    }
    assert set(changed) == {field.name for field in dataclasses.fields(Generate)}
    digests = {digest(dataclasses.replace(base, **{name: value})) for name, value in changed.items()}
    assert len(digests | {digest(base)}) == len(changed) + 1


def test_what_may_be_answered_differently_has_no_digest() -> None:
    """Sampling without a seed, and policies, which draw their actions."""
    messages = (Message("user", ("hi",)),)
    assert digest(Generate(messages, temperature=0.7)) is None
    assert digest(Generate(messages, temperature=0.7, seed=0)) is not None
    assert digest(Generate(messages)) is not None
    assert digest(Act(Observation(state=torch.zeros(1, 2)))) is None


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(4, 4, 3),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4, dtype=torch.uint8),
        torch.zeros(0, 4, 3, dtype=torch.uint8),
        torch.zeros(4, 4, 4, dtype=torch.uint8),
    ],
)
def test_a_picture_is_bytes_of_height_width_and_three_colours(pixels: torch.Tensor) -> None:
    with pytest.raises(AskError, match=r"uint8 of shape \[H, W, 3\], got .*"):
        Picture(pixels)
