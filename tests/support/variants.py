"""Small models made into others: quantised, in another type, with an adapter beside them."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model, quantize_model, save_config, save_model


def quantise(folder: Path, *, bits: int, dtype: str = "float32") -> Path:
    """Quantises a model's weights in their place, in groups of 64, as mlx-lm's convert does."""
    network, config = load_model(folder)
    network.set_dtype(getattr(mx, dtype))
    network, config = quantize_model(network, config, group_size=64, bits=bits)
    save_model(folder, network)
    save_config(config, folder / "config.json")
    return folder


def cast(folder: Path, dtype: str) -> Path:
    """Turns a model's weights into another type in their place."""
    network, config = load_model(folder)
    network.set_dtype(getattr(mx, dtype))
    save_model(folder, network)
    save_config(config | {"dtype": dtype}, folder / "config.json")
    return folder


def make_adapter(folder: Path, base: Path, keys: list[str]) -> Path:
    """A LoRA adapter of random weights, as mlx-lm's training writes it."""
    parameters = {"rank": 4, "scale": 8.0, "dropout": 0.0, "keys": keys}
    network, _ = load_model(base)
    network.freeze()
    linear_to_lora_layers(network, 4, parameters)
    mx.random.seed(1)
    trained: Any = tree_flatten(network.trainable_parameters())
    weights = {name: 0.1 * mx.random.normal(array.shape) for name, array in trained}
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
