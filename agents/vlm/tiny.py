"""A tiny image-text-to-text checkpoint in the standard on-disk format, for places where no weights can be downloaded.

It is a LLaVA (Liu et al., 2023, arXiv:2304.08485): a SigLIP vision tower and a Llama, with a byte-level BPE tokenizer
trained here. What is written is loaded by exactly the calls that load a model of 7B parameters.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, TokenizersBackend

PAD, END, IMAGE = "<|pad|>", "<|end|>", "<|image|>"
SPECIAL = (PAD, END, IMAGE, "<|system|>", "<|user|>", "<|assistant|>")
PATCH = 8
"""Side of the square of pixels that becomes one token."""
NUMBER = r"\d+(?:\.\d+)?"
"""What may be one token beside phrases."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>{% endgeneration %}"
    "{% else %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Takes pictures in any turn; marks what the assistant says, so that training can mask the rest."""

CORPUS = (
    "red green blue yellow orange purple pink brown black white gray cyan magenta",
    "circle square triangle star cross ring bar line dot box ball cube disc arrow car person robot arm gripper goal",
    "zero one two three four five six seven eight nine ten none many few all",
    "left right up down top bottom center middle corner above below near far inside outside forward backward",
    "What color is the shape? What shape is it? How many shapes are there? Where is the circle? Is there a square?",
    "Which is larger? Which object is closest to the gripper? Is the task done? Answer yes or no, with one word.",
    "The answer is yes. The answer is no. The image shows a scene. The first image, the second, the same, different.",
    "You are a driving agent in a simulated environment. Current speed: 4.5 m/s. Navigation command: turn left at the",
    "intersection, turn right, go straight, follow the current lane, change to the right lane, stop, slow down, speed",
    '{"throttle": 0.5, "steer": -0.1, "brake": 0.0} {"action": "click", "x": 12, "y": 34} {"score": 1, "reason": "ok"}',
    "click the button, type the text, scroll down, press back, open the page, search the web, pick the cube, place it",
    "on the plate, push the block to the goal, move the arm to the left, open the gripper, close the gripper",
    "Did the agent succeed? Task: Observation: Thought: Action: Question: Answer: Reason: Score: success failure",
)
"""What the tokenizer learns its merges from; any other text is encodable too, in more tokens."""


def build_tiny_vlm(
    path: Path,
    *,
    seed: int = 0,
    image_size: int = 32,
    corpus: Iterable[str] | None = None,
    vocabulary: int = 640,
    context: int = 2048,
    phrases: Sequence[str] = (),
    width: int = 128,
    layers: int = 3,
) -> Path:
    """Write an untrained model, of about 0.9 million parameters by default, processor and tokenizer to a new folder.

    Pictures of any size are resized to a square and become (image_size / 8)² tokens each.

    Args:
        path: Folder to create; whole or absent.
        seed: Of the weights. The caller's random state is left alone.
        image_size: Side that pictures are resized to, in pixels; a multiple of 8.
        corpus: Texts of the kind to be read, for the tokenizer; a corpus on scenes, driving and screens if not given.
        vocabulary: Most tokens of the tokenizer, at least 256 bytes and 6 special ones.
        context: Longest prompt and answer together, in tokens.
        phrases: Texts that are one token each, and with them numbers may become one, too: what is said in a set form
            is then short, and where a number is chosen it is chosen at once.
        width: Of the text decoder, a multiple of 16; the vision tower is three quarters as wide.
        layers: Of the text decoder, at least 2; the vision tower has one less.

    Returns:
        `path`, for `AutoModelForImageTextToText.from_pretrained` and `AutoProcessor.from_pretrained`.

    Raises:
        FileExistsError: `path` exists and is not an empty folder.
        ValueError: `image_size`, `vocabulary`, `context`, `width` or `layers` cannot be.
    """
    if image_size < PATCH or image_size % PATCH:
        nearest = max(PATCH, round(image_size / PATCH) * PATCH)
        raise ValueError(f"image_size is a multiple of {PATCH}, got {image_size}; the nearest is {nearest}.")
    if vocabulary < 256 + len(SPECIAL):
        raise ValueError(f"vocabulary is at least {256 + len(SPECIAL)} (bytes, specials), got {vocabulary}.")
    if context <= (image_size // PATCH) ** 2:
        raise ValueError(f"context {context} leaves no room beside a picture of {(image_size // PATCH) ** 2} tokens.")
    if width < 16 or width % 16 or layers < 2:
        raise ValueError(f"width is a multiple of 16 and layers at least 2, got {width} and {layers}.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists; choose a new folder, or remove it.")
    tokenizer = train_tokenizer(CORPUS if corpus is None else corpus, vocabulary, context, phrases)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        _model(len(tokenizer), seed, image_size, context, width, layers).save_pretrained(temporary)
        _processor(tokenizer, image_size).save_pretrained(temporary)
        temporary.chmod(0o755)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


def set_phrases(texts: Sequence[str], share: float = 0.01, copied: Iterable[str] = ()) -> list[str]:
    """Return what stands between the numbers of at least such a share of texts, two letters or more, sorted.

    Args:
        texts: What is said.
        share: Of them.
        copied: What is copied from prompts: it is cut out as numbers are, so that it keeps the tokens it has there.
    """
    between = "|".join([NUMBER, *map(re.escape, sorted(copied, key=len, reverse=True))])
    found = Counter(part for text in texts for part in set(re.split(between, text)) if len(part) > 1)
    return sorted(part for part, count in found.items() if count >= share * len(texts))


def train_tokenizer(
    corpus: Iterable[str], vocabulary: int, context: int, phrases: Sequence[str] = ()
) -> TokenizersBackend:
    """Return a byte-level BPE: any text can be encoded, and without phrases each digit is a token of its own."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digits = (
        pre_tokenizers.Split(Regex(NUMBER), "isolated") if phrases else pre_tokenizers.Digits(individual_digits=True)
    )
    words = pre_tokenizers.Split(Regex(r" ?\p{L}+|\s+|[^\s\p{L}]+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        if phrases
        else [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPECIAL[2:]),
        padding_side="left",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _processor(tokenizer: TokenizersBackend, image_size: int) -> LlavaProcessor:
    """Return what turns a conversation with pictures into tokens and pixels."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = {"height": image_size, "width": image_size}
    images = CLIPImageProcessor(
        size=side, crop_size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="full", image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )


def _model(
    tokens: int, seed: int, image_size: int, context: int, width: int, layers: int
) -> LlavaForConditionalGeneration:
    """Return the untrained model."""
    from transformers import (
        GenerationConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        SiglipVisionConfig,
    )

    pad, end, image = (SPECIAL.index(token) for token in (PAD, END, IMAGE))
    vision = SiglipVisionConfig(
        image_size=image_size, patch_size=PATCH, hidden_size=width * 3 // 4, intermediate_size=width * 3 // 2,
        num_hidden_layers=layers - 1, num_attention_heads=4, vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=tokens, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=context, tie_word_embeddings=True,
        pad_token_id=pad, bos_token_id=None, eos_token_id=end, initializer_range=0.05,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image,
        tie_word_embeddings=True, image_seq_length=(image_size // PATCH) ** 2, vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        # Places as loud as what is seen there: with the library's quiet ones "where" is learnt several times later.
        torch.nn.init.normal_(model.model.vision_tower.embeddings.position_embedding.weight, std=0.6)
    model.generation_config = GenerationConfig(pad_token_id=pad, eos_token_id=end, bos_token_id=None)
    return model
