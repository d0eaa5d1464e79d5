"""Examples of sweeps and attributions."""

from __future__ import annotations

import json
from typing import Any

from neuroscope_gateway.examples.example import MODEL_ID, Example

_SWEEP: Any = {
    "pairs": [
        {
            "clean": "When Mary and John went to the store, John gave a drink to",
            "corrupted": "When Mary and John went to the store, Mary gave a drink to",
        }
    ],
    "grids": [{"component": "head_output", "layers": [2], "heads": [0, 6]}],
    "metric": {"kind": "logit_difference", "answers": [" Mary"], "others": [" John"]},
}
_SWEPT: Any = {
    "object": "sweep",
    "model": MODEL_ID,
    "metric": "logit_difference",
    "method": "layers_and_positions",
    "reason": "",
    "clean": [7.6],
    "corrupted": [-10.8],
    "grids": [
        {
            "name": "head_output",
            "dims": ["layer", "head"],
            "coords": {"layer": [2], "head": [0, 6]},
            "values": [[-9.8, -6.9]],
        }
    ],
    "elapsed_seconds": 0.02,
}
_ATTRIBUTION: Any = {
    "pairs": _SWEEP["pairs"],
    "metric": _SWEEP["metric"],
    "method": "attribution-patching",
    "sites": ["mlp_out:position"],
}
_ATTRIBUTED: Any = {
    "object": "attribution",
    "model": MODEL_ID,
    "metric": "logit_difference",
    "method": "attribution-patching",
    "steps": 1,
    "clean": [7.6],
    "corrupted": [-10.8],
    "scores": [
        {
            "name": "mlp_out",
            "dims": ["layer", "position"],
            "coords": {"layer": [2], "position": [0, 1]},
            "values": [[0.0, -0.4]],
        }
    ],
    "completeness": list[Any](),
    "elapsed_seconds": 0.02,
    "forward_passes": 2.5,
}

_EDGE_GRAPH: Any = {
    "object": "edge_graph",
    "model": MODEL_ID,
    "senders": ["input", "a0.h0", "m0"],
    "receivers": [
        {"name": "a0.h0<q>", "sender_count": 1},
        {"name": "a0.h0<k>", "sender_count": 1},
        {"name": "a0.h0<v>", "sender_count": 1},
        {"name": "m0", "sender_count": 2},
        {"name": "logits", "sender_count": 3},
    ],
    "edge_count": 8,
}

EXAMPLES: dict[str, Example] = {
    "GET /v1/experiments/edge_graph": Example(answer=_EDGE_GRAPH),
    "POST /v1/experiments/attributions": Example(
        request=_ATTRIBUTION,
        answer=_ATTRIBUTED,
        stream=json.dumps({"type": "end", "elapsed_seconds": 0.02, "forward_passes": 2.5}) + "\n",
    ),
    "POST /v1/experiments/sweeps": Example(
        request=_SWEEP,
        answer=_SWEPT,
        stream=json.dumps({"type": "values", "patches": [0, 1], "values": [-9.8, -6.9]}) + "\n",
    ),
}
