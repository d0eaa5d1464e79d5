"""Tensor types of GGUF: blocks of numbers, and the same numbers as MLX keeps them.

MLX keeps a quantised matrix as codes, packed into uint32, with a scale and a bias for every group of 32 numbers:
`scale * code + bias`. Types whose blocks are of that form stay as they are: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, and Q4_K and
Q5_K, whose scales are products. All others are dequantised.

Layouts of blocks are those of ggml (ggml-common.h); `gguf.quants` dequantises what has no form of its own here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Blocks = NDArray[np.uint8]
"""(rows, bytes of a row)"""
Codes = NDArray[Any]
"""Numbers of at most eight bits, uint8."""
GROUP_SIZE = 32


@dataclass(frozen=True, slots=True)
class Quantised:
    """A matrix as MLX keeps it."""

    weight: NDArray[np.uint32]
    """(rows, columns * bits / 32)"""
    scales: NDArray[Any]
    """(rows, columns / 32), float16, and float32 for K types, whose scales are products"""
    biases: NDArray[Any]
    """Like scales."""
    bits: int

    def rows(self, order: NDArray[np.intp]) -> Quantised:
        """The same with its rows in another order."""
        return Quantised(self.weight[order], self.scales[order], self.biases[order], self.bits)


@dataclass(frozen=True, slots=True)
class TensorType:
    """A type of GGUF."""

    name: str
    block_size: int
    """Numbers of a block."""
    block_bytes: int
    quantise: Callable[[Blocks], Quantised] | None = None
    """Gives MLX's form; None: it has none."""
    dtype: Any = None
    """numpy type of unquantised numbers; None: it is quantised."""

    @property
    def bits(self) -> int:
        """Bits of a code in MLX's form; 0: it has none."""
        return _BITS.get(self.name, 0)

    def dequantise(self, blocks: Blocks) -> NDArray[Any]:
        """The numbers, (rows, columns): in their own type where that is a plain one, else float32."""
        if self.dtype is not None:
            return blocks.view(self.dtype)
        from gguf import quants
        from gguf.constants import GGMLQuantizationType

        return quants.dequantize(blocks, GGMLQuantizationType[self.name])


def _split_blocks(blocks: Blocks, block_bytes: int, *lengths: int) -> list[Blocks]:
    """Every block's parts, (rows, blocks, bytes)."""
    cut = blocks.reshape(blocks.shape[0], -1, block_bytes)
    ends = np.cumsum(lengths)
    return [cut[..., end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _read_float16(part: Blocks) -> NDArray[np.float16]:
    """Two bytes as a float16, (rows, blocks)."""
    return np.ascontiguousarray(part).view(np.float16)[..., 0]


def _nibbles(part: Blocks) -> Codes:
    """The low halves of all bytes of a block, then the high ones."""
    return np.concatenate([part & 15, part >> 4], axis=-1)


def _fifth_bits(part: Blocks) -> Codes:
    """32 bits of a block as numbers 0 and 16, (rows, blocks, 32)."""
    return np.unpackbits(part, axis=-1, bitorder="little") << 4


def _pack(codes: Codes, scales: NDArray[Any], biases: NDArray[Any], bits: int) -> Quantised:
    """Codes (rows, groups, 32) in MLX's order: the lowest bits are the first number's."""
    rows = codes.shape[0]
    if bits == 8:
        weight = np.ascontiguousarray(codes.reshape(rows, -1)).view(np.uint32)
    elif bits == 4:
        pairs = codes.reshape(rows, -1, 2)
        weight = np.ascontiguousarray(pairs[..., 0] | (pairs[..., 1] << 4)).view(np.uint32)
    else:
        unpacked = np.unpackbits(codes.reshape(rows, -1, 1), axis=-1, bitorder="little", count=bits)
        weight = np.packbits(unpacked.reshape(rows, -1), axis=-1, bitorder="little").view(np.uint32)
    return Quantised(weight, scales, biases, bits)


def _q4_0(blocks: Blocks) -> Quantised:
    scale, codes = _split_blocks(blocks, 18, 2, 16)
    scales = _read_float16(scale)
    return _pack(_nibbles(codes), scales, scales * np.float16(-8), 4)


def _q4_1(blocks: Blocks) -> Quantised:
    scale, least, codes = _split_blocks(blocks, 20, 2, 2, 16)
    return _pack(_nibbles(codes), _read_float16(scale), _read_float16(least), 4)


def _q5_0(blocks: Blocks) -> Quantised:
    scale, high, codes = _split_blocks(blocks, 22, 2, 4, 16)
    scales = _read_float16(scale)
    return _pack(_nibbles(codes) | _fifth_bits(high), scales, scales * np.float16(-16), 5)


def _q5_1(blocks: Blocks) -> Quantised:
    scale, least, high, codes = _split_blocks(blocks, 24, 2, 2, 4, 16)
    return _pack(_nibbles(codes) | _fifth_bits(high), _read_float16(scale), _read_float16(least), 5)


def _q8_0(blocks: Blocks) -> Quantised:
    scale, codes = _split_blocks(blocks, 34, 2, 32)
    scales = _read_float16(scale)
    return _pack(codes ^ 128, scales, scales * np.float16(-128), 8)  # signed bytes, 128 above


def _k_scales(packed: Blocks) -> tuple[Codes, Codes]:
    """Eight scales and eight minima of six bits in twelve bytes, (rows, blocks, 8) each."""
    low, middle, high = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=-1)
    minima = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=-1)
    return scales, minima


def _k_groups(scale: Blocks, least: Blocks, packed: Blocks) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scales and biases of groups of 32, (rows, groups)."""
    scales, minima = _k_scales(packed)
    rows = scale.shape[0]
    whole, lowest = (_read_float16(part).astype(np.float32)[..., None] for part in (scale, least))
    return (whole * scales).reshape(rows, -1), (-lowest * minima).reshape(rows, -1)


def _q4_k(blocks: Blocks) -> Quantised:
    scale, least, packed, codes = _split_blocks(blocks, 144, 2, 2, 12, 128)
    halves = codes.reshape(*codes.shape[:2], 4, 32)
    numbers = np.stack([halves & 15, halves >> 4], axis=3).reshape(codes.shape[0], -1, 32)
    return _pack(numbers, *_k_groups(scale, least, packed), 4)


def _q5_k(blocks: Blocks) -> Quantised:
    scale, least, packed, high, codes = _split_blocks(blocks, 176, 2, 2, 12, 32, 128)
    halves = codes.reshape(*codes.shape[:2], 4, 32)
    numbers = np.stack([halves & 15, halves >> 4], axis=3).reshape(*codes.shape[:2], 8, 32)
    fifth = (high[..., None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return _pack((numbers | (fifth << 4)).reshape(codes.shape[0], -1, 32), *_k_groups(scale, least, packed), 5)


_BITS = {"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5, "Q8_0": 8, "Q4_K": 4, "Q5_K": 5}
TENSOR_TYPES = {
    0: TensorType("F32", 1, 4, dtype=np.float32),
    1: TensorType("F16", 1, 2, dtype=np.float16),
    2: TensorType("Q4_0", 32, 18, _q4_0),
    3: TensorType("Q4_1", 32, 20, _q4_1),
    6: TensorType("Q5_0", 32, 22, _q5_0),
    7: TensorType("Q5_1", 32, 24, _q5_1),
    8: TensorType("Q8_0", 32, 34, _q8_0),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144, _q4_k),
    13: TensorType("Q5_K", 256, 176, _q5_k),
    14: TensorType("Q6_K", 256, 210),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2, dtype=ml_dtypes.bfloat16),
}
"""By the number that stands in files."""
