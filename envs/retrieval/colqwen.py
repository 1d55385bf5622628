"""ColQwen2, VRAG's retriever: pages as pictures to many vectors each, for `MaxSim` or `Qdrant` (Faysse et al. 2024).

Read by transformers' own class for it from a folder in its format (vidore/colqwen2-v1.0-hf is one): the package
colpali-engine holds torch back to versions before ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palaestra.envs.retrieval.corpus import Page
from palaestra.envs.retrieval.retrievers import MaxSim


class ColQwen2:
    """Makes vectors of pages and of queries."""

    def __init__(self, folder: Path, device: str = "cpu", batch: int = 4) -> None:
        """Load a checkpoint: safetensors alone, nothing from the network.

        Args:
            folder: Holds the model and its processor.
            device: Where it runs.
            batch: Pages or queries at once.

        Raises:
            ImportError: transformers is not installed.
            ValueError: The folder holds no such checkpoint.
        """
        try:
            from transformers import ColQwen2ForRetrieval, ColQwen2Processor
        except ImportError as error:
            raise ImportError("ColQwen2 needs transformers: pip install 'palaestra[vlm]'.") from error
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder} holds no config.json: give a folder with ColQwen2 in transformers' format.")
        try:
            kinds: tuple[Any, Any] = ColQwen2ForRetrieval, ColQwen2Processor
            self._model = kinds[0].from_pretrained(folder, use_safetensors=True, local_files_only=True)
            self._processor = kinds[1].from_pretrained(folder, local_files_only=True)
        except (OSError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{folder} is no ColQwen2 in transformers' format: {error}") from error
        self._model.to(device).eval()
        self._device, self._batch = device, batch

    def pages(self, pages: Sequence[Page]) -> list[Tensor]:
        """Return each page's vectors, [P, D] float32 of length 1 each, on the CPU."""
        found: list[Tensor] = []
        for start in range(0, len(pages), self._batch):
            pictures = [_rgb(page.pixels) for page in pages[start : start + self._batch]]
            inputs = self._processor(images=pictures)
            vectors, real = self._run(inputs)
            found += [vector[mask] for vector, mask in zip(vectors, real, strict=True)]
        return found

    def queries(self, texts: Sequence[str]) -> Tensor:
        """Return the queries' vectors, [Q, W, D] float32 on the CPU, rows of zeros where a query is shorter."""
        parts = [
            self._run(self._processor(text=list(texts[start : start + self._batch])))[0]
            for start in range(0, len(texts), self._batch)
        ]
        longest = max(part.shape[1] for part in parts)
        return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])

    def _run(self, inputs: Any) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            vectors = self._model(**inputs.to(self._device)).embeddings.float().cpu()
        real = inputs["attention_mask"].bool().cpu()
        return torch.where(real[..., None], vectors, 0.0), real


def paper_retriever(folder: Path, pages: Sequence[Page], device: str = "cpu") -> MaxSim:
    """Return the paper's retriever of a corpus: ColQwen2 and exhaustive late interaction."""
    encoder = ColQwen2(folder, device)
    vectors = encoder.pages(pages)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in vectors], True)
    return MaxSim(torch.nn.utils.rnn.pad_sequence(vectors, True).to(device), mask.to(device), encoder.queries)


def _rgb(pixels: Tensor) -> Any:
    """Return a page [H, W, C] uint8 as a picture."""
    from PIL import Image

    return Image.fromarray(pixels.expand(-1, -1, 3).contiguous().numpy())
