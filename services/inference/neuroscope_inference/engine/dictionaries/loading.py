"""From a request to a dictionary that has been held against its model."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import DataConversionError, InvalidRequestError, UnknownSiteError
from neuroscope.v1 import dictionary_pb2 as pb
from neuroscope.v1 import site_pb2, tensor_pb2
from neuroscope.vocabulary.sites import COMPONENTS, Point, resolve
from neuroscope.vocabulary.tensors import Array, numpy_dtype, parse_dtype
from neuroscope_inference.engine.arrays import cast_dtype, from_numpy
from neuroscope_inference.engine.dictionaries import configuration as configurations
from neuroscope_inference.engine.dictionaries import weights as files
from neuroscope_inference.engine.dictionaries.configuration import DictionaryConfig
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary
from neuroscope_inference.engine.model import LoadedModel

_NOT_OF_IDS = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class CheckedDictionary:
    """A dictionary that has been held against its model, its tensors in numpy."""

    description: pb.Dictionary
    configuration: DictionaryConfig
    point: Point
    output: Point
    tensors: Mapping[str, Array]
    dtype: mx.Dtype

    def build(self, model: LoadedModel) -> Dictionary:
        """The dictionary; on the engine's thread."""
        weights = {name: _to_float32(tensor) for name, tensor in self.tensors.items()}
        if self.configuration.rescales and self.configuration.k:
            weights = files.rescale_decoder(weights)
        arrays = {name: from_numpy(tensor).astype(self.dtype) for name, tensor in weights.items()}
        mx.eval(list(arrays.values()))
        return Dictionary(
            self.description,
            self.point,
            self.output,
            model.layout.index[self.point],
            model.layout.index[self.output],
            arrays,
            self.configuration.normalisation,
            self.configuration.subtracts_bias,
        )


def check_dictionary(
    request: pb.LoadDictionaryRequest,
    model: LoadedModel,
    configuration_text: str | bytes,
    tensors: Mapping[str, Array],
    field: str,
) -> CheckedDictionary:
    """Holds a dictionary against its model. Nothing is kept when it raises.

    Args:
        request: what is asked for.
        model: what it is to be of.
        configuration_text: its cfg.json.
        tensors: by name.
        field: of the request that these came with.

    Raises:
        ModelCorruptError, ModelUnsupportedError: its parts do not fit together, or are not computed here.
        UnknownSiteError, UnavailableSiteError: the model does not have its site.
        InvalidRequestError: its widths are not those of its sites.
        DataConversionError: it cannot be kept in that type.
    """
    configuration = configurations.parse(configuration_text, field)
    weights = files.check_weights(tensors, configuration, field)
    point = _resolve_point(request.site, request.HasField("site"), configuration.hook_name, "site", field, model)
    output = point
    if configuration.is_transcoder:
        given = request.HasField("output_site")
        output = _resolve_point(request.output_site, given, configuration.hook_name_out, "output_site", field, model)
    elif request.HasField("output_site"):
        raise InvalidRequestError("the dictionary is no transcoder: it writes where it reads", field="output_site")
    for name, where, width in (("reads", point, weights.input_width), ("writes", output, weights.output_width)):
        found = _width(model, where)
        if found != width:
            raise InvalidRequestError(
                f"the dictionary {name} {width} numbers, and {where} of {model.description.model_id} has {found}",
                field=field,
            )
    if configuration.is_transcoder and (point == output or (point.layer or 0) > (output.layer or 0)):
        raise InvalidRequestError(f"a transcoder that reads {point} cannot write {output}", field=field)
    wire = request.dtype or parse_dtype(tensors["W_enc"].dtype.name)
    if wire == tensor_pb2.DATA_TYPE_FLOAT64:
        wire = tensor_pb2.DATA_TYPE_FLOAT32
    dtype = cast_dtype(wire, "dtype")
    nbytes = sum(tensor.size for tensor in weights.tensors.values()) * numpy_dtype(wire).itemsize
    dictionary_id = request.dictionary_id or _default_id(request.path, point)
    if _NOT_OF_IDS.search(dictionary_id):
        raise InvalidRequestError(
            f"{dictionary_id!r} is no name: letters, digits and . _ - make one", field="dictionary_id"
        )
    return CheckedDictionary(
        pb.Dictionary(
            dictionary_id=dictionary_id,
            model_id=model.description.model_id,
            path=request.path,
            architecture=configuration.architecture,
            site=point.to_message(),
            output_site=output.to_message(),
            feature_count=weights.feature_count,
            input_width=weights.input_width,
            output_width=weights.output_width,
            top_k=configuration.k,
            dtype=wire,
            length_bytes=nbytes,
            trained_on=configuration.trained_on,
            loaded_at_ms=int(time.time() * 1e3),
            warnings=configuration.warnings,
        ),
        configuration,
        point,
        output,
        weights.tensors,
        dtype,
    )


def _resolve_point(
    site: site_pb2.Site, is_given: bool, hook_name: str, asked: str, field: str, model: LoadedModel
) -> Point:
    """A site of the dictionary, of one layer and as wide as there are numbers."""
    if not is_given and not hook_name:
        raise InvalidRequestError(
            f"the configuration does not say where the dictionary is: name the {asked}", field=asked
        )
    where = asked if is_given else field
    try:
        points = resolve(
            site if is_given else configurations.parse_hook_name(hook_name), model.layout.num_layers, field=where
        )
    except UnknownSiteError as error:
        if not is_given:
            error.message = f"the configuration's {hook_name!r}: {error.message}; name the {asked}"
            error.args, error.field = (error.message,), asked
        raise
    if len(points) > 1:
        raise InvalidRequestError("a dictionary is of one layer", field=f"{where}.layer" if is_given else where)
    model.require_point(points[0], where)
    axes = COMPONENTS[points[0].component].axes
    if axes[1] != tensor_pb2.AXIS_POSITION or points[0].component == "expert_indices":
        raise InvalidRequestError(f"{points[0]} is no vector at each position", field=where)
    return points[0]


def _width(model: LoadedModel, point: Point) -> int:
    return math.prod(model.layout.state(point).axes_extents[2:])


def _default_id(path: str, point: Point) -> str:
    name = PurePath(path).name if path else str(point)
    return _NOT_OF_IDS.sub("-", name) or str(point)


def _to_float32(tensor: Array) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        single: NDArray[np.float32] = tensor.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataConversionError("a number of the dictionary is too large for float32")
    return single
