"""Make the numbers that our π0, π0.5 and SmolVLA are held to, with LeRobot's own code on tiny random weights.

lerobot 0.4.4 pins other versions of torch, and its π0 and π0.5 run only on openpi's patched transformers 4.53.2, so
both live in an environment of their own. SmolVLA runs on that too: transformers 4.57, which lerobot
would take, gives each patch of a picture the place before its own in float32; 4.53 and 5 do not.

    python3.11 -m venv lerobot-env && lerobot-env/bin/pip install "lerobot[smolvla]==0.4.4"
    lerobot-env/bin/pip install --no-deps --target openpi-env transformers==4.53.2 tokenizers==0.21.4
    git clone https://github.com/Physical-Intelligence/openpi
    cp -r openpi/src/openpi/models_pytorch/transformers_replace/* openpi-env/transformers/
    export PYTHONPATH=openpi-env
    for kind in smolvla pi0 pi05; do lerobot-env/bin/python tests/agents/vla/lerobot/reference.py $kind; done

Each writes KIND.json beside this file: what LeRobot saved (configuration, processors, statistics, names and shapes of
tensors) and what it computed. Weights and inputs are made from formulas that both sides evaluate, so that no file of
weights lies between them. LeRobot's sizes are fixed in its code: they are made small where its constructors
are called, and nothing else of it is touched.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROWS, CHUNK, PLAYED, WIDE, STATE, ACTION, STEPS = 2, 6, 4, 8, 5, 3, 4
"""Observations; H, C, the padded width, the real widths, and K."""
CAMERAS = {"base": (20, 28), "wrist": (32, 32)}
TASKS = ("pick up the red cube", "push_it")


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a tensor of the checkpoint: noise of its own by name, as loud as keeps activations near 1."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return (noise / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (0.2 * noise + ("norm" in name and name.endswith("weight"))).astype(np.float32)


def numbers(seed: int, *shape: int) -> np.ndarray:
    """Return standard normal numbers, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pictures(camera: str) -> np.ndarray:
    """Return what a camera shows, [N, H, W, 3] uint8: smooth, with some noise."""
    height, width = CAMERAS[camera]
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    phase = np.arange(ROWS)[:, None, None, None] + np.array([0.0, 1.0, 2.0]) + len(camera)
    smooth = 127 + 90 * np.sin(rows / 5 + phase) * np.cos(columns / 7 - phase)
    return (smooth + 10 * numbers(3, ROWS, height, width, 3)).clip(0, 255).astype(np.uint8)


def state() -> np.ndarray:
    """Return proprioception, [N, S], some of it beyond the quantiles."""
    return 2 * numbers(4, ROWS, STATE) + 1


def action() -> np.ndarray:
    """Return demonstrated actions, [N, H, A]."""
    return numbers(5, ROWS, CHUNK, ACTION)


def statistics() -> dict[str, dict[str, np.ndarray]]:
    """Return a data set's statistics, as LeRobot holds them."""
    found = {}
    for seed, (name, width) in enumerate({"observation.state": STATE, "action": ACTION}.items()):
        samples = np.sort(numbers(10 + seed, 100, width), 0) * np.linspace(0.5, 2, width) + 0.3
        found[name] = {"mean": samples.mean(0), "std": samples.std(0), "min": samples[0], "max": samples[-1]}
        found[name] |= {f"q{percent:02}": samples[percent] for percent in (1, 10, 50, 90, 99)}
    return {name: {key: value.astype(np.float32) for key, value in part.items()} for name, part in found.items()}


def tokenizer(begin: bool) -> Any:
    """Return a tokenizer of bytes, which begins texts with a token of its own where PaliGemma's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>"]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if begin:
        made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    made.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


def smolvla() -> tuple[Any, Any, str]:
    """Return LeRobot's configuration and policy, made small, and the module of its processors."""
    import lerobot.policies.smolvla.smolvlm_with_expert as parts
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    from transformers import SmolVLMConfig

    text = {
        "model_type": "llama", "vocab_size": 260, "hidden_size": 128, "intermediate_size": 160, "head_dim": 64,
        "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    small = SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=2, image_token_id=2, pad_token_id=0)
    special = SimpleNamespace(fake_image_token_id=0, global_image_token_id=1)
    parts.AutoConfig = SimpleNamespace(from_pretrained=lambda name: small)  # type: ignore[assignment]
    parts.AutoProcessor = SimpleNamespace(  # type: ignore[assignment]
        from_pretrained=lambda name: SimpleNamespace(tokenizer=special)
    )
    config = SmolVLAConfig(
        **_features(), chunk_size=CHUNK, n_action_steps=PLAYED, max_state_dim=WIDE, max_action_dim=WIDE,
        resize_imgs_with_padding=(32, 32), num_steps=STEPS, num_vlm_layers=4, device="cpu",
    )  # fmt: skip
    return config, SmolVLAPolicy(config), "lerobot.policies.smolvla.processor_smolvla"


def pi(kind: str) -> tuple[Any, Any, str]:
    """Return LeRobot's configuration and policy of π0 or π0.5, made small, and the module of its processors."""
    from importlib import import_module

    configuration = import_module(f"lerobot.policies.{kind}.configuration_{kind}")
    modeling = import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    whole, expert = modeling.PaliGemmaForConditionalGeneration, modeling.GemmaForCausalLM

    def sizes(variant: str) -> Any:
        width, inner = (48, 96) if variant == "gemma_2b" else (32, 64)
        return modeling.GemmaConfig(width, 3, inner, 8, 1, 8)

    def small(config: Any) -> Any:
        config.text_config.vocab_size = config._vocab_size = 260
        vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "patch_size": 8}
        for name, value in {**vision, "projection_dim": 48}.items():
            setattr(config.vision_config, name, value)
        return whole(config=config)

    def smaller(config: Any) -> Any:
        config.vocab_size = 260
        return expert(config=config)

    modeling.get_gemma_config = sizes
    modeling.PaliGemmaForConditionalGeneration, modeling.GemmaForCausalLM = small, smaller
    named = {"pi0": "PI0", "pi05": "PI05"}[kind]
    config = getattr(configuration, f"{named}Config")(
        **_features(), chunk_size=CHUNK, n_action_steps=PLAYED, max_state_dim=WIDE, max_action_dim=WIDE,
        image_resolution=(32, 32), num_inference_steps=STEPS, device="cpu",
    )  # fmt: skip
    return config, getattr(modeling, f"{named}Policy")(config), f"lerobot.policies.{kind}.processor_{kind}"


def _features() -> dict[str, Any]:
    from lerobot.configs.types import FeatureType, PolicyFeature

    seen = {f"observation.images.{name}": (3, *size) for name, size in CAMERAS.items()}
    inputs = {name: PolicyFeature(FeatureType.VISUAL, shape) for name, shape in seen.items()}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    return {"input_features": inputs, "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))}}


def _saved(folder: Path) -> dict[str, Any]:
    """Return what LeRobot saved, but for the weights' values."""
    from safetensors.numpy import load_file

    documents = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    weights = {name: list(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}
    states = {
        path.name: {name: tensor.tolist() for name, tensor in load_file(path).items()}
        for path in sorted(folder.glob("policy_*.safetensors"))
    }
    return {"documents": documents, "tensors": dict(sorted(weights.items())), "statistics": states}


def main(kind: str) -> None:
    """Run LeRobot and write what it computed."""
    from importlib import import_module
    from importlib.metadata import version

    import torch
    import transformers

    torch.set_num_threads(1)
    config, policy, module = smolvla() if kind == "smolvla" else pi(kind)
    with torch.no_grad():
        for name, tensor in policy.state_dict().items():
            tensor.copy_(torch.from_numpy(weight(name, tuple(tensor.shape))))
    if kind != "smolvla":  # tied, though LeRobot fills them one after the other
        whole = policy.model.paligemma_with_expert.paligemma
        name = "model.paligemma_with_expert.paligemma.lm_head.weight"
        shape = tuple(whole.lm_head.weight.shape)
        with torch.no_grad():
            whole.lm_head.weight.copy_(torch.from_numpy(weight(name, shape)))
    words = tokenizer(begin=kind != "smolvla")
    transformers.AutoTokenizer.from_pretrained = lambda *_, **__: words  # type: ignore[method-assign]
    make = getattr(import_module(module), f"make_{kind}_pre_post_processors")
    before, after = make(config, statistics())
    with tempfile.TemporaryDirectory() as name:
        policy.save_pretrained(name)
        before.save_pretrained(name)
        after.save_pretrained(name)
        saved = _saved(Path(name))
    policy.eval()

    def batch(cameras: tuple[str, ...] = tuple(CAMERAS)) -> dict[str, Any]:
        seen = {
            f"observation.images.{name}": torch.from_numpy(pictures(name)).permute(0, 3, 1, 2).float() / 255
            for name in cameras
        }
        return before(
            {**seen, "observation.state": torch.from_numpy(state()), "action": torch.from_numpy(action()),
             "task": list(TASKS)}
        )  # fmt: skip

    noise = torch.from_numpy(numbers(6, ROWS, CHUNK, WIDE))
    time = torch.tensor([0.25, 0.9])
    seen = batch()
    chain = _denoised(policy, seen, noise)
    found = {
        "tokens": seen["observation.language.tokens"].tolist(),
        "state": seen["observation.state"].tolist(),
        "normalised_action": seen["action"].tolist(),
        "denoised": chain.tolist(),
        "actions": after(chain[:, :, :ACTION]).tolist(),
        "loss": _loss(policy, seen, noise, time).tolist(),
    }
    if kind != "smolvla":  # SmolVLA masks only cameras that were declared empty
        found["denoised_without_wrist"] = _denoised(policy, batch(("base",)), noise).tolist()
    versions = {name: version(name) for name in ("lerobot", "torch", "safetensors")}
    document = {"kind": kind, "versions": {**versions, "transformers": transformers.__version__}, **saved, **found}
    path = Path(__file__).with_name(f"{kind}.json")
    path.write_text(json.dumps(_rounded(document), indent=None, separators=(",", ":")) + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes, {len(saved['tensors'])} tensors")


def _prepared(policy: Any, batch: dict[str, Any]) -> tuple[Any, ...]:
    """Return what LeRobot's networks take of a batch."""
    pictures_of = getattr(policy, "prepare_images", None) or policy._preprocess_images
    images, masks = pictures_of(batch)
    words = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    proprioception = () if policy.name == "pi05" else (policy.prepare_state(batch),)
    return (images, masks, *words, *proprioception)


def _denoised(policy: Any, batch: dict[str, Any], noise: Any) -> Any:
    """Return where LeRobot's denoising ends, [N, H, D] (before it cuts the padding off)."""
    import torch

    with torch.no_grad():
        return policy.model.sample_actions(*_prepared(policy, batch), noise=noise)


def _loss(policy: Any, batch: dict[str, Any], noise: Any, time: Any) -> Any:
    """Return the squared errors of the velocity, [N, H, D]."""
    import torch

    with torch.no_grad():
        target = policy.prepare_action(batch)
        return policy.model.forward(*_prepared(policy, batch), target, noise, time)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    if isinstance(value, dict):
        return {key: part if key == "documents" else _rounded(part) for key, part in value.items()}
    return value


if __name__ == "__main__":
    main(sys.argv[1])
