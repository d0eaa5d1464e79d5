"""Makes the picture of docs/analysis.md, docs/images/interactions.png, of heads of the bundled model.

python -m scripts.make_interactions_picture
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from neuroscope.analysis import AnalysisClient
from neuroscope.cli.bundled import require_bundled_model

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "interactions.png"
_NAMES = (" Mary", " John", " Tom", " Alice", " Bob")
_PLACES = ("store", "park", "school", "garden")
_PAIRS = 16


def named_pairs() -> list[dict[str, Any]]:
    """Pairs of named prompts, drawn with a seed of their own."""
    draw = random.Random(0)
    found: list[dict[str, Any]] = []
    for _ in range(_PAIRS):
        one, two, *others = draw.sample(_NAMES, 5)
        place = draw.choice(_PLACES)
        text = "When{} and{} went to the " + place + ",{} gave a drink to"
        found.append(
            {"clean": text.format(one, two, two), "corrupted": text.format(*others), "answer": one, "other": two}
        )
    return found


def main() -> None:
    """Maps interactions on named pairs and draws them."""
    with AnalysisClient.local(model=[str(require_bundled_model())]) as client:
        graph = client.map_interactions(named_pairs())
    print(graph.interactions)
    graph.plot(PICTURE)


if __name__ == "__main__":
    main()
