"""Parameters of experiment requests for fields of the contract."""

from __future__ import annotations

import re

_RENAMES = (
    (r"^metric\.weighted_sum\.", "metric."),
    (r"^(metric(?:\.terms\[\d+\]\.metric)?)\.\w+\.(answers|others)(\[\d+\])?(\.\w+)?$", r"\1.\2\3"),
    (r"^metric\.\w+\.(answers|others)(\[\d+\])?(\.\w+)?$", r"metric.\1\2"),
    (r"^(paths\[\d+\]\.(senders|receivers)).*$", r"\1"),
    (r"^(edges\[\d+\])\.cells\.cells\[", r"\1.cells["),
    (r"^generation\.sampling\.", "generation."),
    (r"^(metric)\.projection\.", r"\1."),
    (r"^(grids\[\d+\])\.site(\.\w+)?$", r"\1.component"),
    (r"^limits\.", ""),
    (r"\.token_ids\.ids", ""),
    (r"\.text$", ""),
)


def experiment_param(field: str) -> str:
    """The parameter of a sweep or an attribution for a field of the contract."""
    for pattern, replacement in _RENAMES:
        field = re.sub(pattern, replacement, field)
    return field
