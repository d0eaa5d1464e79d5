"""`python -m neuroscope_inference`: starts the inference service. `--help` lists its configuration."""

from __future__ import annotations

from neuroscope_inference.settings import InferenceSettings
from neuroscope_serving import program


async def _serve(settings: InferenceSettings) -> None:
    from neuroscope_inference.server import serve  # imports MLX, which --help does not need

    await serve(settings)


def main() -> int:
    """Serves until it is stopped; returns the exit status."""
    return program.run("neuroscope-inference", InferenceSettings, _serve)


if __name__ == "__main__":
    program.exit_process(main())
