"""ColQwen2 from a folder: an untrained one, as small as its architecture allows."""

from pathlib import Path

import pytest
import torch

from palaestra.envs.retrieval.colqwen import ColQwen2, paper_retriever
from palaestra.envs.retrieval.corpus import Corpus, Page, Question
from palaestra.envs.retrieval.world import PageWorlds

transformers = pytest.importorskip("transformers")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
TEXTS = ("cat", "a dog and a cat", "bird dog", "", "bird " * 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor

    words = [*SPECIAL, "[UNK]", "user", "Describe", "the", "image", ".", "Query", ":", "cat", "dog", "bird", "a", "and"]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<|endoftext|>", unk_token="[UNK]", additional_special_tokens=list(SPECIAL)
    )
    images = Qwen2VLImageProcessor(patch_size=4, min_pixels=64, max_pixels=1024)
    path = tmp_path_factory.mktemp("colqwen") / "model"
    transformers.ColQwen2Processor(images, tokenizer).save_pretrained(path)
    config = transformers.ColQwen2Config(
        vlm_config={
            "model_type": "qwen2_vl", "image_token_id": 5, "vision_start_token_id": 3, "vision_end_token_id": 4,
            "text_config": {
                "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
            },
            "vision_config": {
                "embed_dim": 16, "hidden_size": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "mlp_ratio": 1
            },
        },
        embedding_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ColQwen2ForRetrieval(config).save_pretrained(path)
    return path


def pages() -> list[Page]:
    """Return pages of several shapes."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(32, 24, 1), (24, 40, 3), (32, 32, 3), (20, 20, 1), (16, 48, 3)]
    return [
        Page(f"d_{n}", "", torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator), "d")
        for n, shape in enumerate(shapes)
    ]


def test_scores_are_those_of_its_processor(folder: Path) -> None:
    """Late interaction as the model's own processor computes it, page by page and query by query, in any batch."""
    encoder = ColQwen2(folder, batch=2)
    vectors, asked = encoder.pages(pages()), encoder.queries(TEXTS)
    assert len({len(one) for one in vectors}) > 1
    assert all(torch.allclose(one.norm(dim=1), torch.ones(1)) for one in vectors)
    alone = [ColQwen2(folder, batch=1).queries([text])[0] for text in TEXTS]
    expected = encoder._processor.score_retrieval(alone, vectors)
    found = paper_retriever(folder, pages()).search(TEXTS, 5)
    for hits, scores in zip(found, expected, strict=True):
        assert [hit.page for hit in hits] == scores.argsort(descending=True, stable=True).tolist()
        torch.testing.assert_close(torch.tensor([hit.score for hit in hits]), scores.sort(descending=True).values)
    assert asked.shape[0] == len(TEXTS)


def test_it_serves_vrags_world(folder: Path) -> None:
    corpus = Corpus(tuple(pages()), {"test": (Question("q", "?", "7", ("d_1",)),)})
    worlds = PageWorlds(corpus, paper_retriever(folder, corpus.pages))
    worlds.reset(corpus.splits["test"])
    (reply,) = worlds.step([0], ["<search>cat</search>"])
    assert reply.turn is not None and reply.turn.images and worlds.records[0].shown


def test_folders_that_hold_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        ColQwen2(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="is no ColQwen2"):
        ColQwen2(tmp_path)
