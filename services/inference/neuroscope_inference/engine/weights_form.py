"""The form in which a model's weights are in memory: their type, and whether they are quantised.

MLX's CPU backend computes with quantised weights, and in float16 and bfloat16, many times slower than with plain
float32 through its BLAS; on Metal quantised weights are the fastest. So the quantised weights of a GGUF file become
plain ones on the CPU where memory holds them, unless the load asks for something else; elsewhere they stay.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import dequantize_model, get_total_parameters

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import dtype_name

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_MEMORY_SHARE = 0.5
"""Of the memory that is free, what plain weights may take where nobody asked for them."""
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class WeightsForm:
    """What a load asks for."""

    dtype: str = ""
    """Of DTYPES; empty: that of the files."""
    dequantize: bool | None = None
    """Whether quantised weights become plain ones; None: where that is faster and memory holds them."""

    @classmethod
    def of(cls, request: pb.LoadModelRequest) -> WeightsForm:
        """What a request asks for.

        Raises:
            InvalidRequestError: models do not compute in that type.
        """
        dtype = dtype_name(request.dtype) if request.dtype in tensor_pb2.DataType.values() and request.dtype else ""
        if request.dtype and dtype not in DTYPES:
            raise InvalidRequestError(
                f"models compute in {', '.join(DTYPES)}, not in {dtype or request.dtype}", field="dtype"
            )
        return cls(dtype, request.dequantize if request.HasField("dequantize") else None)

    def difference(self, model: pb.Model, was_dequantized: bool) -> str:
        """How a loaded model differs from what is asked for; empty: it does not."""
        if self.dtype and self.dtype != dtype_name(model.dtype):
            return f"in {dtype_name(model.dtype)}, not in {self.dtype}"
        if self.dequantize and model.quantization:
            return "with quantised weights"
        if self.dequantize is False and was_dequantized:
            return "with dequantised weights"
        return ""


def on_cpu() -> bool:
    """Whether MLX computes on its CPU backend."""
    return mx.default_device().type == mx.DeviceType.cpu


def give(model: nn.Module, form: WeightsForm, *, may_choose: bool, budget_bytes: int) -> tuple[list[str], bool]:
    """Gives a model's weights, which are not read yet, the form that was asked for.

    Args:
        model: changed in place.
        form: what is asked for.
        may_choose: whether quantised weights are dequantised where that is faster.
        budget_bytes: that weights may take; 0: no limit.

    Returns:
        What was changed, and what was not for want of memory, a sentence each; and whether weights were dequantised.
    """
    notes: list[str] = []
    is_dequantized = False
    if quantizations(model):
        dtype = form.dtype or _scale_dtype(model)
        dense_bytes = get_total_parameters(model) * DTYPES[dtype].size if dtype in DTYPES else 0
        size = f"{dense_bytes / 1e6:,.0f} MB"
        available = min(_MEMORY_SHARE * _available_bytes(), budget_bytes or float("inf"))
        is_chosen = form.dequantize is None and may_choose and on_cpu()
        if is_dequantized := bool(form.dequantize or (is_chosen and dense_bytes <= available)):
            dequantize_model(model)
            why = "; MLX's CPU backend is slow with quantised ones" if is_chosen else ""
            notes.append(f"quantised weights were dequantised to {dtype}, {size}{why}")
        elif is_chosen:
            notes.append(
                f"weights stay quantised, which is slow on MLX's CPU backend: plain {dtype} ones take {size}, and "
                f"{available / 1e6:,.0f} MB may be taken"
            )
    if form.dtype:
        changed = sorted({_name(array) for _, array in _floating(model)} - {form.dtype})
        if changed:
            model.set_dtype(DTYPES[form.dtype])
            notes.append(f"weights in {', '.join(changed)} became {form.dtype}")
    return notes, is_dequantized


def quantizations(model: nn.Module) -> list[pb.Quantization]:
    """The forms of quantised weights, the most frequent first."""
    found: Counter[tuple[int, int, str]] = Counter()
    for _, module in model.named_modules():
        if "scales" in module and hasattr(module, "bits"):
            quantised: Any = module
            found[int(quantised.bits), int(quantised.group_size), str(getattr(quantised, "mode", "affine"))] += 1
    return [
        pb.Quantization(bits=bits, group_size=group_size, mode=mode, matrices=count)
        for (bits, group_size, mode), count in found.most_common()
    ]


def _floating(model: nn.Module) -> list[tuple[str, mx.array]]:
    arrays: Any = tree_flatten(model.parameters())
    return [(name, array) for name, array in arrays if mx.issubdtype(array.dtype, mx.floating)]


def _scale_dtype(model: nn.Module) -> str:
    """The type of what dequantised weights become."""
    for name, array in _floating(model):
        if name.endswith(".scales"):
            return _name(array)
    return next((_name(array) for _, array in _floating(model)), "float32")


def _name(array: mx.array) -> str:
    return str(array.dtype).rpartition(".")[2]


def _available_bytes() -> int:
    """Memory that is free, as the system says; 0 where it does not."""
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0
