"""The `open_clip` engine: unit vectors for texts and pictures, from any model in open_clip's folder format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from palaestra.agents.vlm.checkpoint import version_of
from palaestra.agents.vlm.core import Ask, AskError, Embed, Picture, Vector, WeightsError
from palaestra.agents.vlm.tiny_clip import CONFIG

MOST_PIXELS = 64_000_000
"""Of a picture."""
MOST_ELONGATED = 100
"""Longer side over shorter: a thinner picture would grow huge when its short side is brought to the model's size."""
LONGEST_TOKEN = 16
"""Characters that a token stands for at most, so that a text is known to be too long before it is read."""


class ClipEngine:
    """Answers `Embed` with a contrastive model's vector."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        """Load a model.

        Args:
            path: A folder with `open_clip_config.json` and the weights as safetensors.
            device: Where the model runs.

        Raises:
            WeightsError: The folder holds no such model.
        """
        self._architecture, self.version = _architecture(path), version_of(path)
        import open_clip
        from safetensors import SafetensorError

        try:
            self.model, _, self._preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}", device=device)
            self._tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
        except (RuntimeError, ValueError, LookupError, TypeError, AssertionError, OSError, SafetensorError) as error:
            raise WeightsError(f"open_clip cannot load {path}: {error}") from error
        self.model.eval()
        self.device = torch.device(device)
        self.context: int = self._tokenizer.context_length
        """Tokens that a text may have, its two ends included."""
        self._padding = int(self._tokenizer(["a"])[0, -1])
        self._geometry, self._mean, self._std = _batched(self._preprocess, self.device)
        grid = getattr(self.model.visual, "grid_size", (16, 16))
        self._patches = grid[0] * grid[1] + 1

    @property
    def logit_scale(self) -> float:
        """The inverse temperature (already exponentiated) that cosines are multiplied by before a softmax."""
        return float(self.model.logit_scale.detach().exp())

    def check(self, ask: Ask) -> None:
        """Refuse what is not `Embed`, a text over the context (open_clip would cut it unsaid), a monstrous picture."""
        if not isinstance(ask, Embed):
            raise AskError(f"a contrastive model embeds texts and pictures; it cannot answer {type(ask).__name__}.")
        if isinstance(ask.item, str):
            self._check_text(ask.item)
            return
        height, width, _ = ask.item.pixels.shape
        if height * width > MOST_PIXELS or max(height, width) > MOST_ELONGATED * min(height, width):
            raise AskError(
                f"the picture has {width} x {height} pixels; at most {MOST_PIXELS:,} are taken, with sides of at most "
                f"{MOST_ELONGATED}:1."
            )

    def size(self, ask: Ask) -> int:
        """Return the tokens that the ask's tower reads: texts are padded to the context."""
        return self.context if isinstance(ask, Embed) and isinstance(ask.item, str) else self._patches

    @torch.no_grad()
    def answer(self, asks: Sequence[Ask]) -> list[Vector | Exception]:
        """Embed texts and pictures in one pass of each tower.

        Raises:
            FloatingPointError: The model's output is not finite.
        """
        items = [ask.item for ask in asks if isinstance(ask, Embed)]
        if len(items) != len(asks):
            raise AskError("a contrastive model answers Embed only.")
        texts = [index for index, item in enumerate(items) if isinstance(item, str)]
        pictures = [index for index, item in enumerate(items) if isinstance(item, Picture)]
        vectors: list[Any] = [None] * len(items)
        lengths = [0] * len(items)
        if texts:
            tokens = self._tokenizer([items[index] for index in texts])
            self._put(vectors, texts, self.model.encode_text(tokens.to(self.device)))
            for index, row in zip(texts, tokens, strict=True):
                lengths[index] = int((row != self._padding).nonzero().max()) + 1
        if pictures:
            pixels = self.prepare([items[index].pixels for index in pictures])  # type: ignore[union-attr]
            self._put(vectors, pictures, self.model.encode_image(pixels))
        return [Vector(values, length) for values, length in zip(vectors, lengths, strict=True)]

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Return texts as the text tower reads them, [N, L] int64 on the engine's device."""
        tokens: Tensor = self._tokenizer(list(texts)).to(self.device)
        return tokens

    def prepare(self, pictures: Sequence[Tensor]) -> Tensor:
        """Return pictures as the vision tower reads them, [N, 3, S, S] float32 on the engine's device.

        What open_clip does to a PIL image, done to all pictures of one shape at once.

        Args:
            pictures: [H, W, 3] uint8 each.
        """
        if self._geometry is None:
            from PIL import Image

            return torch.stack([self._preprocess(Image.fromarray(p.cpu().numpy())) for p in pictures]).to(self.device)
        shapes: dict[torch.Size, list[int]] = {}
        for index, picture in enumerate(pictures):
            shapes.setdefault(picture.shape, []).append(index)
        resized: list[Any] = [None] * len(pictures)
        for indices in shapes.values():
            batch = torch.stack([pictures[index] for index in indices]).to(self.device).permute(0, 3, 1, 2)
            for step in self._geometry:
                batch = step(batch)
            for index, picture in zip(indices, batch, strict=True):
                resized[index] = picture
        return (torch.stack(resized).float() - self._mean) / self._std

    def load(self, path: Path) -> ClipEngine:
        """Return an engine with other weights of the same architecture.

        Raises:
            WeightsError: They are of another architecture, or unreadable.
        """
        architecture = _architecture(path)
        if architecture != self._architecture:
            raise WeightsError(
                f"{path} is of another architecture: {json.dumps(architecture)}, here is "
                f"{json.dumps(self._architecture)}. Serve it under a name of its own."
            )
        return ClipEngine(path, str(self.device))

    def _check_text(self, text: str) -> None:
        if not text.strip():
            raise AskError("the text to embed is empty.")
        long = len(text) > LONGEST_TOKEN * self.context
        # A text fits where room for one token more changes nothing.
        if long or not torch.equal(
            self._tokenizer([text], self.context + 1)[0, :-1], self._tokenizer([text], self.context)[0]
        ):
            raise AskError(
                f"the text of {len(text)} characters is longer than the {self.context} tokens that this model reads "
                f"({text[:40]!r}…): shorten it, or embed it in parts."
            )

    @staticmethod
    def _put(vectors: list[Any], indices: Sequence[int], features: Tensor) -> None:
        """Normalise features [N, D] and put each where its ask stood."""
        features = F.normalize(features.float(), dim=-1).cpu()
        if not bool(torch.isfinite(features).all()):
            raise FloatingPointError("the model's embedding is not finite: its weights or its input are broken.")
        # A row of its own memory each, so that keeping one answer does not keep the batch.
        for index, row in zip(indices, features, strict=True):
            vectors[index] = row.clone()


def _architecture(path: Path) -> dict[str, Any]:
    """Return what a model folder says about its architecture."""
    if not (path / CONFIG).is_file():
        raise WeightsError(f"{path} is no open_clip folder: it needs {CONFIG} and open_clip_model.safetensors.")
    try:
        return dict(json.loads((path / CONFIG).read_bytes())["model_cfg"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path / CONFIG} is no open_clip configuration ({error!r}).") from error


def _batched(preprocess: Any, device: torch.device) -> tuple[list[Any] | None, Tensor, Tensor]:
    """Split open_clip's transform into what resizes uint8 batches, and the mean and deviation in units of a pixel.

    The first is None where the model resizes in a way that torchvision's batched transforms do not know.
    """
    from torchvision.transforms import CenterCrop, Normalize, Resize, v2

    *steps, normalise = preprocess.transforms
    assert isinstance(normalise, Normalize)
    geometry, known = list[Any](), True
    for step in steps:
        if isinstance(step, Resize):
            # The second version resizes bytes as PIL does, rounding between its two passes; the first, in floats.
            geometry.append(v2.Resize(step.size, step.interpolation, step.max_size, step.antialias))
        elif isinstance(step, CenterCrop):
            geometry.append(step)
        elif not type(step).__name__.startswith("Maybe"):
            known = False
    mean, std = (255 * torch.tensor(value, device=device).view(3, 1, 1) for value in (normalise.mean, normalise.std))
    return (geometry if known else None), mean, std
