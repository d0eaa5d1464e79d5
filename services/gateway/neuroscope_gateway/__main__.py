"""Starts the gateway:  python -m neuroscope_gateway --port 8080 --inference 127.0.0.1:50051"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from neuroscope.errors import InvalidRequestError
from neuroscope.tracing import telemetry
from neuroscope_gateway import server
from neuroscope_gateway.settings import GatewaySettings
from neuroscope_serving.malloc import tune_malloc


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the gateway; returns the exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)
    try:
        settings = GatewaySettings.parse(sys.argv[1:] if arguments is None else arguments)
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            sys.stderr.write(f"neuroscope-gateway: {name}: {problem['msg']}\n")
        return 2
    tune_malloc()
    telemetry.configure("neuroscope-gateway")
    try:
        server.run(settings)
    except OSError as error:
        sys.stderr.write(f"neuroscope-gateway: cannot listen on {settings.host}:{settings.port}: {error.strerror}\n")
        return 1
    except InvalidRequestError as error:
        sys.stderr.write(f"neuroscope-gateway: {error.field}: {error.message}\n")
        return 2
    finally:
        telemetry.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
