"""Makes the picture of docs/analysis.md, docs/images/attention_roles.png, of the bundled model.

python -m scripts.make_attention_picture
"""

from __future__ import annotations

from pathlib import Path

from neuroscope.analysis import AnalysisClient
from neuroscope.cli.bundled import require_bundled_model

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "attention_roles.png"


def main() -> None:
    """Analyses the heads and draws their roles."""
    with AnalysisClient.local(model=[str(require_bundled_model())]) as client:
        client.analyze_attention().plot(PICTURE)


if __name__ == "__main__":
    main()
