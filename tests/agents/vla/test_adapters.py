"""Low-rank adapters: nothing at first, merged as they add up by hand, and trained alone."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from palaestra.agents.vla.adapters import adapt, merged, own, tune


@pytest.fixture
def language() -> LlamaModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=None,
    )  # fmt: skip
    return LlamaModel(config).eval()


def test_fresh_adapters_change_nothing_and_merged_ones_are_a_product(language: LlamaModel) -> None:
    """W + 2 B A, for an α of twice the rank; every name and shape is that of the model without adapters."""
    shapes = {name: tuple(weight.shape) for name, weight in language.named_parameters()}
    ids = torch.tensor([[1, 2, 3]])
    before = language(input_ids=ids).last_hidden_state
    adapt(language, 3)
    torch.testing.assert_close(language(input_ids=ids).last_hidden_state, before)
    query = language.layers[0].self_attn.q_proj
    nn.init.normal_(query.lora_B["default"].weight)
    product = query.lora_B["default"].weight @ query.lora_A["default"].weight
    found = dict(merged(language))
    assert {name: tuple(weight.shape) for name, weight in found.items()} == shapes
    torch.testing.assert_close(found["layers.0.self_attn.q_proj.weight"], query.base_layer.weight + 2 * product)
    assert found["norm.weight"] is language.norm.weight
    plain = LlamaModel(language.config).eval()
    plain.load_state_dict({name: weight.detach() for name, weight in found.items()})
    torch.testing.assert_close(plain(input_ids=ids).last_hidden_state, language(input_ids=ids).last_hidden_state)


def test_what_is_trained(language: LlamaModel) -> None:
    def trained() -> set[str]:
        return {name for name, weight in language.named_parameters() if weight.requires_grad}

    with pytest.raises(ValueError, match="made without adapters: give it a rank"):
        tune(language, "lora")
    adapt(language, 2)
    everything = {name for name, _ in language.named_parameters()}
    tune(language, "lora")
    assert trained() == {name for name in everything if "lora_" in name} and trained()
    tune(language, "frozen")
    assert not trained()
    tune(language, "full")
    assert trained() == {name for name in everything if "lora_" not in name}
    plain = LlamaModel(language.config).state_dict()
    assert {name: value.shape for name, value in own(language.state_dict()).items()} == {
        name: value.shape for name, value in plain.items()
    }
