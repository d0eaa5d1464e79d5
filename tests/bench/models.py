"""The models that are measured: the bundled one, and random ones of 124 million parameters."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.random_models import make_large

BUNDLED = "bundled"
MODELS = ("llama", "gpt2", BUNDLED)
_BUNDLED = Path(__file__).parents[2] / "models" / "neuroscope-tiny"


@contextmanager
def model_folder(name: str) -> Generator[Path]:
    """The folder of one of MODELS; a random one is there until the end of the block."""
    if name == BUNDLED:
        yield _BUNDLED
        return
    with TemporaryDirectory(prefix="neuroscope-bench-") as folder:
        yield make_large(name, Path(folder) / f"{name}-124m")


def is_large(folder: Path) -> bool:
    """Whether a model's arithmetic outweighs what every token costs besides; small ones have no bars."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) > 100e6
