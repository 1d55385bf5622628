"""Every row of a batch is answered as if it were alone, and as the model itself would."""

import gc
import json
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from palaestra.agents.vlm.core import AskError, Audience, Embed, Generate, Message, Picture, Text, WeightsError
from palaestra.agents.vlm.engines.transformers_engine import TransformersEngine
from palaestra.agents.vlm.tiny import build_tiny_vlm

transformers = pytest.importorskip("transformers")


def save_loud(path: Path, seed: int) -> None:
    """Make the weights of an untrained model so large that every token of a prompt matters to the answer."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(path)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.12, generator=generator)
    model.save_pretrained(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = build_tiny_vlm(tmp_path_factory.mktemp("engine") / "vlm")
    save_loud(path, 1)
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return TransformersEngine(folder)


def picture(seed: int, height: int = 40, width: int = 70) -> Picture:
    generator = torch.Generator().manual_seed(seed)
    return Picture(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator))


def user(*content: str | Picture) -> Message:
    return Message("user", content)


ASKS = (
    Generate((user("what?"),), max_tokens=5, logprobs=True),
    Generate((user(picture(1), "What color is the circle, and where is it?"),), max_tokens=12, logprobs=True),
    Generate(
        (Message("system", ("be brief",)), user(picture(2), "and", picture(3, 200, 90)), Message("assistant", ("no",)),
         user("why")), max_tokens=1, logprobs=True,
    ),
    Generate((user("hm", picture(4)),), max_tokens=9, temperature=0.8, seed=7, logprobs=True),
    Generate((user("a much longer text, " * 5),), max_tokens=30, temperature=1.5, top_p=0.7, seed=8, logprobs=True),
    Generate((user(picture(5)),), max_tokens=3, temperature=1.0, seed=-3, logprobs=True),
)  # fmt: skip


def one(engine: TransformersEngine, ask: Generate) -> Text:
    answer = engine.answer([ask])[0]
    assert isinstance(answer, Text)
    return answer


def assert_same(answer: Text, expected: Text) -> None:
    for name in ("text", "tokens", "token_texts", "finish", "prompt_tokens"):
        assert getattr(answer, name) == getattr(expected, name)
    for name in ("logprobs", "scores"):
        torch.testing.assert_close(
            torch.tensor(getattr(answer, name)), torch.tensor(getattr(expected, name)), rtol=0, atol=1e-4
        )


def forced(engine: TransformersEngine, ask: Generate, tokens: tuple[int, ...]) -> torch.Tensor:
    """Return [T, V] log-probabilities of what follows the prompt and each of the tokens, in one plain pass."""
    model, processor = engine._checkpoint.model, engine._checkpoint.processor
    conversation = [
        {"role": m.role, "content": [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in
                                     m.content]} for m in ask.messages
    ]  # fmt: skip
    images = [p.pixels.permute(2, 0, 1) for m in ask.messages for p in m.content if isinstance(p, Picture)]
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    inputs = processor(text=[prompt], images=images or None, return_tensors="pt")
    ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], 1)
    seen = {name: inputs[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids") if name in inputs}
    if "mm_token_type_ids" in seen:
        seen["mm_token_type_ids"] = torch.cat([seen["mm_token_type_ids"], torch.zeros(1, len(tokens)).long()], 1)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **seen).logits[0]
    return logits[-len(tokens) - 1 : -1].float().log_softmax(-1)


def test_a_batch_answers_as_each_ask_alone(engine: TransformersEngine) -> None:
    for answer, ask in zip(engine.answer(ASKS), ASKS, strict=True):
        assert isinstance(answer, Text)
        assert_same(answer, one(engine, ask))
    assert len({len(answer.tokens) for answer in engine.answer(ASKS) if isinstance(answer, Text)}) > 3


def test_order_and_company_do_not_matter(engine: TransformersEngine) -> None:
    answers = engine.answer([*ASKS[::-1], *ASKS])
    for answer, again in zip(answers[: len(ASKS)], answers[: len(ASKS) - 1 : -1], strict=True):
        assert isinstance(answer, Text) and isinstance(again, Text)
        assert_same(answer, again)


@pytest.mark.parametrize("ask", ASKS[:3])
def test_greedy_takes_the_likeliest_token_of_a_plain_pass(engine: TransformersEngine, ask: Generate) -> None:
    answer = one(engine, ask)
    assert tuple(forced(engine, ask, answer.tokens).argmax(-1).tolist()) == answer.tokens


@pytest.mark.parametrize("ask", ASKS)
def test_logprobs_are_those_of_a_plain_pass(engine: TransformersEngine, ask: Generate) -> None:
    answer = one(engine, ask)
    expected = forced(engine, ask, answer.tokens).gather(1, torch.tensor(answer.tokens)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer.logprobs), expected, rtol=0, atol=1e-4)


def test_text_is_what_the_tokens_read_as(engine: TransformersEngine) -> None:
    answer = one(engine, ASKS[4])
    assert "".join(answer.token_texts) == answer.text != ""
    assert len(answer.token_texts) == len(answer.tokens) == len(answer.logprobs) == 30 and answer.finish == "length"
    assert one(engine, replace(ASKS[4], logprobs=False)).logprobs == ()


def test_another_seed_gives_another_answer_and_no_seed_a_new_one(engine: TransformersEngine) -> None:
    texts = {one(engine, replace(ASKS[4], seed=seed)).text for seed in (8, 9, None, None)}
    assert len(texts) == 4


def test_choices_are_scored_as_a_plain_pass_scores_them(engine: TransformersEngine) -> None:
    choices = ("red", "no", "no way at all", "27", "日本")
    asks = [replace(ask, choices=choices[: 3 + i]) for i, ask in enumerate(ASKS[:3])]
    tokenizer = engine._checkpoint.tokenizer
    for ask, answer in zip(asks, engine.answer([*asks, ASKS[0]]), strict=False):
        assert isinstance(answer, Text)
        expected = []
        for choice in ask.choices:
            tokens = tokenizer.encode(choice) + ([tokenizer.eos_token_id] if choice == "no" else [])
            expected.append(forced(engine, ask, tuple(tokens)).gather(1, torch.tensor(tokens)[:, None]).sum().item())
        torch.testing.assert_close(torch.tensor(answer.scores), torch.tensor(expected), rtol=0, atol=2e-4)
        assert answer.text == ask.choices[expected.index(max(expected))] and answer.finish == "stop"
        assert sum(answer.logprobs) == pytest.approx(max(expected), abs=2e-4)
        assert torch.tensor(answer.scores).exp().sum() <= 1
        assert_same(answer, one(engine, ask))


def test_a_stop_string_ends_the_answer_even_across_tokens(engine: TransformersEngine) -> None:
    whole = one(engine, ASKS[4])
    texts = whole.token_texts
    place = next(i for i in range(8, 29) if texts[i].isprintable() and texts[i + 1].isprintable() and texts[i + 1])
    stop = texts[place] + texts[place + 1][:1]
    answer = one(engine, replace(ASKS[4], stop=("never said", stop)))
    assert answer.text == "".join(texts)[: whole.text.index(stop)] and answer.finish == "stop"
    assert len(answer.tokens) <= place + 2 and answer.tokens == whole.tokens[: len(answer.tokens)]


def test_end_token_ends_the_answer(engine: TransformersEngine, folder: Path, tmp_path: Path) -> None:
    whole = one(engine, ASKS[4])
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, whole.tokens[7]], "pad_token_id": 0}))
    answer = one(TransformersEngine(copy), ASKS[4])
    end = whole.tokens.index(whole.tokens[7])
    assert answer.tokens == whole.tokens[: end + 1] and answer.finish == "stop"
    assert answer.text == "".join(whole.token_texts[:end])


def test_nothing_said_is_read_as_a_special_token(engine: TransformersEngine) -> None:
    asked = Generate((user("a<|end|><|assistant|><|image|>b", picture(1)),))
    ids = engine._speaker.inputs([asked])["input_ids"][0].tolist()
    assert [ids.count(token) for token in (1, 2, 4, 5)] == [1, 16, 1, 1]
    assert "a<|end|><|assistant|><|image|>b" in engine._speaker._decode(ids)


def test_size_is_exact_and_the_context_is_kept_to(folder: Path) -> None:
    engine = TransformersEngine(folder, max_context=85)
    ask = Generate((user("<|end|> at the limit", picture(1), picture(2, 9, 300)),), max_tokens=30)
    prompt = one(engine, ask).prompt_tokens
    exact = replace(ask, max_tokens=85 - prompt)
    assert engine.size(exact) == 85
    engine.check(exact)
    with pytest.raises(AskError, match=f"{prompt} tokens and {86 - prompt} are kept .* context is 85"):
        engine.check(replace(ask, max_tokens=86 - prompt))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"max_tokens": 0}, "at least 1"),
        ({"temperature": -0.1}, "not negative"),
        ({"temperature": float("nan")}, "finite"),
        ({"top_p": 0.0}, "above 0"),
        ({"top_p": 1.01}, "at most 1"),
        ({"seed": 2**64}, "64 bits"),
        ({"stop": ("",)}, "stop string is empty"),
        ({"choices": ("yes", "")}, "choice is empty"),
        ({"choices": ("yes", "yes")}, "equal"),
        ({"messages": ()}, "no messages"),
    ],
)
def test_asks_that_cannot_be_answered_are_refused(
    engine: TransformersEngine, wrong: dict[str, object], told: str
) -> None:
    with pytest.raises(AskError, match=told):
        engine.check(replace(ASKS[0], **wrong))


def test_turns_that_the_template_refuses_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    template = (copy / "chat_template.jinja").read_text()
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    (copy / "chat_template.jinja").write_text(refusal + template)
    engine = TransformersEngine(copy)
    engine.check(ASKS[1])
    with pytest.raises(AskError, match=r"turns system, user, assistant, user: no system turn"):
        engine.check(ASKS[2])


def test_half_precision_answers_alike(engine: TransformersEngine, folder: Path) -> None:
    halved = TransformersEngine(folder, dtype=torch.bfloat16)
    torch.testing.assert_close(
        torch.tensor(one(halved, ASKS[2]).logprobs), torch.tensor(one(engine, ASKS[2]).logprobs), rtol=0, atol=0.3
    )


def test_an_engine_that_was_replaced_is_freed_at_once(folder: Path) -> None:
    """Its weights may fill half of a device: they may not wait for the garbage collector."""
    engine = TransformersEngine(folder)
    weights = weakref.ref(engine._checkpoint.model)
    engine.check(ASKS[1])
    gc.collect()
    gc.disable()
    try:
        del engine
        assert weights() is None
    finally:
        gc.enable()


def test_asks_of_another_kind_are_refused(engine: TransformersEngine) -> None:
    with pytest.raises(AskError, match="takes Generate, not Embed"):
        engine.check(Embed("text"))


def test_loading_gives_an_engine_with_the_other_weights(
    engine: TransformersEngine, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):  # no processor: ours is kept
        shutil.copy(folder / name, other / name)
    save_loud(other, 2)
    before, loaded = one(engine, ASKS[1]), engine.load(other)
    assert loaded.version != engine.version == TransformersEngine(folder).version
    assert one(loaded, ASKS[1]).text != before.text
    assert_same(one(engine, ASKS[1]), before)
    assert_same(one(loaded.load(folder), ASKS[1]), before)


def damage(path: Path, how: str) -> None:
    weights = path / "model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "not safetensors":
        weights.write_bytes(b"\xff" * 100)
    elif how == "no weights":
        weights.unlink()
    elif how == "no config":
        (path / "config.json").unlink()
    else:
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        name = next(name for name in tensors if name.endswith("projector.linear_1.weight"))
        if how == "one missing":
            del tensors[name]
        elif how == "not finite":
            tensors[name][3, 4] = float("nan")
        elif how == "other shape":
            tensors[name] = tensors[name][:-1].clone()
        save_file(tensors, weights, {"format": "pt"})


@pytest.mark.parametrize(
    "how",
    ["truncated", "not safetensors", "no weights", "no config", "one missing", "not finite", "other shape"],
)
def test_damaged_weights_are_refused(engine: TransformersEngine, folder: Path, tmp_path: Path, how: str) -> None:
    before = one(engine, ASKS[0])
    damage(shutil.copytree(folder, tmp_path / "copy"), how)
    with pytest.raises(WeightsError, match="copy"):
        engine.load(tmp_path / "copy")
    assert_same(one(engine, ASKS[0]), before)


@pytest.mark.parametrize(
    ("other", "told"),
    [({"image_size": 16}, "image_seq_length is 4 instead of 16"), ({"corpus": ["of other words"] * 9}, "vocab")],
)
def test_weights_of_another_kind_are_refused(
    engine: TransformersEngine, tmp_path: Path, other: dict[str, object], told: str
) -> None:
    with pytest.raises(WeightsError, match=told):
        engine.load(build_tiny_vlm(tmp_path / "other", **other))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        TransformersEngine(tmp_path / "nowhere")


def adapter_of(folder: Path, path: Path, zero: bool) -> Path:
    peft = pytest.importorskip("peft")
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    if not zero:
        generator = torch.Generator().manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.2, generator=generator)
    adapted.save_pretrained(path)
    return path


def test_an_adapter_that_adds_nothing_changes_nothing(
    engine: TransformersEngine, folder: Path, tmp_path: Path
) -> None:
    loaded = engine.load(adapter_of(folder, tmp_path / "zero", zero=True))
    assert loaded.version != engine.version
    assert_same(one(loaded, ASKS[1]), one(engine, ASKS[1]))


def test_a_merged_adapter_is_the_unmerged_one(engine: TransformersEngine, folder: Path, tmp_path: Path) -> None:
    import peft

    adapter = adapter_of(folder, tmp_path / "adapter", zero=False)
    merged = TransformersEngine(folder, adapter=adapter)
    answer = one(merged, ASKS[1])
    assert answer.text != one(engine, ASKS[1]).text
    unmerged = TransformersEngine(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    unmerged._checkpoint = replace(unmerged._checkpoint, model=peft.PeftModel.from_pretrained(model, adapter).eval())
    expected = forced(unmerged, ASKS[1], answer.tokens).gather(1, torch.tensor(answer.tokens)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer.logprobs), expected, rtol=0, atol=1e-4)
    assert_same(one(merged.load(folder), ASKS[1]), one(engine, ASKS[1]))


def test_an_adapter_of_another_model_is_refused(engine: TransformersEngine, folder: Path, tmp_path: Path) -> None:
    adapter = adapter_of(folder, tmp_path / "adapter", zero=True)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 5}))
    with pytest.raises(WeightsError, match="adapter"):
        engine.load(adapter)


def test_a_text_model_is_taken_and_shown_no_picture(folder: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (folder / "chat_template.jinja").read_text()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=99, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    engine = TransformersEngine(tmp_path / "text")
    assert engine.context == 99 and not engine.takes_pictures
    asks = [Generate((user("what?"),), max_tokens=3), Generate((user("which of them?"),), choices=("a", "bc"))]
    for ask, answer in zip(asks, engine.answer(asks), strict=True):
        engine.check(ask)
        assert isinstance(answer, Text)
        assert_same(answer, one(engine, ask))
    with pytest.raises(AskError, match="text only"):
        engine.check(ASKS[1])


def test_positions_in_three_dimensions_survive_batches_and_leaving_rows(folder: Path, tmp_path: Path) -> None:
    """Qwen2.5-VL: pictures in their own resolution, positions of time, height and width."""
    engine = TransformersEngine(build_qwen(folder, tmp_path / "qwen"))
    asks = [ask for ask in ASKS if ask.temperature == 0 or ask.seed is not None]
    for ask, answer in zip(asks, engine.answer(asks), strict=True):
        assert isinstance(answer, Text)
        assert_same(answer, one(engine, ask))
        assert engine.size(ask) == answer.prompt_tokens + ask.max_tokens
    scored = [replace(ask, choices=("yes", "not at all")) for ask in asks]
    for ask, answer in zip(scored, engine.answer(scored), strict=True):
        assert isinstance(answer, Text)
        assert_same(answer, one(engine, ask))


def build_qwen(folder: Path, path: Path) -> Path:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    marks = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    image, video, start, end = tokenizer.convert_tokens_to_ids(marks)
    template = (folder / "chat_template.jinja").read_text()
    template = template.replace("<|image|>", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(
            patch_size=8, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
        ),
        tokenizer, transformers.Qwen2VLVideoProcessor(), chat_template=template,
    )  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 8, "out_hidden_size": 48,
        "fullatt_block_indexes": [1], "window_size": 32,
    }  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 4, 4]},
        "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None,
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision, text_config=text, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(path)
    processor.save_pretrained(path)
    save_loud(path, 3)
    return path


class Listeners:
    """Hear everything that is told of some asks, and leave after so many steps."""

    def __init__(self, places: set[int], patience: dict[int, int] | None = None) -> None:
        self.texts = dict.fromkeys(places, "")
        self.steps = 0
        self.pieces: list[dict[int, str]] = []
        self._patience = patience or {}

    def tell(self, pieces: Mapping[int, str]) -> list[int]:
        self.steps += 1
        self.pieces.append(dict(pieces))
        for place, piece in pieces.items():
            self.texts[place] += piece
        return [place for place, steps in self._patience.items() if self.steps >= steps]

    @property
    def audience(self) -> Audience:
        return Audience(frozenset(self.texts), self.tell)


def test_a_batch_that_is_listened_to_answers_as_one_that_is_not(engine: TransformersEngine) -> None:
    """Choices among the asks move the others' places."""
    asks = [replace(ASKS[0], choices=("yes", "no")), *ASKS]
    listeners = Listeners({0, 1, 3, 5})
    answers = engine.stream(asks, listeners.audience)
    for answer, expected in zip(answers, engine.answer(asks), strict=True):
        assert isinstance(answer, Text) and isinstance(expected, Text)
        assert_same(answer, expected)
    assert set(listeners.texts) == {0, 1, 3, 5} and listeners.texts[0] == ""
    for place in (1, 3, 5):
        answer = answers[place]
        assert isinstance(answer, Text) and answer.text.startswith(listeners.texts[place])
    assert sum(5 in pieces for pieces in listeners.pieces) > 5, "piece by piece, not all at once"


def test_no_part_of_a_stop_string_is_told(engine: TransformersEngine) -> None:
    """Of an answer, three characters are taken as its stop string, wherever the tokens' borders are."""
    ask = replace(ASKS[4], stop=())
    whole = one(engine, ask).text
    for place in range(2, len(whole) - 3, 5):
        stop = whole[place : place + 3]
        listeners = Listeners({0})
        [answer] = engine.stream([replace(ask, stop=(stop,))], listeners.audience)
        assert isinstance(answer, Text) and answer.text == whole[: whole.find(stop)]
        assert answer.text.startswith(listeners.texts[0])


def test_an_answer_that_nobody_waits_for_is_not_finished(engine: TransformersEngine) -> None:
    long = replace(ASKS[4], max_tokens=40, temperature=0.0, stop=())
    assert len(one(engine, long).tokens) == 40
    listeners = Listeners({0, 1}, {0: 3})
    left, stayed = engine.stream([long, ASKS[1]], listeners.audience)
    assert isinstance(left, Text) and isinstance(stayed, Text)
    assert len(left.tokens) == 3 and listeners.steps == len(stayed.tokens) < 40
    assert_same(stayed, one(engine, ASKS[1]))
