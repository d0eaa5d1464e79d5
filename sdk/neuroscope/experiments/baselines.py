"""The metric of unedited runs, against which sweeps and attributions are measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.named_scores import from_json_values, to_json_values
from neuroscope.v1 import experiment_pb2 as pb


class Baselines:
    """The unnormalised metric of each pair's clean and corrupted run (pairs,); NaN if missing.

    Args:
        pair_count: the number of pairs.
    """

    def __init__(self, pair_count: int = 0) -> None:
        self.clean: NDArray[np.float32] = np.full(pair_count, np.nan, np.float32)
        self.corrupted: NDArray[np.float32] = np.full(pair_count, np.nan, np.float32)

    def feed(self, baseline: pb.PairBaseline) -> None:
        """Adds the runs of a pair."""
        self.clean[baseline.pair] = baseline.clean
        if baseline.HasField("corrupted"):
            self.corrupted[baseline.pair] = baseline.corrupted

    def to_json(self) -> dict[str, Any]:
        """Both as lists; NaN is null."""
        return {"clean": to_json_values(self.clean), "corrupted": to_json_values(self.corrupted)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], pair_count: int) -> Self:
        """Reads the result of `to_json`, which may have other fields.

        Raises:
            InvalidRequestError: the number of values is not that of pairs.
        """
        baselines = cls(pair_count)
        for name in ("clean", "corrupted"):
            found = from_json_values(value[name])
            if found.shape != (pair_count,):
                raise InvalidRequestError(f"{name} are not as many as the plan says", field=name)
            setattr(baselines, name, found)
        return baselines
