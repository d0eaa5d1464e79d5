"""torch tensors as numpy arrays and back, where torch is installed. Nothing here imports it before somebody uses it.

bfloat16, which numpy lacks, is that of `ml_dtypes`; its bits pass as integers of the same size.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import DataConversionError

Array: TypeAlias = NDArray[np.generic]

_SIGNED = {"uint16": np.int16, "uint32": np.int32, "uint64": np.int64}


@cache
def bfloat16() -> np.dtype[np.generic]:
    """The numpy type of `ml_dtypes`, which is imported when the first such array comes."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor. A program that never imported torch has none."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_numpy(tensor: Any) -> Array:
    """The array of a torch tensor of any device; on the CPU it shares the tensor's memory."""
    torch: Any = sys.modules["torch"]
    plain = tensor.detach().cpu()
    if plain.dtype == torch.bfloat16:
        return plain.contiguous().view(torch.int16).numpy().view(bfloat16())
    return plain.numpy()


def to_torch(array: Array) -> Any:
    """A torch tensor of its own memory, of the array's type and bits.

    Raises:
        DataConversionError: torch is not installed.
    """
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        raise DataConversionError(
            "torch is not installed here: pip install torch, or use numpy", field="format"
        ) from None
    own = np.array(array, order="C")  # torch warns of arrays that cannot be written to
    if own.dtype.name == "bfloat16":
        return torch.from_numpy(own.view(np.int16)).view(torch.bfloat16)
    if own.dtype.name in _SIGNED:
        return torch.from_numpy(own.view(_SIGNED[own.dtype.name])).view(getattr(torch, own.dtype.name))
    return torch.from_numpy(own)
