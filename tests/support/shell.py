"""The command `neuroscope` in the test's own process, with its exit status and all that it writes.

    done = neuroscope("models", "list", target=service.target, COLUMNS="200")
    done.exit_code, done.stdout, done.stderr

tests/integration/test_cli_real.py runs it as a process of its own.
"""

from __future__ import annotations

import warnings

from typer.testing import CliRunner, Result

from neuroscope.cli.app import app


def neuroscope(*arguments: object, target: str | None = None, **environment: str) -> Result:
    """Runs a command line; an exception that a user would see as a traceback is raised.

    Args:
        arguments: what follows `neuroscope` on the command line.
        target: the inference service; by default what the environment says.
        environment: variables that are set meanwhile, besides a width of 140 columns and no colours.
    """
    options = [] if target is None else ["--target", target]
    runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "140", **environment})
    shown = warnings.showwarning  # a command shows warnings its own way, for the life of its process
    try:
        return runner.invoke(app, [*options, *map(str, arguments)], prog_name="neuroscope", catch_exceptions=False)
    finally:
        warnings.showwarning = shown
