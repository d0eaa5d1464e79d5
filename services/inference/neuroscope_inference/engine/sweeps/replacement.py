"""What cells put in the place of an activation, as an expression over the rows of a pair."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, tensor_pb2
from neuroscope.vocabulary.sites import Component
from neuroscope_inference.engine.sweeps.cells import uses_other_rows
from neuroscope_inference.engine.sweeps.pair import CLEAN, CORRUPTED, FIRST_REFERENCE, Pair

MEAN = "mean over the references"
"""Tensor id by which expressions of generated tokens name it."""


class ReplacementValue:
    """The value of a grid's cells.

    Args:
        message: of the request.
        path: where it stands there.
        component: what is edited.

    Raises (from the constructor):
        InvalidRequestError: the value is missing, or is a mean over positions that the component's columns are.
    """

    def __init__(self, message: pb.SweepValue, path: str, component: Component) -> None:
        self._message, self._path = message, path
        which = message.WhichOneof("value")
        if which is None:
            raise InvalidRequestError("what is put in the place of the activation is missing", field=path)
        has_columns = tensor_pb2.AXIS_KEY_POSITION in component.axes
        if which == "mean" and has_columns and not message.mean.by_position:
            raise InvalidRequestError(
                f"{component.name} has key positions, which no mean over positions keeps apart: by_position",
                field=f"{path}.mean",
            )

    def expression(self, cell: int, pair: Pair) -> intervention_pb2.Expression:
        """What a cell, by its number in the request, puts there.

        Raises:
            InvalidRequestError: there are no references to draw from.
        """
        value = self._message
        match value.WhichOneof("value"):
            case "other_run":
                return _other_row(CORRUPTED if pair.edited_row == CLEAN else CLEAN)
            case "constant":
                return intervention_pb2.Expression(constant=value.constant)
            case "mean":
                return _other_row(pair.mean_by_position_row if value.mean.by_position else pair.mean_row)
            case "resample":
                if not pair.references:
                    raise InvalidRequestError("there are no reference prompts to draw from", field="references")
                draw = np.random.default_rng([value.resample.seed, pair.index, cell])
                return _other_row(FIRST_REFERENCE + int(draw.integers(len(pair.references))))
            case "noise":
                return intervention_pb2.Expression(
                    binary=intervention_pb2.BinaryOperation(
                        operator=intervention_pb2.BINARY_OPERATOR_ADD,
                        left=intervention_pb2.Expression(activation=intervention_pb2.Activation()),
                        right=intervention_pb2.Expression(noise=value.noise),
                    )
                )
            case _:
                return value.expression

    def generation_expression(self, cell: int, pair: Pair) -> intervention_pb2.Expression | None:
        """What a cell puts in the place of a generated token's activation; None: nothing is put there.

        The mean over positions is a tensor of the id MEAN.
        """
        expression = self.expression(cell, pair)
        if self._message.WhichOneof("value") == "mean" and not self._message.mean.by_position:
            return intervention_pb2.Expression(tensor=tensor_pb2.TensorReference(tensor_id=MEAN))
        return None if uses_other_rows(expression) else expression

    def samples(self, cell: int, pair: Pair) -> Iterator[intervention_pb2.Expression]:
        """All that may be put in the place of a cell's activation."""
        yield self.expression(cell, pair)
        if self._message.WhichOneof("value") == "resample":
            yield from map(_other_row, range(FIRST_REFERENCE, pair.mean_row))

    def request_field(self, field: str) -> str:
        """The field of the request that became part of an edit's expression."""
        kind = self._message.WhichOneof("value")
        if kind == "noise":
            return field.replace(f"{self._path}.binary.right", self._path, 1)
        return field.replace(self._path, f"{self._path}.expression", 1) if kind == "expression" else field


def _other_row(row: int) -> intervention_pb2.Expression:
    return intervention_pb2.Expression(other_row=intervention_pb2.OtherRow(row=row))
