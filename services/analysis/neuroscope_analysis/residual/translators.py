"""The translators of a tuned lens.

Belrose et al. 2023 (arXiv:2303.08112): x + x @ weight + bias translates the residual stream after a layer to that of
the last layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import tuned_lens_pb2 as pb
from neuroscope.vocabulary.tensors import from_message
from neuroscope_analysis.remote_model import RemoteModel

Floats = NDArray[np.float32]
MARKED_WEIGHTS = ("W_E", "W_U", "final_norm.w")
"""Weights whose norms identify a model."""
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Translators:
    """Translators by point; point 0 is the residual stream before the first layer.

    Args:
        maps: weight (d_model, d_model) and bias (d_model,).
    """

    maps: Mapping[int, tuple[Floats, Floats]]

    @classmethod
    async def from_message(cls, lens: pb.TunedLens, model: RemoteModel) -> Translators:
        """The translators of a tuned lens, validated against the model.

        Raises:
            InvalidRequestError: the lens belongs to another model, or a translator is invalid.
        """
        described = model.info.model
        known = {mark.name: mark.norm for mark in await weight_marks(model)}
        if not lens.translators:
            raise InvalidRequestError("the lens has no translators", field="translators")
        width, maps = described.d_model, dict[int, tuple[Floats, Floats]]()
        for index, each in enumerate(lens.translators):
            path = f"translators[{index}]"
            if not -1 <= each.layer < described.num_layers - 1:
                raise InvalidRequestError(
                    f"there is nothing to translate behind layer {each.layer}: {model.model_id} has "
                    f"{described.num_layers} layers",
                    field=f"{path}.layer",
                )
            if each.layer + 1 in maps:
                raise InvalidRequestError(f"layer {each.layer} is there twice", field=f"{path}.layer")
            found: list[Floats] = []
            for name, shape in (("weight", (width, width)), ("bias", (width,))):
                array = from_message(getattr(each, name), field=f"{path}.{name}")
                if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                    raise InvalidRequestError(
                        f"{name} of a translator of {model.model_id} is float32 {list(shape)}, finite; this is "
                        f"{array.dtype.name} {list(array.shape)}: a lens of another model?",
                        field=f"{path}.{name}",
                    )
                found.append(np.asarray(array, np.float32))
            maps[each.layer + 1] = found[0], found[1]
        for mark in lens.marks:
            if mark.name in known and not math.isclose(mark.norm, known[mark.name], rel_tol=_TOLERANCE):
                raise InvalidRequestError(
                    f"the lens was trained on {lens.model_id!r}, another model than {model.model_id!r}: the norm of "
                    f"its {mark.name} is {mark.norm:g}, not {known[mark.name]:g}",
                    field="model_id",
                )
        return cls(maps)

    def translate(self, point: int, stream: Floats) -> Floats:
        """Translates residual streams (..., d_model) of a point."""
        if point not in self.maps:
            return stream
        weight, bias = self.maps[point]
        return (stream + stream @ weight + bias).astype(np.float32)


async def weight_marks(model: RemoteModel) -> list[pb.WeightMark]:
    """The marks that identify a model."""
    weights = await model.weights("embedding", "unembedding", content="summaries")
    return [
        pb.WeightMark(name=name, norm=summary.norm)
        for (name, _), summary in weights.summaries.items()
        if name in MARKED_WEIGHTS
    ]
