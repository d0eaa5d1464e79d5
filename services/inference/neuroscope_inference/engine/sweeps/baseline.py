"""The metric of a pair's unedited runs."""

from __future__ import annotations

import numpy as np

from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_inference.engine.sweeps.metrics import Metric


def check_baseline(baseline: pb.PairBaseline, metric: Metric) -> None:
    """Refuses what edits cannot be compared with.

    Raises:
        DataConversionError: the metric of a run is not finite.
        InvalidRequestError: both runs score the same, where values are scaled between them.
    """
    if not np.isfinite([baseline.clean, baseline.corrupted]).all():
        raise DataConversionError(f"the metric of pair {baseline.pair} is not finite without edits", field="metric")
    if metric.is_normalised and baseline.clean == baseline.corrupted:
        raise InvalidRequestError(
            f"both runs of pair {baseline.pair} score {baseline.clean:.6g}: there is nothing to scale between",
            field="metric.normalised",
        )
