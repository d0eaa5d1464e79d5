"""Makes the pictures and the table of docs/residual_stream.md, docs/images/residual_*.png, of the bundled model.

python -m scripts.make_residual_pictures
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from neuroscope import Client
from neuroscope.analysis import AnalysisClient
from neuroscope.cli.bundled import require_bundled_model

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
BEGINNINGS = ("Once upon a time", "When", "The capital of")
TEXTS = 60


def texts(folder: str) -> list[str]:
    """What the model itself writes."""
    found: list[str] = []
    with Client.local(model=[folder]) as client:
        for seed in range(TEXTS):
            beginning = BEGINNINGS[seed % len(BEGINNINGS)]
            generation = client.generate(beginning, max_tokens=60, temperature=1.0, seed=seed)
            for _ in generation:
                pass
            found.append(beginning + generation.text)
    return found


def main() -> None:
    """Trains the lens of the page, runs its analysis, and draws both pictures."""
    folder = str(require_bundled_model())
    with AnalysisClient.local(model=[folder]) as client:
        trained = client.train_tuned_lens(texts(folder))
        Console(width=120).print(trained.table())
        found = client.analyze_residual_stream(
            CLEAN, answer=" Mary", other=" John", corrupted=CORRUPTED, tuned_lens=trained.lens
        )
    IMAGES.mkdir(parents=True, exist_ok=True)
    found.plot(IMAGES / "residual_lens.png", part="lens")
    found.flows[0].plot(IMAGES / "residual_flow.png")


if __name__ == "__main__":
    main()
