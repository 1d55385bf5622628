"""Supervised fine-tuning of any image-text-to-text checkpoint, whole or by low-rank adapters.

The loss is the cross-entropy of the answer's tokens alone. A prompt is tokenised by the call that serves it, and the
answer's tokens are put behind: a trained model sees exactly what it will be asked.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from palaestra.agents.metrics import require_finite
from palaestra.agents.optimiser import load_optimiser_tensors, optimiser_tensors, under
from palaestra.agents.vlm.checkpoint import Checkpoint, read_checkpoint
from palaestra.agents.vlm.core import Message
from palaestra.agents.vlm.prompts import Prompts, Turns

IGNORED = -100
"""The label of a token that is not learnt."""
WINDOW = 8
"""Batches among which samples are sorted by length."""


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning of a vision-language model."""

    method: Literal["full", "lora"] = "full"
    """Train every weight, or low-rank adapters of the linear layers (Hu et al. 2021)."""
    steps: int = 1000
    """Gradient steps."""
    batch: int = 32
    """Samples that are in the model at once."""
    accumulate: int = 1
    """Such batches a gradient step."""
    grouped: bool = True
    """Batch samples of like length: less padding, but batches that are less mixed."""
    learning_rate: float = 1e-3
    """AdamW's step size at its peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls to zero after the warm-up; `constant` does not."""
    warmup: int = 50
    """Gradient steps in which it rises."""
    weight_decay: float = 0.01
    """Of matrices; vectors are spared."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    rank: int = 16
    """LoRA: rank of an adapter."""
    alpha: int = 32
    """LoRA: an adapter's output is scaled by alpha / rank."""
    recompute: bool = False
    """Forget the text decoder's activations and compute them again in the backward pass: slower, in less memory."""


class Sample(Protocol):
    """A prompt and the answer to learn."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt."""
        ...

    @property
    def answer(self) -> str:
        """What the assistant should say."""
        ...


S = TypeVar("S", bound=Sample)


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples as a model reads them, padded on the right."""

    inputs: dict[str, Tensor]
    """What the processor gave, with the answers' tokens behind the prompts': input_ids [N, L] and so on."""
    labels: Tensor
    """[N, L]: the answers' tokens where they stand, `IGNORED` elsewhere."""


def encode(checkpoint: Checkpoint, prompts: Prompts, samples: Sequence[Sample]) -> Batch:
    """Turn samples into a batch, on the CPU.

    Raises:
        ValueError: The chat template or an answer cannot be trained on, or a sample exceeds the model's context.
    """
    asked = prompts.encode([sample.messages for sample in samples])
    answers = _answers(checkpoint, prompts, samples)
    real, shape = asked["attention_mask"].bool(), asked["input_ids"].shape
    lengths = [int(row.sum()) + len(answer) for row, answer in zip(real, answers, strict=True)]
    most = getattr(checkpoint.model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    if max(lengths) > most:
        raise ValueError(f"a sample has {max(lengths)} tokens, the model's context is {most}: shorten or drop it.")
    inputs = dict(asked)
    for name, values in asked.items():
        if values.shape == shape:  # one entry a token: the ids, the mask, the kinds of tokens
            fill = checkpoint.tokenizer.pad_token_id if name == "input_ids" else 0
            inputs[name] = values.new_full((len(samples), max(lengths)), fill)
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    for row, (answer, length) in enumerate(zip(answers, lengths, strict=True)):
        start = length - len(answer)
        for name, values in asked.items():
            if values.shape == shape:
                inputs[name][row, :start] = values[row][real[row]]
        inputs["input_ids"][row, start:length] = labels[row, start:length] = answer
        inputs["attention_mask"][row, start:length] = 1
    return Batch(inputs, labels)


def answer_loss(model: Any, batch: Batch) -> Tensor:
    """Return the cross-entropy summed over the answers' tokens, shape []."""
    logits, targets = _answer_logits(model, batch)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def learning_rate(step: int, config: SFTConfig) -> float:
    """Return the step size of a gradient step, counted from 0: linear warm-up, then as the schedule says."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    left = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return config.learning_rate * left


def batches(
    samples: Sequence[S], size: int, seed: int, start: int = 0, grouped: bool = True
) -> Iterator[list[S]]:
    """Yield batches of samples for ever, from batch number `start` on; `grouped` ones are of like length.

    Every epoch is a new order. A sample is read when its window of `WINDOW` batches begins, so that the sequence may
    draw or load it then.

    Raises:
        ValueError: There are fewer samples than a batch takes.
    """
    an_epoch = len(samples) // size
    if not an_epoch:
        raise ValueError(f"{len(samples)} samples do not fill a batch of {size}: take a smaller batch.")
    while True:
        epoch, within = divmod(start, an_epoch)
        window, first = divmod(within, WINDOW)
        order = np.random.default_rng((seed, epoch)).permutation(len(samples))
        begin, end = window * WINDOW, min((window + 1) * WINDOW, an_epoch)
        chosen = [samples[index] for index in order[begin * size : end * size].tolist()]
        if grouped:
            chosen.sort(key=_length)
        for group in np.random.default_rng((seed, epoch, window)).permutation(end - begin)[first:]:
            yield chosen[group * size : (group + 1) * size]
        start += end - begin - first


class Tuner:
    """A checkpoint in training."""

    def __init__(self, path: Path, config: SFTConfig, *, device: str = "cpu") -> None:
        """Load a checkpoint: in float32 to train all of it, as it is stored to train adapters (these in float32).

        Raises:
            WeightsError: The folder holds no checkpoint.
        """
        self.config, self.step = config, 0
        self.device = torch.device(device)
        dtype = torch.float32 if config.method == "full" else "auto"
        self.checkpoint = read_checkpoint(path, processor=path, adapter=None, device=device, dtype=dtype)
        self.prompts = Prompts(self.checkpoint)
        model = self.checkpoint.model
        self.model = _adapted(model, config) if config.method == "lora" else model.requires_grad_(True)
        if config.recompute:
            decoder = self.checkpoint.model.get_decoder()
            decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()
        self.parameters = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters.values() if p.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self.parameters.values() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98))

    def fit(self, samples: Sequence[Sample], seed: int = 0) -> Iterator[dict[str, float]]:
        """Train up to the configured step, from the present one; yield the metrics of each gradient step.

        Raises:
            FloatingPointError: A loss or a gradient is not finite; that step was not taken.
        """
        size, parts = self.config.batch, self.config.accumulate
        source = batches(samples, size, seed, self.step * parts, self.config.grouped)
        while self.step < self.config.steps:
            yield self.learn([next(source) for _ in range(parts)])

    def learn(self, parts: Sequence[Sequence[Sample]]) -> dict[str, float]:
        """Take one gradient step on the mean loss of all answer tokens of the parts, which need not fit in at once."""
        encoded = [encode(self.checkpoint, self.prompts, part) for part in parts]
        tokens = sum(int((batch.labels != IGNORED).sum()) for batch in encoded)
        total = torch.zeros((), device=self.device)
        self.optimiser.zero_grad()
        for batch in encoded:
            with self._precision():
                loss = answer_loss(self.model, self._there(batch)) / tokens
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        require_finite(total + norm, f"the loss or its gradient at step {self.step}", "lower learning_rate")
        rate = learning_rate(self.step, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step += 1
        return {"train/loss": total.item(), "train/gradient_norm": norm.item(), "train/learning_rate": rate}

    @torch.no_grad()
    def right(self, samples: Sequence[Sample]) -> list[bool]:
        """Return which samples the model would answer word for word, greedily.

        In one forward pass: it does if and only if each token of the answer is the likeliest after those before it.
        """
        self.model.eval()
        found: list[bool] = []
        for start in range(0, len(samples), self.config.batch):
            batch = self._there(encode(self.checkpoint, self.prompts, samples[start : start + self.config.batch]))
            with self._precision():
                logits, targets = _answer_logits(self.model, batch)
            found += ((logits.argmax(-1) == targets) | (targets == IGNORED)).all(1).tolist()
        self.model.train()
        return found

    def save(self, path: Path) -> Path:
        """Write what was trained to a new folder, whole or not at all: a checkpoint, or an adapter with LoRA.

        Raises:
            FileExistsError: The folder exists and is not empty.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and any(path.iterdir()):
            raise FileExistsError(f"{path} exists; choose a new folder, or remove it.")
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            # Asked to look whether the vocabulary grew, peft would ask the network.
            options = {"save_embedding_layers": False} if self.config.method == "lora" else {}
            self.model.save_pretrained(temporary, **options)
            self.checkpoint.processor.save_pretrained(temporary)
            temporary.chmod(0o755)
            os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return path

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a resumed training needs: trained weights, the optimiser's state and the step."""
        state = {f"model.{name}": value.detach() for name, value in self.parameters.items()}
        state |= {f"optimiser.{name}": value for name, value in optimiser_tensors(self.optimiser).items()}
        return state | {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`.

        Raises:
            KeyError: A trained weight is missing.
        """
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state[f"model.{name}"])
        load_optimiser_tensors(self.optimiser, under("optimiser.", state))
        self.step = int(state["step"])

    def _there(self, batch: Batch) -> Batch:
        """Return a batch on the model's device."""
        return Batch({name: v.to(self.device) for name, v in batch.inputs.items()}, batch.labels.to(self.device))

    def _precision(self) -> torch.autocast:
        """Return the context of a forward pass: bfloat16 on a GPU, as it is elsewhere."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


def _answer_logits(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return logits [N, P, V] and labels [N, P] at the P positions where any answer has a token, and there alone."""
    positions = (batch.labels != IGNORED).any(0).nonzero()[:, 0]
    logits: Tensor = model(**batch.inputs, logits_to_keep=positions - 1, use_cache=False).logits
    return logits, batch.labels[:, positions]


def _answers(checkpoint: Checkpoint, prompts: Prompts, samples: Sequence[Sample]) -> list[Tensor]:
    """Return what the chat template puts behind each prompt, up to the token that ends the answer."""
    tokenizer = checkpoint.tokenizer
    for sample in samples:
        if forged := [token for token in tokenizer.all_special_tokens if token in sample.answer]:
            raise ValueError(f"the answer {sample.answer!r} holds {forged[0]!r}, a special token, which would end it.")
    turns: list[Turns] = [[prompts.turn(one.role, one.content) for one in sample.messages] for sample in samples]
    replied = [[*before, prompts.turn("assistant", (one.answer,))] for before, one in zip(turns, samples, strict=True)]
    template = checkpoint.processor.apply_chat_template
    starts: list[str] = template(turns, tokenize=False, add_generation_prompt=True)
    wholes: list[str] = template(replied, tokenize=False)
    for start, whole in zip(starts, wholes, strict=True):
        if not whole.startswith(start):
            raise ValueError(
                f"the chat template does not continue its own prompt: it ends in {start[-40:]!r}, but the whole "
                f"conversation in {whole[-60:]!r}. Give the checkpoint a template that does."
            )
    behind = [whole[len(start) :] for start, whole in zip(starts, wholes, strict=True)]
    end = tokenizer.eos_token_id
    found = tokenizer(behind, add_special_tokens=False)["input_ids"]
    return [torch.tensor(ids[: ids.index(end) + 1] if end in ids else [*ids, end]) for ids in found]


def _length(sample: Sample) -> int:
    """Return the characters of a sample's texts; its pictures are taken to be alike."""
    parts = (part for message in sample.messages for part in message.content)
    return len(sample.answer) + sum(len(part) for part in parts if isinstance(part, str))


def _adapted(model: Any, config: SFTConfig) -> Any:
    """Return a model whose linear layers, the output's apart, have adapters."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules="all-linear"))
