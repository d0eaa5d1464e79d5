"""`python -m neuroscope_inference`: starts the inference service. `--help` lists its configuration."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from neuroscope.errors import MLXIntegrationError
from neuroscope_inference.settings import InferenceSettings


def main() -> int:
    """Serves until told to stop; 1 if the service cannot start, 2 if a setting is wrong."""
    try:
        settings = CliApp.run(InferenceSettings)
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            print(f"neuroscope-inference: {name}: {problem['msg']}", file=sys.stderr)
        return 2
    logging.basicConfig(level=settings.log_level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    from neuroscope_inference.server import serve  # imports MLX, which --help does not need

    try:
        asyncio.run(serve(settings))
    except MLXIntegrationError as error:
        print(f"neuroscope-inference: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    # Not sys.exit: it joins the threads of a download, which wait for the network and cannot be interrupted.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
