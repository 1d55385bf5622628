"""What of a backbone is trained: nothing, low-rank adapters of its language model (LoRA, arXiv 2106.09685), or all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, nn

Tuning = Literal["frozen", "lora", "full"]
"""What of a backbone is trained: nothing, low-rank adapters of the language model, or every weight of its own."""
OURS = ".lora_"
"""In the names of an adapter's weights."""


def adapt(language: nn.Module, rank: int) -> None:
    """Give every linear layer of a language model of `transformers` an adapter, in place, which changes nothing yet."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), language)


def tune(backbone: nn.Module, tuning: Tuning) -> None:
    """Choose what of a backbone is trained from now on.

    Raises:
        ValueError: Adapters are to be trained, but there are none.
    """
    weights = dict(backbone.named_parameters())
    if tuning == "lora" and not any(OURS in name for name in weights):
        raise ValueError("tuning is 'lora', but the backbone was made without adapters: give it a rank, such as 8.")
    for name, weight in weights.items():
        weight.requires_grad_(tuning == ("lora" if OURS in name else "full"))


def own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of a `state_dict` that are no adapter's, by the names that they have without adapters."""
    return {name.replace(".base_layer.", "."): value for name, value in state.items() if OURS not in name}


def merged(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield weights by the names that they have without adapters, and with what the adapters add to them."""
    for name, weight in network.named_parameters():
        layer, adapted, part = name.partition(".base_layer.")
        if adapted:
            owner: Any = network.get_submodule(layer)
            added = owner.get_delta_weight("default") if part == "weight" else 0
            yield f"{layer}.{part}", weight + added
        elif OURS not in name:
            yield name, weight
