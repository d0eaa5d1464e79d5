"""neuroscope.cli.demo.verification: what the demo claims is refused when it is not so."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xxhash

from neuroscope.activations.lens import LogitLens
from neuroscope.cli.demo import verification
from neuroscope.cli.demo.rest import RestActivation
from neuroscope.tracing import telemetry
from neuroscope.vocabulary.sites import Point
from tests.support import traces

POINT = Point("resid_post", 0)


def piece(array: np.ndarray) -> Any:
    return SimpleNamespace(array=array, checksum=xxhash.xxh3_64_intdigest(array.tobytes()))


def rest(array: np.ndarray) -> RestActivation:
    return RestActivation("residual", "transformer.h.0", array.astype(np.float32))


class Cache(dict[Any, np.ndarray]):
    """What `compare_with_one_pass` and the lens read of a cache."""

    @property
    def points(self) -> list[Any]:
        return list(self)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_equal_pieces_pass_in_their_own_type(dtype: type):
    array = np.linspace(-1, 1, 12).reshape(1, 3, 4).astype(dtype)
    verified = verification.compare_pieces({"a": [piece(array)] * 2}, {"a": [rest(array)] * 2})
    assert verified.passed
    assert verified.detail.startswith("2 tensors, ")


def test_one_changed_bit_fails():
    array = np.ones((1, 3, 4), np.float32)
    changed = array.copy()
    changed[0, 1, 2] = np.nextafter(np.float32(1), np.float32(2))
    verified = verification.compare_pieces({"a": [piece(array)]}, {"a": [rest(changed)]})
    assert not verified.passed
    assert verified.detail == "a, piece 0: the checksums differ"


@pytest.mark.parametrize(
    ("other", "detail"),
    [
        ({}, "hooks differ"),
        ({"a": []}, "1 pieces over gRPC, 0 over REST"),
        ({"a": [rest(np.ones((1, 4, 3)))]}, r"(1, 3, 4) over gRPC, (1, 4, 3) over REST"),
    ],
)
def test_missing_and_misshapen_pieces_fail(other: Any, detail: str):
    verified = verification.compare_pieces({"a": [piece(np.ones((1, 3, 4), np.float32))]}, other)
    assert not verified.passed
    assert detail in verified.detail


def test_nothing_captured_is_no_proof():
    assert not verification.compare_pieces({}, {}).passed
    assert not verification.compare_with_one_pass(Cache(), Cache(), "float32").passed  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("error", "passed"), [(0.0, True), (0.9e-5, True), (1.1e-5, False), (np.nan, False)])
def test_one_pass_is_compared_relative_to_the_largest_value(error: float, passed: bool):
    whole = np.full((1, 2, 2), 100.0)
    steps = whole.copy()
    steps[0, 0, 0] += 100 * error
    other = np.ones((1, 1))
    verified = verification.compare_with_one_pass(
        Cache({POINT: steps, Point("mlp_out", 0): other}),  # pyright: ignore[reportArgumentType]
        Cache({POINT: whole, Point("mlp_out", 0): other}),  # pyright: ignore[reportArgumentType]
        "float32",
    )
    assert verified.passed is passed
    if not passed:
        assert "resid_post.0" in verified.detail


def test_another_shape_fails():
    steps, whole = Cache({POINT: np.ones((1, 2))}), Cache({POINT: np.ones((1, 3))})
    assert not verification.compare_with_one_pass(steps, whole, "float32").passed  # pyright: ignore[reportArgumentType]


LENS = LogitLens(np.ones(2, np.float32), np.array([[4, 0], [0, 4], [-4, -4]], np.float32), 0.0)


def tokens(*ids: int) -> list[Any]:
    residual = np.eye(2, dtype=np.float32)[list(ids)]
    logs = LENS.log_probabilities(residual)
    return [
        SimpleNamespace(step=step, token_id=token_id, logprob=float(logs[step, token_id]))
        for step, token_id in enumerate(ids)
    ]


def test_the_lens_is_compared_at_the_positions_that_gave_tokens():
    residual = np.concatenate([np.zeros((3, 2)), np.eye(2)]).astype(np.float32)[None]
    lens_cache: Any = {("resid_post", -1): residual}
    assert verification.check_lens(LENS, lens_cache, tokens(0, 1), "float32").passed
    verified = verification.check_lens(LENS, lens_cache, tokens(1, 0), "float32")
    assert not verified.passed
    assert verified.detail == "another token in steps [0, 1]"
    shifted = tokens(0, 1)
    shifted[1].logprob += 0.01
    assert not verification.check_lens(LENS, lens_cache, shifted, "float32").passed


def test_a_trace_needs_all_services_and_no_orphan():
    names = ("neuroscope-client", "neuroscope-gateway", "neuroscope-inference")
    client, gateway, inference = traces.generation(3)
    whole = verification.check_single_trace(telemetry.merge([client, gateway, inference]), names)
    assert whole.passed
    assert whole.detail == "10 spans, no orphan"
    assert (
        "no span of neuroscope-inference"
        in verification.check_single_trace(telemetry.merge([client, gateway]), names).detail
    )
    torn = verification.check_single_trace(telemetry.merge([client, inference]), names[::2])
    assert not torn.passed
    assert torn.detail == "2 roots: neuroscope.generate, Generate"
