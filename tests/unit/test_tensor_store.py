"""Uploaded tensors: ids by content, time to live, the byte budget, and what is refused.

python -m pytest tests/unit/test_tensor_store.py
"""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from neuroscope.errors import DataConversionError, InvalidRequestError, ResourceExhaustedError, UnknownIdError
from neuroscope.v1 import tensor_pb2 as pb
from neuroscope_inference.tensor_store import MAX_TIME_TO_LIVE_S, TensorStore

F32 = pb.DATA_TYPE_FLOAT32


class Clock:
    """Unix time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> TensorStore:
    return TensorStore(max_bytes=1000, ttl_seconds=60, clock=clock)


def put(store: TensorStore, array: Any, **options: Any) -> Any:
    array = np.asarray(array, np.float32)
    return store.put(F32, array.shape, array.tobytes(), **options)


def test_a_tensor_comes_back_as_it_was(store: TensorStore) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = store.get(put(store, array).tensor_id)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable


def test_bfloat16_is_that_of_ml_dtypes(store: TensorStore) -> None:
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    stored = store.put(pb.DATA_TYPE_BFLOAT16, (2,), array.tobytes())
    assert store.get(stored.tensor_id).dtype == ml_dtypes.bfloat16
    assert store.get(stored.tensor_id).tolist() == [1.5, -2.0]


def test_one_content_has_one_id_and_another_has_another(store: TensorStore) -> None:
    first = put(store, [1, 2, 3, 4]).tensor_id
    assert put(store, [1, 2, 3, 4]).tensor_id == first
    assert put(store, [[1, 2], [3, 4]]).tensor_id != first, "another shape"
    data = np.array([1, 2, 3, 4], np.float32).tobytes()
    assert store.put(pb.DATA_TYPE_INT32, (4,), data).tensor_id != first, "another type"
    assert put(store, [1, 2, 3, 5]).tensor_id != first


def test_a_tensor_goes_when_its_time_is_over(store: TensorStore, clock: Clock) -> None:
    stored = put(store, [1])
    assert stored.expires_at_s == clock.now_s + 60
    clock.now_s += 59
    store.get(stored.tensor_id)
    clock.now_s += 2
    with pytest.raises(UnknownIdError) as caught:
        store.get(stored.tensor_id, field="interventions[0].by")
    assert caught.value.field == "interventions[0].by"


def test_the_same_content_again_renews_it_and_never_shortens_its_stay(store: TensorStore, clock: Clock) -> None:
    stored = put(store, [1])
    clock.now_s += 50
    assert put(store, [1]).expires_at_s == clock.now_s + 60
    assert put(store, [1], time_to_live_ms=5).expires_at_s == clock.now_s + 60
    clock.now_s += 50
    assert store.get(stored.tensor_id).tolist() == [1]


def test_an_unknown_id_names_the_nearest(store: TensorStore) -> None:
    known = put(store, [1]).tensor_id
    with pytest.raises(UnknownIdError, match=known) as caught:
        store.get(known[:-1])
    assert caught.value.valid == (known,)


def test_what_does_not_fit_is_refused_until_something_goes(store: TensorStore, clock: Clock) -> None:
    with store.reserve(800):
        put(store, np.zeros(200))
    with pytest.raises(ResourceExhaustedError, match="hold 800 of 1000, and the next of them goes in 60 s"):
        store.reserve(204).__enter__()
    clock.now_s += 61
    with store.reserve(1000):
        pass


def test_tensors_that_are_arriving_count(store: TensorStore) -> None:
    with store.reserve(600):
        with pytest.raises(ResourceExhaustedError):
            store.reserve(600).__enter__()
        with store.reserve(400):
            pass
    with store.reserve(600):
        pass


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [pb.DATA_TYPE_FLOAT32, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16])
def test_a_value_that_is_not_finite_is_refused_with_its_position(store: TensorStore, value: float, dtype: Any) -> None:
    types: dict[Any, Any] = {F32: np.float32, pb.DATA_TYPE_FLOAT16: np.float16}
    array = np.ones((3, 4), types.get(dtype, ml_dtypes.bfloat16))
    array[1, 2] = array[2, 0] = value
    with pytest.raises(DataConversionError, match=r"\[1, 2\] is not finite, as are 2 of the tensor's 12") as caught:
        store.put(dtype, (3, 4), array.tobytes())
    assert caught.value.field == "header.data"


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "field"),
    [
        (pb.DATA_TYPE_UNSPECIFIED, (1,), bytes(4), "header.dtype"),
        (99, (1,), bytes(4), "dtype"),
        (F32, (2,), bytes(4), "header.data"),
        (F32, (2,), bytes(12), "header.data"),
        (F32, (0, 3), b"", "header.shape"),
        (F32, (-1,), bytes(4), "header.shape"),
        (F32, (1,) * 17, bytes(4), "header.shape"),
        (F32, (2**40, 2**40), bytes(4), "header.shape"),
        (pb.DATA_TYPE_BOOL, (2,), bytes([1, 2]), "header.data"),
    ],
)
def test_what_is_no_tensor_is_refused(
    store: TensorStore, dtype: Any, shape: tuple[int, ...], data: bytes, field: str
) -> None:
    with pytest.raises((InvalidRequestError, DataConversionError)) as caught:
        store.put(dtype, shape, data)
    assert caught.value.field == field


def test_nothing_stays_forever(store: TensorStore) -> None:
    with pytest.raises(InvalidRequestError, match="at most") as caught:
        put(store, [1], time_to_live_ms=1000 * MAX_TIME_TO_LIVE_S + 1)
    assert caught.value.field == "header.time_to_live_ms"
