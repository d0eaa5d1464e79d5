"""A model's vocabulary in the form that llguidance needs."""

from __future__ import annotations

from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer
from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers import PreTrainedTokenizerFast

from neuroscope.errors import InvalidRequestError


def constraint_vocabulary(tokenizer: TokenizerWrapper, vocab_size: int, field: str) -> LLTokenizer:
    """Builds the vocabulary; takes .3 s for 50,000 tokens, so keep it.

    Args:
        tokenizer: the model's.
        vocab_size: entries of the model's output; 0 where the configuration does not say.
        field: of the request, named in errors.

    Raises:
        InvalidRequestError: the tokenizer is none of the Rust library's.
    """
    rust = getattr(tokenizer, "_tokenizer", None)
    if not isinstance(rust, PreTrainedTokenizerFast):
        raise InvalidRequestError(
            f"the tokenizer of this model ({type(rust).__name__}) has no tokenizer.json, which constraints need",
            field=field,
        )
    eos = sorted(tokenizer.eos_token_ids) or None
    return from_tokenizer(rust, n_vocab=max(len(rust), vocab_size), eos_token=eos)
