"""Files of weights: safetensors, with the plan as metadata."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format

from neuroscope.errors import DataConversionError
from neuroscope.v1 import weights_pb2 as pb
from neuroscope.vocabulary.tensors import Array
from neuroscope.weights.keys import WeightKey, file_name, key_of
from neuroscope.wire import safetensors_file

FORMAT = 1
_KEY = "neuroscope_weights"


def write(path: str | Path, plan: pb.WeightsPlan, weights: Mapping[WeightKey, Array]) -> None:
    """Writes weights by key."""
    from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

    arrays = {file_name(place): np.ascontiguousarray(array) for place, array in weights.items()}
    described = json_format.MessageToDict(plan, preserving_proto_field_name=True)
    save_file(arrays, Path(path), metadata={_KEY: json.dumps({"format": FORMAT, "plan": described})})


@contextmanager
def read(path: str | Path) -> Generator[tuple[pb.WeightsPlan, dict[WeightKey, Array]], None, None]:
    """The plan and the weights of a file. Arrays are valid within the block.

    Raises:
        DataConversionError: the file has other content, or plan and weights do not match.
    """
    try:
        arrays, metadata = safetensors_file.read(Path(path).read_bytes())
        description: Mapping[str, Any] = json.loads(metadata[_KEY])
        if description["format"] != FORMAT:
            raise DataConversionError(f"{path} has the format {description['format']}, not {FORMAT}", field="path")
        plan = json_format.ParseDict(description["plan"], pb.WeightsPlan())
        places = map(key_of, plan.tensors.tensors)
        yield plan, {place: arrays[file_name(place)] for place in places}
    except OSError as error:
        raise DataConversionError(f"{path}: {error.strerror or error}", field="path") from None
    except (ValueError, KeyError, TypeError, IndexError, json_format.ParseError):
        raise DataConversionError(f"{path} is no file of weights", field="path") from None
