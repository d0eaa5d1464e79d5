"""The program of a service: command line, logging, exit status."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import CliApp

from neuroscope.errors import MLXIntegrationError
from neuroscope_serving.malloc import tune_malloc
from neuroscope_serving.settings import ServingSettings

Settings = TypeVar("Settings", bound=ServingSettings)


def run(name: str, settings_type: type[Settings], serve: Callable[[Settings], Coroutine[Any, Any, None]]) -> int:
    """Serves until a signal; returns 1 if the service cannot start, 2 if a setting is invalid.

    Args:
        name: the name of the service in messages.
        settings_type: the settings that flags and environment variables fill.
        serve: runs the service; it imports the packages that `--help` does not need.
    """
    try:
        settings = CliApp.run(settings_type)
    except ValidationError as error:
        for problem in error.errors():
            field = ".".join(str(part) for part in problem["loc"])
            print(f"{name}: {field}: {problem['msg']}", file=sys.stderr)
        return 2
    tune_malloc()
    logging.basicConfig(level=settings.log_level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        asyncio.run(serve(settings))
    except MLXIntegrationError as error:
        print(f"{name}: {error.message}", file=sys.stderr)
        return 1
    return 0


def exit_process(status: int) -> None:
    """Ends the process. Unlike sys.exit it does not wait for the threads of a download, which may never end."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
