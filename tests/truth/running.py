"""The real services for the truth suite; models are loaded as they are needed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuroscope import Client
from neuroscope.analysis import AnalysisClient
from tests.support import services


@dataclass(frozen=True)
class Bench:
    """Both services."""

    inference: Client
    analysis: AnalysisClient

    @contextmanager
    def model(self, folder: Path) -> Generator[str]:
        """A model that is loaded for the block; its id."""
        model_id = self.inference.load_model(folder).model_id
        try:
            yield model_id
        finally:
            self.inference.unload_model(model_id)


@contextmanager
def bench() -> Generator[Bench]:
    """Both services, without a model."""
    with (
        services.inference_service() as below,
        services.running("neuroscope_analysis", "--port", "0", "--inference", below.target) as above,
        Client(below.target) as inference,
        AnalysisClient(above.target) as analysis,
    ):
        yield Bench(inference, analysis)
