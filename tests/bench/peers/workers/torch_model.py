"""A model of Hugging Face as the three torch libraries load it: float32, one thread, no gradients, no end of text."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers"}
"""The list of blocks by model type."""
SECOND_NORM = {"gpt2": "ln_2", "llama": "post_attention_layernorm"}
"""What reads resid_mid in a block."""


def load(folder: str, **settings: Any) -> Any:
    """The model of a folder; sets torch up for the whole process."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def row(ids: Any) -> torch.Tensor:
    """Token ids as a batch of one."""
    return torch.tensor([list(ids)])
