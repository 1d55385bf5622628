"""Asks and replies go through JSON unchanged; what is wrong in JSON is named."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.agents.vlm import faults, fields, packing, wire, wire_replies
from palaestra.agents.vlm.core import (
    Act,
    Action,
    Ask,
    AskError,
    Embed,
    EngineError,
    Generate,
    LateError,
    Message,
    OverloadedError,
    Picture,
    Reply,
    ServerLostError,
    Text,
    UnknownModelError,
    Vector,
    WeightsError,
    digest,
)
from palaestra.envs.core import Observation

PICTURE = Picture(torch.randint(0, 256, (4, 6, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8))
TALK = (Message("system", ("be brief",)), Message("user", ("what is ", PICTURE, "?")))
SCENE = Generate(TALK, temperature=0.5, seed=3)
WORLD = Observation({"top": PICTURE.pixels[None]}, torch.tensor([[0.1, -2.5, 3e-30]]), ("push the cube",))
ASKS: list[Ask] = [
    SCENE,
    Generate((Message("user", ("hi",)),), 5, 0.7, 0.9, 11, ("\n", "end"), True, ("yes", "no")),
    Generate((Message("user", ()), Message("assistant", ("", ""))), temperature=0.0),
    Embed("a red cube"),
    Embed(PICTURE),
    Act(WORLD),
    Act(Observation(state=torch.ones(1, 2))),
    Act(Observation(text=("go",))),
]


def over_the_wire(ask: Ask, packed: bool) -> wire.Request:
    tensors: dict[str, torch.Tensor] | None = {} if packed else None
    body = wire.write("m", ask, tensors, 2.5, -3)
    if tensors is None:
        return wire.read(type(ask), fields.parse(json.dumps(body)), wire.Attachments())
    body, tensors = packing.unpack(packing.pack(body, tensors))
    return wire.read(type(ask), body, wire.Attachments(tensors))


def content(value: object) -> object:
    """Everything in an ask, as what can be compared."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.tolist()
    if isinstance(value, tuple):
        return tuple(content(each) for each in value)
    if isinstance(value, dict):
        return {name: content(each) for name, each in value.items()}
    if dataclasses.is_dataclass(value):
        return type(value), [content(getattr(value, field.name)) for field in dataclasses.fields(value)]
    return value


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ask", ASKS)
def test_an_ask_survives_the_wire(ask: Ask, packed: bool) -> None:
    """Bit for bit."""
    request = over_the_wire(ask, packed)
    assert (request.model, request.deadline, request.priority) == ("m", 2.5, -3)
    assert [content(each) for each in request.asks] == [content(ask)]


TEXT = Text("yes ", (5, 6), ("yes", " "), (-0.25, -1e-9), "length", 17, (-1.5, -2.0))
REPLIES: list[tuple[Ask, Any]] = [
    (SCENE, TEXT),
    (SCENE, Text("")),
    (Embed("x"), Vector(torch.nn.functional.normalize(torch.randn(33), dim=0), 4)),
    (Act(WORLD), Action(torch.randn(2, 7))),
    (Act(WORLD), Action("turn left")),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("ask", "answer"), REPLIES)
def test_a_reply_survives_the_wire(ask: Ask, answer: Any, packed: bool) -> None:
    reply = Reply(answer, "v7", 0.5, 0.25, 12, True)
    tensors: dict[str, torch.Tensor] = {}
    if isinstance(ask, Generate):
        body = wire_replies.write_chat("m", [reply])
    elif isinstance(ask, Embed):
        body = wire_replies.write_embeddings("m", [reply], as_base64=packed)
    else:
        body = wire_replies.write_action("m", reply, tensors if packed else None)
    body, tensors = packing.unpack(packing.pack(body, tensors))
    back = wire_replies.read(ask, body, tensors)
    assert (back.version, back.queue_seconds, back.model_seconds, back.batch, back.kept) == ("v7", 0.5, 0.25, 12, True)
    if isinstance(answer, Text):
        assert back.answer == answer
    elif isinstance(answer, Vector):
        assert isinstance(back.answer, Vector) and torch.equal(back.answer.values, answer.values)
        assert back.answer.prompt_tokens == 4
    else:
        assert isinstance(back.answer, Action)
        same = back.answer.action == answer.action
        assert same if isinstance(same, bool) else bool(same.all())


def test_more_answers_have_seeds_of_their_own_and_the_first_the_given_one() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 10, "n": 3}
    asks = wire.read(Generate, body, wire.Attachments()).asks
    assert [ask.seed for ask in asks if isinstance(ask, Generate)] == [10, 11, 12]


def test_greedy_answers_without_a_seed_are_one_ask_many_times() -> None:
    """The batcher merges them: the model runs once."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "n": 3}
    asks = wire.read(Generate, body, wire.Attachments()).asks
    assert len(asks) == 3 and len({digest(ask) for ask in asks}) == 1


def test_openai_s_defaults_hold() -> None:
    body = {"model": "m", "messages": [{"role": "developer", "content": "hi"}], "seed": None, "stop": "x"}
    (ask,) = wire.read(Generate, body, wire.Attachments()).asks
    assert isinstance(ask, Generate)
    assert (ask.temperature, ask.top_p, ask.seed, ask.stop, ask.messages[0].role) == (1.0, 1.0, None, ("x",), "system")


def test_the_newer_names_are_read() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "max_completion_tokens": 7}
    body["structured_outputs"] = {"choice": ["a", "b"]}
    (ask,) = wire.read(Generate, body, wire.Attachments()).asks
    assert isinstance(ask, Generate) and ask.max_tokens == 7 and ask.choices == ("a", "b")


HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("kind", "body", "field", "reason"),
    [
        (Generate, {"messages": HELLO}, "model", "should be a string, but is null"),
        (Generate, {"model": 3, "messages": HELLO}, "model", "an integer"),
        (Generate, {"model": "m"}, "messages", "at least one message"),
        (Generate, {"model": "m", "messages": []}, "messages", "at least one message"),
        (Generate, {"model": "m", "messages": ["hi"]}, "messages[0]", "a string"),
        (Generate, {"model": "m", "messages": [{"role": "cook", "content": ""}]}, "messages[0].role", "the roles are"),
        (Generate, {"model": "m", "messages": [{"role": "user"}]}, "messages[0].content", "null"),
        (Generate, {"model": "m", "messages": HELLO, "temprature": 1}, "temprature", "Did you mean 'temperature'"),
        (Generate, {"model": "m", "messages": HELLO, "temperature": "hot"}, "temperature", "a string"),
        (Generate, {"model": "m", "messages": HELLO, "temperature": -1}, "temperature", "outside 0"),
        (Generate, {"model": "m", "messages": HELLO, "n": 0}, "n", "outside 1 … 128"),
        (Generate, {"model": "m", "messages": HELLO, "n": True}, "n", "a boolean"),
        (Generate, {"model": "m", "messages": HELLO, "seed": 1.5}, "seed", "an integer"),
        (Generate, {"model": "m", "messages": HELLO, "stop": [1]}, "stop", "list of strings"),
        (Generate, {"model": "m", "messages": HELLO, "stop": ""}, "stop", "none of them empty"),
        (Generate, {"model": "m", "messages": HELLO, "stream": "yes"}, "stream", "true or false"),
        (Generate, {"model": "m", "messages": HELLO, "tools": [{}]}, "tools", "not supported"),
        (Generate, {"model": "m", "messages": HELLO, "max_tokens": 10**400}, "max_tokens", "outside"),
        (Generate, {"model": "m", "messages": HELLO, "deadline": -1}, "deadline", "outside"),
        (Generate, {"model": "m", "messages": HELLO, "priority": 11}, "priority", "outside"),
        (Embed, {"model": "m"}, "input[0]", "null"),
        (Embed, {"model": "m", "input": []}, "input", "1 to 2048"),
        (Embed, {"model": "m", "input": [1, 2]}, "input[0]", "an integer"),
        (Embed, {"model": "m", "input": "x", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        (Embed, {"model": "m", "input": "x", "dimensions": 5}, "dimensions", "own length"),
        (Act, {"model": "m"}, "observation", "empty"),
        (Act, {"model": "m", "observation": {"state": []}}, "observation.state", "list of numbers"),
        (Act, {"model": "m", "observation": {"state": [True]}}, "observation.state", "list of numbers"),
        (Act, {"model": "m", "observation": {"state": [1e39]}}, "observation.state", "list of numbers"),
        (Act, {"model": "m", "observation": {"state": [10**400]}}, "observation.state", "list of numbers"),
        (Act, {"model": "m", "observation": {"image": {}}}, "observation.image", "Did you mean 'images'"),
    ],
)
def test_what_is_wrong_is_named(kind: type[Ask], body: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(fields.FieldError) as caught:
        wire.read(kind, body, wire.Attachments())
    assert caught.value.field == field and reason in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"[1]", b"{", b"\xff\xfe", b'{"a": NaN}', b'{"a": Infinity}', b'"x"', b"[" * 100_000, b'{"a": "\\ud800"}'],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(AskError, match="the body"):
        fields.parse(data)


def test_all_pictures_of_a_request_share_one_bound() -> None:
    attached = wire.Attachments(most_pixels=2 * 4 * 6)
    body = wire.write("m", Generate((Message("user", (PICTURE, PICTURE, PICTURE)),)), None)
    with pytest.raises(AskError, match="at most 0 are read"):
        wire.read(Generate, body, attached)


@pytest.mark.parametrize(
    "tensors",
    [{}, {"0": torch.zeros(3)}, {"0": torch.zeros(2, 2, 2, 3, dtype=torch.uint8)}, {"0": torch.zeros(2, 2, 3)}],
)
def test_a_packed_observation_must_be_of_one_world_and_of_bytes(tensors: dict[str, torch.Tensor]) -> None:
    body = {"model": "m", "observation": {"images": {"top": "tensor:0"}}}
    with pytest.raises(AskError):
        wire.read(Act, body, wire.Attachments(tensors))


def test_states_that_are_not_finite_are_refused_on_both_sides() -> None:
    state = torch.tensor([[float("nan")]])
    with pytest.raises(AskError, match="NaN"):
        wire.write("m", Act(Observation(state=state)), {})
    with pytest.raises(AskError, match="NaN"):
        wire.read(Act, {"model": "m", "observation": {"state": "tensor:0"}}, wire.Attachments({"0": state}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=10,
)
NAMES = st.sampled_from(sorted(wire._CHAT | wire._NEUTRAL.keys() | {"input", "observation", "encoding_format"}))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([Generate, Embed, Act]), st.dictionaries(NAMES, JSON), st.booleans())
def test_any_json_is_a_request_or_an_ask_error(kind: type[Ask], body: dict[str, Any], well_begun: bool) -> None:
    if well_begun:
        body |= {"model": "m", "messages": HELLO, "input": "x", "observation": {"text": "go"}}
    try:
        assert wire.read(kind, body, wire.Attachments()).asks
    except AskError as error:
        assert str(error)


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_any_json_is_a_reply_or_an_engine_error(body: Any) -> None:
    for ask in (SCENE, Embed("x"), Act(WORLD)):
        for given_body in (body, {"choices": [body], "data": [body], "action": body}):
            try:
                wire_replies.read(ask, given_body)
            except EngineError as error:
                assert "OpenAI's shape" in str(error)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_unpack_or_are_refused(noise: bytes, at: int) -> None:
    sound = packing.pack({"model": "m"}, {"x": torch.ones(2, 3), "y": torch.zeros(3, dtype=torch.uint8)})
    for data in (noise, sound[:at] + noise, sound[:at] + noise + sound[at + len(noise) :]):
        try:
            packing.unpack(data)
        except AskError as error:
            assert str(error)


def test_packed_bodies_are_safetensors_to_others() -> None:
    from safetensors.torch import load

    tensors = {"a": torch.randn(3), "b": PICTURE.pixels, "c": torch.randn(2, 2)}
    back = load(packing.pack({"x": "é"}, tensors))
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AskError("a"), 400),
        (faults.TokenError("a"), 401),
        (UnknownModelError("a"), 404),
        (WeightsError("a"), 409),
        (OverloadedError("a", 2.25), 429),
        (EngineError("a"), 500),
        (ServerLostError("a"), 503),
        (LateError("a"), 504),
    ],
)
def test_an_error_survives_the_wire(error: Exception, status: int) -> None:
    code, body, headers = faults.write(error)
    back = faults.read(code, body, headers)
    assert (code, type(back), str(back)) == (status, type(error), "a")
    assert set(body["error"]) == {"message", "type", "param", "code"}
    if isinstance(back, OverloadedError):
        assert back.retry_after == 2.25 and headers["retry-after"] == "3"


def test_an_error_of_the_server_s_own_keeps_its_secrets() -> None:
    code, body, _ = faults.write(KeyError("/secret/path"))
    assert code == 500 and "secret" not in json.dumps(body)


@pytest.mark.parametrize("answer", [None, "oops", [], {}, {"error": None}, {"error": "x"}, {"detail": "y"}, 3])
@pytest.mark.parametrize("status", [400, 404, 418, 429, 500, 502, 599])
def test_errors_of_other_servers_are_read(status: int, answer: object) -> None:
    assert str(faults.read(status, answer, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}))


def test_numbers_that_json_lacks_become_openai_s_or_the_engine_s_error() -> None:
    impossible = Text("a", (1,), ("a",), (float("-inf"),), scores=(float("-inf"), -1.0))
    body = json.loads(json.dumps(wire_replies.write_chat("m", [Reply(impossible, "v")]), allow_nan=False))
    back = wire_replies.read(SCENE, body).answer
    assert isinstance(back, Text) and back.logprobs == (-9999.0,) and back.scores == (-9999.0, -1.0)
    nan = torch.tensor([float("nan")])
    for write in (
        lambda: wire_replies.write_chat("m", [Reply(Text("a", (1,), ("a",), (float("nan"),)), "v")]),
        lambda: wire_replies.write_chat("m", [Reply(Text("a", (1,), (), (-1.0,)), "v")]),
        lambda: wire_replies.write_embeddings("m", [Reply(Vector(nan), "v")], True),
        lambda: wire_replies.write_action("m", Reply(Action(nan[None]), "v"), None),
        lambda: wire_replies.write_action("m", Reply(Action(nan[None]), "v"), {}),
    ):
        with pytest.raises(EngineError):
            write()


def test_a_wrong_answer_from_an_engine_is_the_engine_s_error() -> None:
    for write in (
        lambda reply: wire_replies.write_chat("m", [reply]),
        lambda reply: wire_replies.write_action("m", reply, None),
    ):
        with pytest.raises(EngineError, match="answered"):
            write(Reply(Vector(torch.ones(1)), "v"))
