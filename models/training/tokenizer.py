"""The tokenizer: byte-level BPE that keeps the words of the corpus whole.

Any text survives encoding and decoding unchanged. A digit is always a token of its own; a known word is one token
with or without its leading space. Knows the corpus only as text to count words in.
"""

import json
from collections import Counter
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .corpus import documents
from .exchange import BOS, SPECIAL_TOKENS, Segment
from .lexicon import CONTENT_WORDS

WORDS = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
PIECES = 200  # merges for words that are not known whole
SAMPLE_DOCUMENTS = 20_000
COMMON = 150  # a word seen so often in the sample is kept whole


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def corpus_words() -> Counter[str]:
    """How often each word is in a sample of the corpus, spelt in the byte alphabet (``Ġ`` is a leading space)."""
    split = pre_tokenizer()
    counts: Counter[str] = Counter()
    for document in islice(documents(seed=0), SAMPLE_DOCUMENTS):
        for segment in document:
            if segment.text not in SPECIAL_TOKENS:
                counts.update(word for word, _ in split.pre_tokenize_str(segment.text))
    return counts


def build_tokenizer() -> Tokenizer:
    """The same tokenizer every time: sub-word merges first, then every common word as a token of its own."""
    counts = corpus_words()
    learner = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=256 + PIECES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator((word for word in sorted(counts) for _ in range(min(counts[word], 20))), trainer)
    model = learner.to_str()
    pieces, merges = _pieces_and_merges(model)

    common = sorted(word for word, count in counts.items() if count >= COMMON)
    whole = [variant for word in CONTENT_WORDS for variant in (word, "Ġ" + word)]
    vocabulary = {
        token: index for index, token in enumerate(dict.fromkeys((*SPECIAL_TOKENS, *pieces, *whole, *common)))
    }

    # ignore_merges: a word of the vocabulary is taken whole, whatever the merges would make of it
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return tokenizer


def _pieces_and_merges(model: str) -> tuple[list[str], list[tuple[str, str]]]:
    bpe = json.loads(model)["model"]
    return sorted(bpe["vocab"], key=bpe["vocab"].get), [(left, right) for left, right in bpe["merges"]]


def encode_document(tokenizer: Tokenizer, document: list[Segment]) -> tuple[list[int], list[float]]:
    """Token ids and their weights in the loss; segments are encoded apart, as a prompt and its answer are in use."""
    ids: list[int] = []
    weights: list[float] = []
    encodings = tokenizer.encode_batch([segment.text for segment in document], add_special_tokens=False)
    for segment, encoding in zip(document, encodings, strict=True):
        ids += encoding.ids
        weights += [segment.weight] * len(encoding.ids)
    return ids, weights
