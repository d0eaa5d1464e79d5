"""The tensors of a dictionary: which there must be, and that their shapes agree."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ModelCorruptError, ModelNotFoundError, ModelUnsupportedError
from neuroscope.v1 import dictionary_pb2 as pb
from neuroscope.vocabulary.tensors import Array
from neuroscope.wire import safetensors_file
from neuroscope_inference.engine.dictionaries.configuration import DictionaryConfig

CONFIGURATION, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_FACTORS = ("scaling_factor", "finetuning_scaling_factor")


@dataclass(frozen=True, slots=True)
class DictionaryFiles:
    """A dictionary's files, opened."""

    configuration: bytes
    tensors: Mapping[str, Array]


def open_folder(folder: Path | None, path: str, field: str) -> DictionaryFiles:
    """The files of a folder; tensors are read when they are looked at.

    Args:
        folder: where they are; None: there is no such folder.
        path: what the request calls it.
        field: of the request.

    Raises:
        ModelNotFoundError: there is no folder, or it lacks a file.
        ModelCorruptError: the file of tensors is none.
    """
    if folder is None or not folder.is_dir():
        raise ModelNotFoundError(
            f"there is no folder {path!r}: a dictionary has {CONFIGURATION} and {WEIGHTS}", field=field
        )
    for name in (CONFIGURATION, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelNotFoundError(
                f"{path!r} has no {name}: a dictionary has {CONFIGURATION} and {WEIGHTS}", field=field
            )
    try:
        with (folder / WEIGHTS).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        tensors, _ = safetensors_file.read(mapped)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelCorruptError(f"{WEIGHTS} of {path!r} is no safetensors: {error}", field=field) from None
    return DictionaryFiles((folder / CONFIGURATION).read_bytes(), tensors)


@dataclass(frozen=True, slots=True)
class DictionaryWeights:
    """The tensors of a dictionary, by their names in the file, and its widths."""

    tensors: Mapping[str, Array]
    input_width: int
    feature_count: int
    output_width: int


def check_weights(tensors: Mapping[str, Array], configuration: DictionaryConfig, field: str) -> DictionaryWeights:
    """The tensors that a configuration asks for.

    Raises:
        ModelCorruptError: one is missing, of another shape, or holds what is no number.
        ModelUnsupportedError: a scaling factor would have to be applied.
    """
    if "W_enc" not in tensors or "W_dec" not in tensors:
        raise _missing_error("W_enc" if "W_enc" not in tensors else "W_dec", tensors, field)
    for name in ("W_enc", "W_dec"):
        if tensors[name].ndim != 2:
            raise ModelCorruptError(f"{name} has the shape {list(tensors[name].shape)}: it has two axes", field=field)
    d_in, d_sae = tensors["W_enc"].shape
    d_out = tensors["W_dec"].shape[1]
    shapes = _shapes(configuration, tensors, d_in, d_sae, d_out)
    for name, shape in shapes.items():
        if name not in tensors:
            raise _missing_error(name, tensors, field)
        if tensors[name].shape != shape:
            raise ModelCorruptError(
                f"{name} has the shape {list(tensors[name].shape)}, where W_enc ({d_in}, {d_sae}) asks for "
                f"{list(shape)}",
                field=field,
            )
    for name, said, found in (("d_in", configuration.input_width, d_in), ("d_sae", configuration.feature_count, d_sae)):
        if said and said != found:
            raise ModelCorruptError(f"the configuration says {name} {said}, and W_enc has {found}", field=field)
    if configuration.k > d_sae:
        raise ModelCorruptError(
            f"the configuration says k {configuration.k}, and there are {d_sae} features", field=field
        )
    for name in _FACTORS:
        if name in tensors and not (tensors[name].astype(np.float32) == 1).all():
            raise ModelUnsupportedError(
                f"the dictionary has a {name} other than 1, which is not applied here", field=field
            )
    found = {name: tensors[name] for name in shapes}
    for name, tensor in found.items():
        if tensor.dtype.kind in "iub" or not np.isfinite(tensor.astype(np.float32, copy=False)).all():
            raise ModelCorruptError(f"{name} holds what are no finite floating-point numbers", field=field)
    return DictionaryWeights(found, d_in, d_sae, d_out)


def rescale_decoder(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Weights whose decoder rows have the length 1, and which give the same reconstructions from rescaled features."""
    norms = np.linalg.norm(weights["W_dec"], axis=1)
    return {
        **weights,
        "W_enc": weights["W_enc"] * norms,
        "b_enc": weights["b_enc"] * norms,
        "W_dec": weights["W_dec"] / norms[:, None],
    }


def _shapes(
    configuration: DictionaryConfig, tensors: Mapping[str, Array], d_in: int, d_sae: int, d_out: int
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_out if configuration.is_transcoder else d_in),
        "b_dec": (d_out if configuration.is_transcoder else d_in,),
    }
    if configuration.architecture == pb.DICTIONARY_ARCHITECTURE_GATED:
        return {**shapes, "b_gate": (d_sae,), "b_mag": (d_sae,), "r_mag": (d_sae,)}
    shapes["b_enc"] = (d_sae,)
    if configuration.architecture == pb.DICTIONARY_ARCHITECTURE_JUMPRELU:
        shapes["threshold"] = (d_sae,)
    if configuration.has_skip or (configuration.is_transcoder and "W_skip" in tensors):
        shapes["W_skip"] = (d_out, d_in)
    return shapes


def _missing_error(name: str, tensors: Mapping[str, Array], field: str) -> ModelCorruptError:
    there = ", ".join(sorted(tensors)) or "none"
    return ModelCorruptError(f"the dictionary has no tensor {name}; it has {there}", field=field, valid=(name,))
