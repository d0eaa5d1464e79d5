"""A small byte-level BPE tokenizer, trained on a text that is built here.

Every string round-trips (all 256 bytes are tokens). The three role markers, BOS and EOS are the first five ids, so a
test may write them down. The text holds the sentences that interpretability prompts are made of, so that names, places
and short numbers are single tokens.
"""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS = "<|bos|>", "<|eos|>"
SPECIAL_TOKENS = (BOS, EOS, "<|user|>", "<|assistant|>", "<|system|>")
BOS_ID, EOS_ID = 0, 1

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_NAMES = ("Alice", "Bob", "Carol", "David", "Emma", "Frank", "Grace", "Henry", "John", "Mary", "Tom", "Sarah")
_PLACES = ("store", "park", "school", "garden", "kitchen", "station", "market", "library")
_THINGS = ("book", "drink", "letter", "lamp", "basket", "ring", "map", "key")
_CAPITALS = (
    ("France", "Paris"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Japan", "Tokyo"),
    ("Germany", "Berlin"),
    ("Egypt", "Cairo"),
)
_STORY = (
    "Once upon a time there was a little fox who lived near the old mill. Every morning the fox walked along the river "
    "and looked for something new. One day she found a small wooden box under the bridge. Inside the box there was a "
    "silver key, but nobody in the village knew which door it would open."
)


def training_text() -> Iterator[str]:
    """Sentences the merges are learnt from; the same on every call."""
    yield _STORY
    for first, second in product(_NAMES, repeat=2):
        for place, thing in zip(_PLACES, _THINGS, strict=True):
            yield f"When {first} and {second} went to the {place}, {second} gave a {thing} to {first}."
    for country, capital in _CAPITALS:
        yield f"The capital of {country} is {capital}. {capital} is the capital of {country}."
    for left, right in product(range(50), repeat=2):
        yield f"{left} + {right} = {left + right}"
    yield "def add(a, b):\n    return a + b\n"


def save_tokenizer(folder: Path, *, vocab_size: int, prepends_bos: bool) -> int:
    """Train and write `tokenizer.json` and `tokenizer_config.json`; returns the number of tokens learnt.

    Args:
        vocab_size: upper bound; the text holds enough for about 700 tokens, a larger model keeps unused rows.
        prepends_bos: whether encoding adds BOS by itself (llama, gemma) or leaves it to the caller (gpt2, qwen).

    Raises:
        ValueError: the vocabulary cannot hold the 256 bytes and the special tokens.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size is {vocab_size}, a byte-level vocabulary needs at least {smallest}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    if prepends_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # known to transformers 4 and 5
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "unk_token": EOS,  # never met in bytes; unset, qwen2's class would add a 513th token
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return tokenizer.get_vocab_size()
