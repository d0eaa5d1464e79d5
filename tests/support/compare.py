"""Comparison of tensors with a reference, with messages that name the tensor and the worst entry."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MASKED_BELOW = -6e4
"""Attention scores below this are masked: -inf and the lowest finite float16, bfloat16 and float32 all are."""

ActivationName = tuple[str, int | None]
"""(component, layer), layer None for an activation of the whole model."""


def relative_error(a: ArrayLike, b: ArrayLike, *, exclude_masked: bool = False) -> float:
    """max|a - b| / max|b|, in float64; infinite when either holds a NaN or b is zero and a is not.

    Args:
        a: what is tested.
        b: the reference, of the same shape.
        exclude_masked: leave masked attention scores out. Both must mask the same entries, otherwise the error is
            infinite.

    Raises:
        ValueError: the shapes differ, or there is no entry to compare.
    """
    tested, reference = _same_shape(a, b)
    if exclude_masked:
        masked = reference < MASKED_BELOW
        if not np.array_equal(tested < MASKED_BELOW, masked):
            return float("inf")
        tested, reference = tested[~masked], reference[~masked]
    if reference.size == 0:
        raise ValueError("no entries to compare")
    difference = float(np.abs(_difference(tested, reference)).max())
    if np.isnan(difference):
        return float("inf")
    if difference == 0.0:
        return 0.0
    largest = float(np.abs(reference).max())
    return difference / largest if largest > 0.0 else float("inf")


def assert_close(
    name: str | ActivationName, a: ArrayLike, b: ArrayLike, *, tolerance: float, exclude_masked: bool = False
) -> None:
    """Assert `relative_error(a, b) <= tolerance`; the message names the tensor and the entry that is furthest off."""
    if problem := describe_difference(name, a, b, tolerance=tolerance, exclude_masked=exclude_masked):
        raise AssertionError(problem)


def assert_all_close(
    tested: Mapping[ActivationName, Any],
    reference: Mapping[ActivationName, Any],
    *,
    tolerance: float,
) -> None:
    """Assert that every tensor of `tested` is close to the one of the same (component, layer) in `reference`.

    Masked entries of `attention_scores` are left out. The message lists every tensor that is off, in order, so the
    first line shows where an error enters the model.

    Raises:
        ValueError: `tested` is empty.
    """
    if not tested:
        raise ValueError("no tensors to compare")
    problems: list[str] = []
    for name, tensor in tested.items():
        if name not in reference:
            problems.append(f"{format_name(name)}: not in the reference")
        elif problem := describe_difference(
            name, tensor, reference[name], tolerance=tolerance, exclude_masked=name[0] == "attention_scores"
        ):
            problems.append(problem)
    if problems:
        raise AssertionError(f"{len(problems)} of {len(tested)} tensors differ\n" + "\n".join(problems))


def describe_difference(
    name: str | ActivationName, a: ArrayLike, b: ArrayLike, *, tolerance: float, exclude_masked: bool = False
) -> str | None:
    """One line about a tensor that is off, None for one that is close enough."""
    tested, reference = np.asarray(a), np.asarray(b)
    if tested.shape != reference.shape:
        return f"{format_name(name)}: shape {tested.shape}, expected {reference.shape}"
    error = relative_error(tested, reference, exclude_masked=exclude_masked)
    if error <= tolerance:
        return None
    distance = np.abs(_difference(*_same_shape(tested, reference)))
    distance[np.isnan(distance)] = np.inf
    if exclude_masked:
        both_masked = (tested < MASKED_BELOW) & (reference < MASKED_BELOW)
        distance[both_masked] = 0.0
    worst = tuple(int(index) for index in np.unravel_index(int(distance.argmax()), distance.shape))
    return (
        f"{format_name(name)}: relative error {error:.3g} > {tolerance:.3g}, worst at {list(worst)} "
        f"of shape {tested.shape}: {tested[worst]:.9g}, expected {reference[worst]:.9g}"
    )


def format_name(name: str | ActivationName) -> str:
    """`("resid_post", 3)` as `resid_post[3]`, `("logits", None)` as `logits`."""
    if isinstance(name, str):
        return name
    component, layer = name
    return component if layer is None else f"{component}[{layer}]"


def _same_shape(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    tested, reference = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if tested.shape != reference.shape:
        raise ValueError(f"shapes differ: {tested.shape} and {reference.shape}")
    return tested, reference


def _difference(tested: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # inf - inf is a NaN, and a NaN is an infinite error
        return tested - reference
