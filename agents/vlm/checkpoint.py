"""Read image-text-to-text checkpoints from folders: safetensors only, no network, no code from the folder."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from palaestra.agents.vlm.core import WeightsError

WHOLE = 64 * 2**20
"""Weight files up to this many bytes are hashed whole."""
INCIDENTAL = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "use_cache", "architectures", "id2label", "label2id"}
)
"""Entries of a configuration in which two checkpoints of one architecture may differ."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model and what turns conversations into its inputs."""

    model: Any
    processor: Any
    """A processor; for a text-only model its tokenizer."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the processor."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def takes_pictures(self) -> bool:
        """Whether the model sees."""
        return getattr(self.processor, "image_processor", None) is not None


def is_adapter(path: Path) -> bool:
    """Return whether a folder holds a LoRA adapter of `peft` rather than a model."""
    return (path / "adapter_config.json").is_file()


def has_tokenizer(path: Path) -> bool:
    """Return whether a folder holds a tokenizer, not only weights."""
    return (path / "tokenizer.json").is_file() or (path / "tokenizer_config.json").is_file()


def read_checkpoint(
    path: Path, *, processor: Path, adapter: Path | None, device: str, dtype: torch.dtype | str
) -> Checkpoint:
    """Load a model, ready for inference.

    Args:
        path: Folder with `config.json` and safetensors.
        processor: Folder with the processor and tokenizer, usually the same.
        adapter: Folder of a LoRA adapter (Hu et al., 2021, arXiv:2106.09685) to merge into the weights.
        device: Where the model runs.
        dtype: Of the weights; "auto" for the one they are stored in.

    Raises:
        WeightsError: A file is missing, damaged or of another architecture, or weights are missing or not finite.
    """
    _check_folder(path, "config.json")
    with _told(path):
        model, report = _model_class(path).from_pretrained(
            path, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        loaded = _processor_class(path).from_pretrained(processor, local_files_only=True)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise WeightsError(f"{path} lacks {len(missing)} of the model's weights, such as {missing[0]}.")
    if adapter is not None:
        model = _merge(model, adapter)
    model = model.to(device).eval().requires_grad_(False)
    if bad := [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]:
        raise WeightsError(f"{path} holds weights that are not finite, such as {bad[0]}.")
    if not getattr(loaded, "chat_template", None):
        raise WeightsError(f"{processor} has no chat template: add chat_template.jinja.")
    tokenizer = getattr(loaded, "tokenizer", loaded)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Checkpoint(model, loaded)


def check_same_kind(present: Checkpoint, path: Path) -> None:
    """Check, before any weight is read, that the checkpoint in a folder can stand in for the present one.

    Raises:
        WeightsError: Their configurations or vocabularies differ.
    """
    from transformers import AutoConfig, AutoTokenizer

    _check_folder(path, "config.json")
    with _told(path):
        was = _flat(present.model.config.to_dict())
        now = _flat(AutoConfig.from_pretrained(path, local_files_only=True).to_dict())
        if different := sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key)):
            key = "model_type" if "model_type" in different else different[0]
            raise WeightsError(
                f"{path} is of another architecture: {key} is {now.get(key)!r} instead of {was.get(key)!r}"
                f"{f' ({len(different)} entries differ)' if len(different) > 1 else ''}; start another engine for it."
            )
        if has_tokenizer(path):
            words = AutoTokenizer.from_pretrained(path, local_files_only=True).get_vocab()
            if words != present.tokenizer.get_vocab():
                raise WeightsError(f"{path} has another vocabulary than the present model; start another engine.")


def version_of(*folders: Path) -> str:
    """Return a short digest of the weights and configurations in folders.

    Weight files of up to 64 MiB are hashed whole; of larger ones the header, the first and last MiB, the size and the
    time of the last change.

    Raises:
        WeightsError: A folder holds no safetensors.
    """
    sha = hashlib.blake2b(digest_size=6)
    for folder in folders:
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise WeightsError(f"{folder} holds no .safetensors file; convert the weights with save_pretrained.")
        for path in [*sorted(folder.glob("*config.json")), *weights]:
            size = path.stat().st_size
            sha.update(f"{path.name}:{size};".encode())
            with path.open("rb") as file:
                if size <= WHOLE:
                    sha.update(file.read())
                    continue
                sha.update(str(path.stat().st_mtime_ns).encode() + file.read(2**20))
                file.seek(-(2**20), 2)
                sha.update(file.read())
    return sha.hexdigest()


def _check_folder(path: Path, name: str) -> None:
    if not (path / name).is_file():
        raise WeightsError(f"{path} has no {name}: give the folder that save_pretrained wrote.")


def _model_class(path: Path) -> Any:
    """Return the class that loads the model: of the kind that sees, if the architecture does."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    if config.is_encoder_decoder:
        raise WeightsError(f"{path} is a {config.model_type}, an encoder-decoder; only decoders are taken.")
    for auto in (transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM):
        if type(config) in auto._model_mapping:
            return auto
    raise WeightsError(f"{path} is a {config.model_type}, which is no image-text-to-text or text generation model.")


def _processor_class(path: Path) -> Any:
    import transformers

    sees = _model_class(path) is transformers.AutoModelForImageTextToText
    return transformers.AutoProcessor if sees else transformers.AutoTokenizer


def _merge(model: Any, adapter: Path) -> Any:
    """Return the model with an adapter added to its weights."""
    from peft import PeftModel

    _check_folder(adapter, "adapter_config.json")
    _check_folder(adapter, "adapter_model.safetensors")
    with _told(adapter), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say of what goes wrong while reading a folder that its weights cannot be used."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError, UserWarning) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} cannot be loaded: {error}") from error
    except SafetensorError as error:
        raise WeightsError(f"{path} holds a damaged weight file: {error}") from error


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the entries of a nested configuration that matter, by their full names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key not in INCIDENTAL:
            flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
