"""A tiny open_clip folder is read by open_clip itself, and by nothing else than its own seed."""

from pathlib import Path

import open_clip
import pytest
import torch

from palaestra.agents.vlm.contrastive import contrastive_loss, similarity
from palaestra.agents.vlm.tiny_clip import VOCABULARY, build_tiny_clip


def test_open_clip_reads_it(tmp_path: Path) -> None:
    """Model, transform and tokenizer come from the folder alone."""
    path = build_tiny_clip(tmp_path / "clip", image_size=32, context=16)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    tokens = open_clip.get_tokenizer(f"local-dir:{path}")(["a red square"])
    assert tokens.shape == (1, 16)
    assert model.vocab_size == VOCABULARY
    assert model.encode_text(tokens).shape == model.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    assert preprocess.transforms[0].size == 32
    assert sum(parameter.numel() for parameter in model.parameters()) < 3e6


def test_the_seed_is_all_that_it_depends_on(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    one, same, other = (
        build_tiny_clip(tmp_path / name, seed=seed, image_size=32) / "open_clip_model.safetensors"
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one.read_bytes() == same.read_bytes() != other.read_bytes()
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size 60"):
        build_tiny_clip(tmp_path, image_size=60)
    assert not list(tmp_path.iterdir())


def test_similarity_is_the_cosine() -> None:
    """(3, 4) with (4, 3): 24 / 25; with its double: 1; with its opposite: -1."""
    texts = torch.tensor([[4.0, 3.0], [6.0, 8.0], [-3.0, -4.0]])
    assert similarity(torch.tensor([[3.0, 4.0]]), texts)[0].tolist() == pytest.approx([0.96, 1.0, -1.0])
    with pytest.raises(ValueError, match=r"\[1, 2\] and \[1, 3\]"):
        similarity(torch.ones(1, 2), torch.ones(1, 3))


def test_contrastive_loss_by_hand() -> None:
    """Cosines [[1, 0], [0.6, 0.8]] at scale 10.

    Images to texts: log(1 + e^-10) and log(1 + e^-2); texts to images: log(1 + e^-4) and log(1 + e^-8).
    """
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    texts = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    expected = torch.log1p(torch.exp(-torch.tensor([10.0, 2.0, 4.0, 8.0]))).mean()
    assert contrastive_loss(images, texts, 10.0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_contrastive_loss_knows_no_order_and_agrees_with_open_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.nn.functional.normalize(torch.randn(2, 7, 5, generator=generator), dim=-1)
    loss = contrastive_loss(images, texts, 14.0)
    order = torch.randperm(7, generator=generator)
    assert contrastive_loss(images[order], texts[order], 14.0).item() == pytest.approx(loss.item(), rel=1e-5)
    assert contrastive_loss(texts, images, 14.0).item() == pytest.approx(loss.item(), rel=1e-5)
    theirs = open_clip.ClipLoss()(images, texts, torch.tensor(14.0))
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    # Vectors that tell nothing apart: every one of the seven is as likely.
    assert contrastive_loss(images[:1].expand(7, 5), texts, 0.0).item() == pytest.approx(torch.tensor(7.0).log().item())
    with pytest.raises(ValueError, match="needs its text"):
        contrastive_loss(images, texts[:3], 1.0)
