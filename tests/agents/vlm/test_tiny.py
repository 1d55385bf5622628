"""The tiny checkpoint is a whole, deterministic, standard one, and any text and picture can be put to it."""

from pathlib import Path

import pytest
import torch

from palaestra.agents.vlm.tiny import build_tiny_vlm, set_phrases

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_vlm(tmp_path_factory.mktemp("tiny") / "vlm")


def processor_of(path: Path) -> transformers.ProcessorMixin:
    return transformers.AutoProcessor.from_pretrained(path, local_files_only=True)


def test_loads_as_any_other_checkpoint_does(tiny: Path) -> None:
    model, report = transformers.AutoModelForImageTextToText.from_pretrained(
        tiny, local_files_only=True, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert 300_000 < sum(parameter.numel() for parameter in model.parameters()) < 3_000_000
    assert model.generation_config.pad_token_id == 0 and model.generation_config.eos_token_id == 1
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("text", ["red", "27 + 15 = 42", " two  spaces\n\ttab", "naïve 日本語 🤖", '{"throttle": 0.5}'])
def test_any_text_comes_back_as_it_was(tiny: Path, text: str) -> None:
    tokenizer = processor_of(tiny).tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_each_digit_is_a_token(tiny: Path) -> None:
    assert len(processor_of(tiny).tokenizer.encode("90210")) == 5


def test_phrases_and_numbers_are_one_token_and_words_stay_apart(tmp_path: Path) -> None:
    said = [f'"touch": "[{y}, {x}]", "typed": ""' for y in ("0.2500", "0.7500") for x in ("0.1000", "0.5000")]
    phrases = set_phrases([*said, "WAIT"])
    assert phrases == ['"touch": "[', ", ", "WAIT", ']", "typed": ""']
    path = build_tiny_vlm(tmp_path / "vlm", image_size=16, corpus=[*said, "turn on", "turn off"] * 3, phrases=phrases)
    tokenizer = processor_of(path).tokenizer
    assert tokenizer.tokenize(said[1]) == ['"touch": "[', "0.2500", ", ", "0.5000", ']", "typed": ""']
    assert tokenizer.tokenize("turn on") == ["turn", "Ġon"]
    for text in (*said, "turn 0.1234 on, ünd so weiter"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_what_is_copied_is_no_part_of_a_phrase() -> None:
    said = [f'"typed": "{text}"' for text in ("good luck", "luck", "")]
    assert set_phrases(said, copied={"luck", "good luck"}) == ['"typed": "', '"typed": ""']
    assert '"typed": "luck"' in set_phrases(said)


def test_rare_phrases_are_none() -> None:
    assert set_phrases(["common 1"] * 99 + ["rare 1"]) == ["common ", "rare "]
    assert set_phrases(["common 1"] * 199 + ["rare 1"]) == ["common "]


@pytest.mark.parametrize(("width", "layers"), [(8, 2), (72, 2), (64, 1)])
def test_a_size_that_cannot_be_is_refused(tmp_path: Path, width: int, layers: int) -> None:
    with pytest.raises(ValueError, match="width is a multiple of 16 and layers at least 2"):
        build_tiny_vlm(tmp_path / "vlm", width=width, layers=layers)


def test_template_holds_every_role_and_a_picture_in_any_turn(tiny: Path) -> None:
    picture, text = {"type": "image"}, {"type": "text", "text": "hm"}
    conversation = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [picture, text, picture]},
        {"role": "assistant", "content": [text]},
        {"role": "user", "content": [text, picture]},
    ]
    assert processor_of(tiny).apply_chat_template(conversation, add_generation_prompt=True) == (
        "<|system|>be brief<|end|><|user|><|image|>hm<|image|><|end|><|assistant|>hm<|end|>"
        "<|user|>hm<|image|><|end|><|assistant|>"
    )


def test_mask_marks_what_the_assistant_says(tiny: Path) -> None:
    processor = processor_of(tiny)
    conversation = [{"role": "user", "content": "color?"}, {"role": "assistant", "content": "red"}]
    inputs = processor.tokenizer.apply_chat_template(
        conversation, return_dict=True, return_assistant_tokens_mask=True, chat_template=processor.chat_template
    )
    said = [token for token, mask in zip(inputs["input_ids"], inputs["assistant_masks"], strict=True) if mask]
    assert processor.tokenizer.decode(said) == "red<|end|>"


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 64, 64), (3, 256, 100)])
def test_pictures_of_any_size_become_16_tokens(tiny: Path, shape: tuple[int, int, int]) -> None:
    processor = processor_of(tiny)
    picture = torch.full(shape, 128, dtype=torch.uint8)
    inputs = processor(text=["<|image|>"], images=[picture], return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 16) and inputs["pixel_values"].shape == (1, 3, 32, 32)
    torch.testing.assert_close(inputs["pixel_values"], torch.full((1, 3, 32, 32), 128 / 127.5 - 1))


def test_seed_fixes_the_weights_and_spares_the_callers_random_state(tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again, other = build_tiny_vlm(tmp_path / "again"), build_tiny_vlm(tmp_path / "other", seed=1)
    assert torch.equal(torch.rand(1), expected)
    read = lambda path, name: (path / name).read_bytes()  # noqa: E731
    assert read(again, "model.safetensors") == read(tiny, "model.safetensors") != read(other, "model.safetensors")
    assert read(again, "tokenizer.json") == read(other, "tokenizer.json") == read(tiny, "tokenizer.json")


def test_tokenizer_learns_the_corpus_it_is_given(tmp_path: Path) -> None:
    tokenizer = processor_of(build_tiny_vlm(tmp_path / "own", corpus=["palaestra " * 9])).tokenizer
    assert len(tokenizer.encode("palaestra")) == 1


def test_existing_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(FileExistsError, match="exists"):
        build_tiny_vlm(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(transformers.LlavaProcessor, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        build_tiny_vlm(tmp_path / "vlm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "told"), [({"image_size": 60}, "64"), ({"vocabulary": 99}, "at least 262"), ({"context": 16}, "no room")]
)
def test_impossible_sizes_are_refused(tmp_path: Path, wrong: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build_tiny_vlm(tmp_path / "vlm", **wrong)
