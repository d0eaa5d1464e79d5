"""Makes the pictures of docs/experiments.md, docs/images/sweep_*.png, by sweeping the bundled model.

python -m scripts.make_sweep_pictures
"""

from __future__ import annotations

from pathlib import Path

from neuroscope import Client
from neuroscope.cli.bundled import require_bundled_model
from neuroscope.experiments import logit_diff

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"


def main() -> None:
    """Runs the sweep of the page and draws both grids."""
    with Client.local(model=[str(require_bundled_model())]) as client:
        result = client.patch(CLEAN, CORRUPTED).residual().heads().run(logit_diff(" Mary", " John"))
    IMAGES.mkdir(parents=True, exist_ok=True)
    result["resid_pre"].normalised().plot(IMAGES / "sweep_residual.png")
    result["head_output"].normalised().plot(IMAGES / "sweep_heads.png")


if __name__ == "__main__":
    main()
