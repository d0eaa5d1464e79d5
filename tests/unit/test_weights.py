"""Factored matrices are the products that they stand for; named arrays keep the numbers of their layers and heads.

python -m pytest tests/unit/test_weights.py
"""

from typing import Any

import numpy as np
import pytest

from neuroscope.errors import DataConversionError, InvalidRequestError, StreamingError
from neuroscope.v1 import tensor_pb2
from neuroscope.weights import FactoredMatrix, WeightArray, Weights
from neuroscope.weights.names import GROUPS, WEIGHTS, resolved
from neuroscope.wire.codec import Frame
from neuroscope.wire.frames import FramePacker, FrameReader, TensorPart

RANDOM = np.random.default_rng(0)
A, B = RANDOM.standard_normal((2, 3, 10, 4)), RANDOM.standard_normal((2, 3, 4, 10))
BATCH = FactoredMatrix(A, B)
ONE = BATCH[1, 2]
DENSE = A[1, 2] @ B[1, 2]


def test_a_factored_matrix_is_its_product() -> None:
    assert BATCH.shape == (2, 3, 10, 10)
    assert BATCH.ndim == 4
    np.testing.assert_allclose(ONE.dense(), DENSE)
    np.testing.assert_allclose(np.asarray(ONE), DENSE)
    np.testing.assert_allclose(ONE.T.AB, DENSE.T)
    np.testing.assert_allclose(BATCH.norm(), np.linalg.norm(A @ B, axis=(-2, -1)))
    np.testing.assert_allclose((2 * ONE * 3).AB, 6 * DENSE)


def test_its_singular_values_and_eigenvalues() -> None:
    U, S, Vh = BATCH.svd()
    np.testing.assert_allclose((U * S[..., None, :]) @ Vh, A @ B, atol=1e-12)
    np.testing.assert_allclose(S, np.linalg.svd(A @ B)[1][..., :4], atol=1e-12)
    np.testing.assert_allclose(U.swapaxes(-1, -2) @ U, np.broadcast_to(np.eye(4), (2, 3, 4, 4)), atol=1e-12)
    exact = np.linalg.eigvals(DENSE)
    largest = exact[np.argsort(-np.abs(exact))][:4]
    np.testing.assert_allclose(np.sort_complex(ONE.eigenvalues()), np.sort_complex(largest), atol=1e-10)
    with pytest.raises(DataConversionError, match="no eigenvalues"):
        FactoredMatrix(A[0, 0], B[0, 0][:, :7]).eigenvalues()


def test_products() -> None:
    x = RANDOM.standard_normal(10)
    matrix = RANDOM.standard_normal((10, 6))
    np.testing.assert_allclose(ONE @ x, DENSE @ x)
    np.testing.assert_allclose(x @ ONE, x @ DENSE)
    np.testing.assert_allclose((ONE @ matrix).AB, DENSE @ matrix)
    from_left: Any = matrix.T @ ONE
    np.testing.assert_allclose(from_left.AB, matrix.T @ DENSE)
    np.testing.assert_allclose(x @ BATCH, x @ (A @ B))
    np.testing.assert_allclose(BATCH @ x, A @ B @ x)
    thin = FactoredMatrix(A[0, 0][:, :2], B[0, 0][:2])
    for product, exact in ((ONE @ thin, DENSE @ thin.AB), (thin @ ONE, thin.AB @ DENSE)):
        np.testing.assert_allclose(product.AB, exact)
        assert product.rank == 2
    np.testing.assert_allclose((BATCH @ ONE).AB, A @ B @ DENSE)
    with pytest.raises(DataConversionError, match="no factors"):
        FactoredMatrix(A[0, 0], A[0, 0])


def named(**changes: Any) -> WeightArray:
    values = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    fields: dict[str, Any] = {
        "dims": ("layer", "head", "d_model"),
        "coords": {"layer": [1, 5], "head": [0, 2, 3]},
        "extents": {"layer": 6, "head": 4},
    }
    return WeightArray("W", values, **(fields | changes))


def test_numbers_are_those_of_layers_and_heads() -> None:
    array = named()
    values = np.asarray(array)
    assert np.array_equal(array[5, 3], values[1, 2])
    assert np.array_equal(array[-1, -1], values[1, 2])
    assert np.array_equal(array[:, 2, 1:3], values[:, 1, 1:3])
    assert np.array_equal(array[2:, [3, 0]], values[1:][:, [2, 0]])
    assert np.array_equal(array[np.int64(1)], values[0])
    assert np.array_equal(array.sel(head=2, d_model=3), values[:, 1, 3])
    assert array.sizes == {"layer": 2, "head": 3, "d_model": 4}
    assert repr(array) == "WeightArray(W, layer: 2, head: 3, d_model: 4, float32)"


@pytest.mark.parametrize(
    ("index", "field", "text"),
    [
        ((0,), "layer", "no layer 0; there were read 1, 5"),
        ((1, 1), "head", "no head 1; there were read 0, 2, 3"),
        ((1, [0, 7]), "head", "no head 7"),
        ((1, 0, 0, 0), "index", "has the axes layer, head, d_model"),
        ((..., 0), "index", "indexed by numbers"),
    ],
)
def test_numbers_that_are_not_there(index: Any, field: str, text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text) as refused:
        _ = named()[index]
    assert refused.value.field == field


def test_names() -> None:
    assert resolved(["W_out", "qk", "W_Q"], field="names")[:2] == ["W_Q", "b_Q"]
    assert set(resolved(GROUPS, field="names")) == set(WEIGHTS)
    with pytest.raises(InvalidRequestError, match="did you mean W_Q") as refused:
        resolved(["w_q"], field="names")
    assert refused.value.field == "names[0]"


def test_weights_before_they_have_come() -> None:
    weights = Weights()
    assert repr(weights) == "Weights()"
    with pytest.raises(StreamingError, match="plan"):
        _ = weights.names
    with pytest.raises(AttributeError, match="was not read"):
        _ = weights.W_Q
    with pytest.raises(StreamingError, match="ended before"):
        weights.finish()


@pytest.mark.parametrize("slice_bytes", [7, 100, 10_000])
@pytest.mark.parametrize("portions", [1, 3, 40])
def test_a_tensor_in_portions_is_read_as_one(portions: int, slice_bytes: int) -> None:
    array = RANDOM.standard_normal((40, 5)).astype(np.float32)
    spec = tensor_pb2.TensorSpec(
        dtype=tensor_pb2.DATA_TYPE_FLOAT32, axes=[tensor_pb2.AXIS_D_MODEL, tensor_pb2.AXIS_D_MLP], shape=[40, 5]
    )
    packer, reader = FramePacker([spec], slice_bytes), FrameReader(tensor_pb2.TensorPlan(tensors=[spec]))
    frames: list[Frame] = []
    offset = 0
    for part in np.array_split(array, portions):
        data = np.ascontiguousarray(part).data.cast("B")
        frames += packer.pack_part(0, TensorPart(0, 0, array.shape, offset, array.nbytes, data))
        offset += data.nbytes
    pieces = [piece for frame in frames for piece in reader.read(frame)]
    assert len(pieces) == 1
    assert np.array_equal(pieces[0].array, array)
    assert packer.digests[0, 0].checksum == reader.digests[0, 0].checksum
