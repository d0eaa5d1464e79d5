"""Paths between heads, by their names in sweeps."""

from __future__ import annotations

import re
from typing import TypeAlias

import numpy as np

from neuroscope.experiments import SweepResult
from neuroscope.experiments.paths import Receivers as Receivers
from neuroscope_analysis.significance import MetricChanges

Head: TypeAlias = "tuple[int, int]"
"""Layer and head."""
_SENDER = re.compile(r"a(\d+)\.h(\d+)")


def sender_name(head: Head) -> str:
    """The name of a head as a sender."""
    return f"a{head[0]}.h{head[1]}"


def query_name(head: Head) -> str:
    """The name of a head's queries as a receiver."""
    return f"{sender_name(head)}<q>"


def path_effects(result: SweepResult) -> list[dict[Head, MetricChanges]]:
    """The loss of the metric for each sender (pair,); one table for each receiver."""
    scores = result["paths"]
    values = np.asarray(scores.values, np.float64).reshape(len(scores.unedited), *scores.shape[-2:])
    changes = np.asarray(scores.unedited, np.float64)[:, None, None] - values  # (pair, sender, receiver)
    heads: list[Head] = []
    for name in scores.coords["sender"]:
        match = _SENDER.fullmatch(name)
        assert match is not None
        heads.append((int(match[1]), int(match[2])))
    return [
        {head: changes[:, index, receiver] for index, head in enumerate(heads)} for receiver in range(changes.shape[2])
    ]
