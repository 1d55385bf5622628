"""Compute losses, their gradients and advantages with TRL's own trainers, for ours to be compared with.

TRL is no dependency: `tests/agents/grpo/test_trl.py` reads the numbers that this prints.

    .venv/bin/pip install trl
    .venv/bin/python results/trl/check.py > results/trl/result.json

The trainers are TRL's as they are. Only log-probabilities are given to them, in place of those of a model, and rewards.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

GROUP, LENGTH, LONGEST = 4, 6, 64
LOSSES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False},
    "unbiased": {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": True},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {"importance_sampling_level": "sequence", "loss_type": "grpo", "epsilon": 3e-4, "epsilon_high": 4e-4},
    "luspo": {"importance_sampling_level": "sequence", "loss_type": "luspo", "epsilon": 2e-3, "epsilon_high": 2.5e-3},
    "dual": {"loss_type": "grpo", "delta": 3.0},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "sapo": {"loss_type": "sapo"},
    "rloo": {},
}
ADVANTAGES: dict[str, dict[str, Any]] = {
    "grpo": {"scale_rewards": "group"},
    "dr_grpo": {"scale_rewards": "none"},
    "lite_ppo": {"scale_rewards": "batch"},
    "gdpo": {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": [0.2, 0.7, 0.1]},
    "rloo": {},
}
REWARDS = [[1, 0, 1], [0, 1, 1], [0.5, 1, 0], [0.25, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0.5], [0.63, 1, 1]]
"""Two groups of four conversations, three parts each; trainers of one reward are given the first."""


def numbers() -> dict[str, Tensor]:
    """Return log-probabilities now, then and of a reference, advantages and a mask with holes: [N, L] or [N]."""
    generator = torch.Generator().manual_seed(0)
    shape = (GROUP, LENGTH)
    old = -2 * torch.rand(shape, generator=generator)
    logprob = old + 0.8 * torch.randn(shape, generator=generator)
    logprob[0, 1] = old[0, 1] + 2.5  # beyond every edge
    lengths = torch.tensor([6, 4, 5, 2])
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    mask[0, 2] = mask[2, 3] = 0  # what the world said
    return {
        "logprob": logprob, "old": old, "reference": old + 0.3 * torch.randn(shape, generator=generator),
        "mask": mask, "advantage": torch.tensor([1.2, -0.7, 0.4, -0.9]),
    }  # fmt: skip


def trainer(kind: str, settings: dict[str, Any], rewards: int = 1) -> Any:
    """Return a trainer of TRL's whose log-probabilities are those that it is given with a batch."""
    words = {word: number for number, word in enumerate(["[PAD]", "[EOS]", *"abcdefgh"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", eos_token="[EOS]")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    base, config = (RLOOTrainer, RLOOConfig) if kind == "rloo" else (GRPOTrainer, GRPOConfig)

    class Given(base):  # type: ignore[misc, valid-type]
        given: Tensor | None = None

        def _get_per_token_logps_and_entropies(self, *args: Any, **named: Any) -> Any:
            if self.given is None:
                return super()._get_per_token_logps_and_entropies(*args, **named)
            return self.given, torch.zeros_like(self.given), None

    def reward(number: int) -> Any:
        def paid(completions: list[Any], parts: list[list[float]], **rest: Any) -> list[float]:
            return [part[number] for part in parts]

        paid.__name__ = f"part_{number}"
        return paid

    made = Given(
        model=model,
        reward_funcs=[reward(number) for number in range(rewards)],
        args=config(
            output_dir=tempfile.mkdtemp(), num_generations=GROUP, per_device_train_batch_size=len(REWARDS),
            max_completion_length=LONGEST, report_to=[], use_cpu=True, **(settings | {"beta": 0.0}),
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a b"] * 2, "parts": [[0.0] * 3] * 2}),
        processing_class=tokenizer,
    )  # fmt: skip
    made.beta = settings.get("beta", 0.0)  # given later, for which no reference model is loaded
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def loss(name: str, given: dict[str, Tensor]) -> dict[str, Any]:
    """Return TRL's loss, and its gradient by the log-probabilities."""
    made = trainer(name, LOSSES[name])
    made.given = given["logprob"].clone().requires_grad_()
    ids = torch.ones(GROUP, LENGTH, dtype=torch.long)
    mask = given["mask"]
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": mask,
        "advantages": given["advantage"], "old_per_token_logps": given["old"], "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": given["reference"], "old_logps": (given["old"] * mask).sum(1),
    }  # fmt: skip
    value = made.compute_loss(made.model, inputs)
    value.backward()
    return {"loss": value.item(), "gradient": made.given.grad.tolist()}


def advantage(name: str) -> list[float]:
    """Return TRL's advantages of `REWARDS`."""
    made = trainer(name, ADVANTAGES[name], rewards=3 if name == "gdpo" else 1)
    rows = [{"prompt": "a b", "parts": parts} for parts in REWARDS]
    found: list[float] = made._generate_and_score_completions(rows)["advantages"].tolist()
    return found


if __name__ == "__main__":
    given = numbers()
    result = {
        "versions": {name: version(name) for name in ("trl", "transformers", "torch")},
        "given": {name: value.tolist() for name, value in given.items()},
        "losses": {name: loss(name, given) for name in LOSSES},
        "rewards": REWARDS,
        "advantages": {name: advantage(name) for name in ADVANTAGES},
    }
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.7g}"))
    json.dump(rounded, sys.stdout)
    print()
