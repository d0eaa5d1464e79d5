"""A tuned lens (Belrose et al. 2023, arXiv:2303.08112): an affine translator for each layer, with provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.v1 import tuned_lens_pb2 as pb
from neuroscope.vocabulary import tensors
from neuroscope.wire import safetensors_file
from neuroscope.wire.grpc_transport import MAX_MESSAGE_BYTES

Floats = NDArray[np.float32]
FORMAT = 1
_KEY = "neuroscope_tuned_lens"
_ROOM_BYTES = 2**20
"""Bytes of a request reserved for everything but the lens."""


@dataclass(frozen=True, slots=True, eq=False)
class TunedLens:
    """Translators of one model: x + x @ weight + bias maps the stream of a point to the basis of the last point."""

    model_id: str
    """The model that the lens was trained on."""
    marks: Mapping[str, float]
    """Norms of some weights of the model, to recognise it."""
    weights: Mapping[int, Floats]
    """Weights by point, 0 for the stream before the first layer (d_model, d_model)."""
    biases: Mapping[int, Floats]
    """Biases by point (d_model,)."""
    provenance: Mapping[str, Any]
    """Objective, penalty, digest of the texts, token counts, held-out KL before and after."""

    def translated(self, point: int, stream: NDArray[np.floating[Any]]) -> Floats:
        """Maps streams (..., d_model) of a point to the basis of the last point."""
        if point not in self.weights:
            return stream.astype(np.float32)
        return (stream + stream @ self.weights[point] + self.biases[point]).astype(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of all translators."""
        return sum(array.nbytes for arrays in (self.weights, self.biases) for array in arrays.values())

    def to_message(self) -> pb.TunedLens:
        """The contract's message.

        Raises:
            InvalidRequestError: the lens does not fit into a request.
        """
        if self.nbytes > MAX_MESSAGE_BYTES - _ROOM_BYTES:
            raise InvalidRequestError(
                f"a lens of {self.nbytes / 1e6:.0f} MB does not fit into a request of at most "
                f"{MAX_MESSAGE_BYTES / 1e6:.0f}: leave out translators of some layers with `only`",
                field="tuned_lens",
            )
        return pb.TunedLens(
            model_id=self.model_id,
            marks=[pb.WeightMark(name=name, norm=norm) for name, norm in self.marks.items()],
            translators=[
                pb.Translator(
                    layer=point - 1,
                    weight=tensors.to_message(self.weights[point]),
                    bias=tensors.to_message(self.biases[point]),
                )
                for point in self.weights
            ],
        )

    def only(self, *points: int) -> TunedLens:
        """A lens with the translators of some points; the logit lens applies to others."""
        return TunedLens(
            self.model_id,
            self.marks,
            {point: self.weights[point] for point in points},
            {point: self.biases[point] for point in points},
            self.provenance,
        )

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file: tensors weight.POINT and bias.POINT, other fields as metadata."""
        from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

        arrays = {f"weight.{point}": array for point, array in self.weights.items()}
        arrays |= {f"bias.{point}": array for point, array in self.biases.items()}
        about = {
            "format": FORMAT,
            "model_id": self.model_id,
            "marks": dict(self.marks),
            "provenance": dict(self.provenance),
        }
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}, Path(path), {_KEY: json.dumps(about)}
        )

    @classmethod
    def load(cls, path: str | Path) -> TunedLens:
        """Reads a file written by `save`.

        Raises:
            DataConversionError: the file has other content.
        """
        try:
            arrays, metadata = safetensors_file.read(Path(path).read_bytes())
            about: Mapping[str, Any] = json.loads(metadata[_KEY])
            if about["format"] != FORMAT:
                raise DataConversionError(f"{path} has the format {about['format']}, not {FORMAT}", field="path")
            points = sorted(int(name.split(".")[1]) for name in arrays if name.startswith("weight."))
            return cls(
                about["model_id"],
                about["marks"],
                {point: arrays[f"weight.{point}"].astype(np.float32) for point in points},
                {point: arrays[f"bias.{point}"].astype(np.float32) for point in points},
                about["provenance"],
            )
        except OSError as error:
            raise DataConversionError(f"{path}: {error.strerror or error}", field="path") from None
        except (ValueError, KeyError, TypeError, IndexError):
            raise DataConversionError(f"{path} is not a tuned lens", field="path") from None
