"""`python -m neuroscope_inference`: starts the inference service. `--help` lists its configuration."""

from __future__ import annotations

import asyncio
import logging
import sys

from pydantic_settings import CliApp

from neuroscope.errors import MLXIntegrationError
from neuroscope_inference.settings import InferenceSettings


def main() -> int:
    """Serves until told to stop; 1 if the service cannot start."""
    settings = CliApp.run(InferenceSettings)
    logging.basicConfig(level=settings.log_level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    from neuroscope_inference.server import serve  # imports MLX, which --help does not need

    try:
        asyncio.run(serve(settings))
    except MLXIntegrationError as error:
        print(f"neuroscope-inference: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
