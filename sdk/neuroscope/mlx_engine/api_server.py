"""`python -m neuroscope.mlx_engine.api_server`: the REST interface, as mlx-engine's users start it.

It is `neuroscope up` under another name: both services, the gateway on port 8080, and no model until one is loaded over
REST or named here.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from neuroscope.cli.app import DEBUG_VARIABLE
from neuroscope.cli.app import app as commands


def api_server(
    host: Annotated[str, typer.Option(help="Address of both services.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the gateway; 0: any free one.")] = 8080,
    model: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Folder or hub id to load; repeat for several.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help=f"Shows stack traces, as {DEBUG_VARIABLE}=1 does.")] = False,
) -> None:
    """Starts the REST interface and the inference service behind it, and stops both on Ctrl-C."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    models = [argument for path in model or () for argument in ("--model", path)]
    ports = ["--port-gateway", str(port), "--port-inference", "0"]
    commands(["up", "--host", host, *ports, *(models or ["--no-model"])], prog_name="neuroscope")


def main() -> None:
    """The entry point."""
    app = typer.Typer(pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.command()(api_server)
    app(prog_name="python -m neuroscope.mlx_engine.api_server")


if __name__ == "__main__":
    main()
