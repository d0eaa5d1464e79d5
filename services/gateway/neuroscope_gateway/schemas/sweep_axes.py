"""Axes of sweep grids: indices one by one or together."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary.strict_model import MAX_INT32, StrictModel

Index = Annotated[int, Field(ge=-MAX_INT32, le=MAX_INT32)]
Indices = Annotated[list[Index], Field(min_length=1, max_length=100_000)]


class JointIndices(StrictModel):
    """Indices that each cell patches together."""

    together: Indices


Axis: TypeAlias = Literal["each"] | Indices | JointIndices
"""`each`: a cell for each index; a list: a cell for each of these; an object: these together in every cell."""


def axis_message(axis: Any) -> pb.SweepAxis | None:
    """An axis as a message of the contract."""
    match axis:
        case None:
            return None
        case "each":
            return pb.SweepAxis(each=pb.EachIndex())
        case JointIndices():
            return pb.SweepAxis(together=pb.Indices(indices=axis.together))
        case _:
            return pb.SweepAxis(one_by_one=pb.Indices(indices=axis))
