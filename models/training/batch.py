"""Batches: documents packed into rows of equal length, none of which can look into another.

Knows documents and the tokenizer. Does not know the network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .corpus import documents
from .exchange import BOS, END, SPECIAL_TOKENS
from .tokenizer import encode_document

RANDOM_TOKEN_SHARE = 0.06


@dataclass(frozen=True)
class Batch:
    tokens: Tensor
    """(B, T) token ids"""
    targets: Tensor
    """(B, T) token ids, one position ahead"""
    weights: Tensor
    """(B, T) float32, of the targets"""
    mask: Tensor
    """(B, 1, T, T) bool, true where a query may look: backwards, within its document"""


def repeated_tokens(rng: Random, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
    """A document of random token ids said twice, so that copying extends to every token of the vocabulary."""
    length = round(3 * 20 ** rng.random())  # 3 to 60, short ones more often
    once = [rng.randrange(len(SPECIAL_TOKENS), tokenizer.get_vocab_size()) for _ in range(length)]
    ids = [tokenizer.token_to_id(BOS), *once, *once, tokenizer.token_to_id(END)]
    return ids, [0.0] * (length + 2) + [1.0] * (length - 1) + [0.0]


def encoded_documents(tokenizer: Tokenizer, seed: int) -> Iterator[tuple[list[int], list[float]]]:
    rng = Random(f"random tokens {seed}")
    for document in documents(seed):
        if rng.random() < RANDOM_TOKEN_SHARE:
            yield repeated_tokens(rng, tokenizer)
        yield encode_document(tokenizer, document)


def batches(tokenizer: Tokenizer, seed: int, rows: int, length: int) -> Iterator[Batch]:
    """Rows are filled with documents that fit into one; the last of a row is cut."""
    stream = ((ids, weights) for ids, weights in encoded_documents(tokenizer, seed) if len(ids) <= length)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    while True:
        tokens = torch.zeros(rows, length + 1, dtype=torch.long)
        weights = torch.zeros(rows, length + 1)
        owner = torch.zeros(rows, length + 1, dtype=torch.long)
        for row in range(rows):
            filled, document = 0, 0
            while filled <= length:
                ids, weight = next(stream)
                room = min(len(ids), length + 1 - filled)
                tokens[row, filled : filled + room] = torch.tensor(ids[:room])
                weights[row, filled : filled + room] = torch.tensor(weight[:room])
                owner[row, filled : filled + room] = document
                filled, document = filled + room, document + 1
        same = owner[:, :length, None] == owner[:, None, :length]  # (B, T, T)
        yield Batch(tokens[:, :-1], tokens[:, 1:], weights[:, 1:], (same & causal)[:, None])
