"""References of requests to tensors.

python -m pytest tests/unit/test_tensor_references.py
"""

import numpy as np
import pytest
import xxhash

from neuroscope.errors import ChecksumError, DataConversionError, InvalidRequestError, UnknownIdError
from neuroscope.v1 import tensor_pb2 as pb
from neuroscope_inference.tensor_references import TensorReferences
from neuroscope_inference.tensor_store import TensorStore

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
FIELD = "interventions[0].by"


@pytest.fixture
def store() -> TensorStore:
    return TensorStore(max_bytes=1000, ttl_seconds=60)


def inline(array: np.ndarray, **fields: int) -> pb.TensorReference:
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=array.shape, data=array.tobytes())
    for name, value in fields.items():
        setattr(tensor, name, value)
    return pb.TensorReference(inline=tensor)


def test_an_uploaded_tensor(store: TensorStore) -> None:
    stored = store.put(pb.DATA_TYPE_FLOAT32, ARRAY.shape, ARRAY.tobytes())
    found = TensorReferences(store).resolve_tensor(pb.TensorReference(tensor_id=stored.tensor_id), FIELD)
    np.testing.assert_array_equal(found, ARRAY)


def test_an_inline_tensor_with_and_without_its_checksum(store: TensorStore) -> None:
    references = TensorReferences(store)
    np.testing.assert_array_equal(references.resolve_tensor(inline(ARRAY), FIELD), ARRAY)
    checksum = xxhash.xxh3_64_intdigest(ARRAY.tobytes())
    np.testing.assert_array_equal(references.resolve_tensor(inline(ARRAY, xxh3_64=checksum), FIELD), ARRAY)


@pytest.mark.parametrize(
    ("reference", "error", "field"),
    [
        (pb.TensorReference(), InvalidRequestError, FIELD),
        (pb.TensorReference(tensor_id="abc"), UnknownIdError, f"{FIELD}.tensor_id"),
        (inline(ARRAY, xxh3_64=1), ChecksumError, f"{FIELD}.inline"),
        (inline(ARRAY, dtype=pb.DATA_TYPE_UNSPECIFIED), DataConversionError, f"{FIELD}.inline.dtype"),
        (inline(ARRAY, dtype=pb.DATA_TYPE_FLOAT16), InvalidRequestError, f"{FIELD}.inline.data"),
        (inline(np.full((2, 3), np.inf, np.float32)), DataConversionError, f"{FIELD}.inline.data"),
    ],
)
def test_what_means_no_tensor_is_refused(
    store: TensorStore, reference: pb.TensorReference, error: type[Exception], field: str
) -> None:
    with pytest.raises(error) as caught:
        TensorReferences(store).resolve_tensor(reference, FIELD)
    assert getattr(caught.value, "field") == field  # noqa: B009 - of the tree's errors, which pytest does not know
