"""mlx-lm as its users call it, without anything of ours in between: the other side of every comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm


def load_plain(folder: Path) -> tuple[Any, Any]:
    """mlx-lm's model and tokenizer. Typed Any because mlx-lm's own annotations do not say what a model can do."""
    model, tokenizer, *_ = mlx_lm.load(str(folder))
    return model, tokenizer


def plain_logits(model: Any, token_ids: Sequence[int]) -> mx.array:
    """Logits of one prompt in one forward pass without a cache, (B, T, vocab), evaluated."""
    logits = model(mx.array([list(token_ids)]))
    mx.eval(logits)
    return logits
