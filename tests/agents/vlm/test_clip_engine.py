"""The open_clip engine: what open_clip computes, batched; and what it refuses."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from palaestra.agents.vlm.core import AskError, Embed, Generate, Message, Picture, Vector, WeightsError
from palaestra.agents.vlm.engines.clip import ClipEngine
from palaestra.agents.vlm.tiny_clip import build_tiny_clip

SHAPES = ((32, 32), (100, 60), (60, 100), (17, 40), (256, 256), (100, 60), (1, 1))
TEXTS = ("a red square", "two blue circles", "a photo of a cat!")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_clip(tmp_path_factory.mktemp("clip") / "one", image_size=32, context=16)


@pytest.fixture(scope="module")
def engine(folder: Path) -> ClipEngine:
    return ClipEngine(folder)


def pictures(seed: int = 0) -> list[torch.Tensor]:
    """Smooth pictures with an edge, of several shapes."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for height, width in SHAPES:
        coarse = torch.randint(0, 256, (1, 3, 5, 5), generator=generator).float()
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0)
        fine[: height // 2, : width // 3] = 255
        found.append(fine.round().to(torch.uint8))
    return found


def reference(folder: Path, asked: list[torch.Tensor]) -> torch.Tensor:
    """Return open_clip's own preparation of pictures, one by one through PIL."""
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return torch.stack([preprocess(Image.fromarray(picture.numpy())) for picture in asked])


def values(answer: Vector | Exception) -> torch.Tensor:
    assert isinstance(answer, Vector)
    return answer.values


def test_pictures_are_prepared_as_open_clip_does(folder: Path, engine: ClipEngine) -> None:
    """Within one of 255 levels: PIL and torchvision round apart."""
    asked = pictures()
    ours, theirs = engine.prepare(asked), reference(folder, asked)
    assert ours.shape == theirs.shape == (len(SHAPES), 3, 32, 32)
    level = 1 / 255 / 0.26  # a level of uint8 after normalisation
    assert (ours - theirs).abs().max().item() <= 1.1 * level
    assert torch.allclose(ours[0], theirs[0], atol=1e-5), "nothing to resize, nothing to round"
    # A filter without antialiasing would be far off on the largest picture.
    plain = torch.nn.functional.interpolate(asked[4].permute(2, 0, 1)[None].float(), (32, 32), mode="bicubic")
    assert ((plain[0] - engine._mean) / engine._std - theirs[4]).abs().max().item() > 10 * level


@pytest.mark.parametrize("mode", ["squash", "longest"])
def test_other_ways_to_resize(folder: Path, tmp_path: Path, mode: str) -> None:
    """A SigLIP-like squash is batched too; padding to the longest side goes through open_clip's own transform."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = mode
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    asked = pictures()[:6]
    engine = ClipEngine(tmp_path)
    levels = (engine.prepare(asked) - reference(tmp_path, asked)).abs() * 255 * 0.26
    # Where an edge overshoots white, the two clip it in another order: a pixel in a thousand.
    assert levels.max().item() <= (0.0 if mode == "longest" else 6.0)
    assert (levels > 1.1).float().mean().item() < 1e-3
    assert engine.version != ClipEngine(folder).version, "how pictures are prepared is part of the version"


def test_a_mixed_batch_is_what_open_clip_says_of_each(folder: Path, engine: ClipEngine) -> None:
    asked = pictures()
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        images = model.eval().encode_image(reference(folder, asked), normalize=True)
        texts = model.encode_text(tokenizer(list(TEXTS)), normalize=True)
    mixed = [TEXTS[0], *(Picture(picture) for picture in asked), *TEXTS[1:]]
    answers = engine.answer([Embed(item) for item in mixed])
    found = torch.stack([values(answer) for answer in answers])
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(len(mixed)), atol=1e-5)
    assert torch.allclose(found[[0, -2, -1]], texts, atol=1e-5)
    assert (found[1:-2] * images).sum(1).min().item() > 0.9999
    # start, a, red, square, end; pictures have none.
    assert [answer.prompt_tokens for answer in answers if isinstance(answer, Vector)][:2] == [5, 0]


def test_an_answer_does_not_depend_on_its_batch(engine: ClipEngine) -> None:
    asks = [Embed(Picture(picture)) for picture in pictures()] + [Embed(text) for text in TEXTS]
    together = engine.answer(asks)
    for ask, answer in zip(asks, together, strict=True):
        assert torch.allclose(values(engine.answer([ask])[0]), values(answer), atol=1e-5)
    assert engine.answer([]) == []


def test_answers_own_their_memory_and_can_be_learnt_from(engine: ClipEngine) -> None:
    """Keeping one answer of a batch keeps 256 bytes; and it may enter a graph."""
    one, _ = (values(answer) for answer in engine.answer([Embed(text) for text in TEXTS[:2]]))
    assert one.untyped_storage().nbytes() == 64 * 4
    weight = torch.ones(64, requires_grad=True)
    (weight * one).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, one)


def test_a_text_over_the_context_is_refused(engine: ClipEngine) -> None:
    """Fourteen words and two ends fit 16 tokens; a fifteenth does not, and open_clip would have cut it."""
    engine.check(Embed(" ".join(["red"] * 14)))
    with pytest.raises(AskError, match="longer than the 16 tokens"):
        engine.check(Embed(" ".join(["red"] * 15)))
    with pytest.raises(AskError, match="1000000 characters"):
        engine.check(Embed("x" * 1_000_000))
    with pytest.raises(AskError, match="empty"):
        engine.check(Embed(" \n"))


def test_what_cannot_be_embedded_is_refused(engine: ClipEngine) -> None:
    with pytest.raises(AskError, match="cannot answer Generate"):
        engine.check(Generate((Message("user", ("hello",)),)))
    with pytest.raises(AskError, match="1 x 101 pixels"):
        engine.check(Embed(Picture(torch.zeros(101, 1, 3, dtype=torch.uint8))))
    with pytest.raises(AskError, match="100000 x 1000"):
        engine.check(Embed(Picture(torch.zeros(1, 1, 3, dtype=torch.uint8).expand(1000, 100_000, 3))))
    engine.check(Embed(Picture(torch.zeros(100, 1, 3, dtype=torch.uint8))))


def test_sizes(engine: ClipEngine) -> None:
    """A text fills its context, a picture its 4 x 4 patches and the class token."""
    assert engine.size(Embed("a")) == engine.size(Embed("a red square")) == 16
    assert engine.size(Embed(Picture(pictures()[4]))) == 17


def test_logit_scale_is_that_of_the_paper(engine: ClipEngine) -> None:
    """CLIP starts at a temperature of 0.07."""
    assert engine.logit_scale == pytest.approx(1 / 0.07)


def test_other_weights_take_over_and_the_old_stay(engine: ClipEngine, tmp_path: Path) -> None:
    before = values(engine.answer([Embed("a red square")])[0])
    other = engine.load(build_tiny_clip(tmp_path / "other", seed=5, image_size=32, context=16))
    assert other.version != engine.version
    assert (values(other.answer([Embed("a red square")])[0]) @ before).item() < 0.99
    assert torch.equal(values(engine.answer([Embed("a red square")])[0]), before)


def test_weights_of_another_kind_are_refused(engine: ClipEngine, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="another architecture"):
        engine.load(build_tiny_clip(tmp_path / "larger", image_size=64, context=16))
    with pytest.raises(WeightsError, match="no open_clip folder"):
        engine.load(tmp_path / "nothing")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    (broken / "open_clip_model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(WeightsError, match="cannot load"):
        engine.load(broken)
    (broken / "open_clip_config.json").write_text("[]")
    with pytest.raises(WeightsError, match="no open_clip configuration"):
        engine.load(broken)


def test_an_embedding_that_is_not_finite_is_an_error(folder: Path) -> None:
    engine = ClipEngine(folder)
    with torch.no_grad():
        engine.model.text_projection.fill_(np.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.answer([Embed("a")])
