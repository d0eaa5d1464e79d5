"""MLX's form of GGUF's blocks holds the numbers that llama.cpp's own library reads in them."""

import mlx.core as mx
import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from neuroscope_inference.gguf.tensor_types import GROUP_SIZE, TENSOR_TYPES, TensorType

QUANTISED = [number for number, kind in TENSOR_TYPES.items() if kind.quantise is not None]
ROWS, COLUMNS = 6, 512


def blocks_of(number: int, kind: TensorType) -> np.ndarray:
    """Blocks as the library writes them; where it writes none, of bits at random under sensible scales."""
    random = np.random.default_rng(number)
    try:
        return quants.quantize(random.normal(size=(ROWS, COLUMNS)).astype(np.float32), GGMLQuantizationType(number))
    except NotImplementedError:
        blocks = random.integers(0, 256, (ROWS, COLUMNS // kind.block_size, kind.block_bytes), dtype=np.uint8)
        blocks[..., :4] = np.array([0.013, 0.02], np.float16).view(np.uint8)  # scale of scales, scale of minima
        return blocks.reshape(ROWS, -1)


@pytest.mark.parametrize("number", TENSOR_TYPES)
def test_sizes_of_blocks_are_those_of_ggml(number: int):
    kind = TENSOR_TYPES[number]
    assert kind.name == GGMLQuantizationType(number).name
    assert (kind.block_size, kind.block_bytes) == GGML_QUANT_SIZES[GGMLQuantizationType(number)]


@pytest.mark.parametrize("number", QUANTISED)
def test_what_stays_quantised_has_the_same_numbers(number: int):
    kind = TENSOR_TYPES[number]
    blocks = blocks_of(number, kind)
    assert kind.quantise is not None
    kept = kind.quantise(blocks)
    assert kept.bits == kind.bits
    scales, biases = (mx.array(part.astype(np.float32)) for part in (kept.scales, kept.biases))
    numbers = mx.dequantize(mx.array(kept.weight), scales, biases, group_size=GROUP_SIZE, bits=kept.bits)
    expected = quants.dequantize(blocks, GGMLQuantizationType(number))
    allowed = 2**-22 * np.abs(expected).max() if kind.name.endswith("_K") else 0  # scales of K types are products
    assert np.abs(np.array(numbers) - expected).max() <= allowed


@pytest.mark.parametrize("name", ["Q6_K", "Q3_K", "IQ4_XS"])
def test_other_types_become_float32(name: str):
    number = next(number for number, kind in TENSOR_TYPES.items() if kind.name == name)
    kind = TENSOR_TYPES[number]
    blocks = np.zeros((2, 256 // kind.block_size * kind.block_bytes), np.uint8)
    numbers = kind.dequantise(blocks)
    assert (numbers.dtype, numbers.shape) == (np.float32, (2, 256))
    assert not kind.bits


def test_plain_types_keep_their_bits():
    values = np.array([[1.5, -2.25, 0.0, 3e-5]], np.float16)
    assert np.array_equal(TENSOR_TYPES[1].dequantise(values.view(np.uint8)), values)
