"""The commands, put together, and how they end when something is wrong."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import neuroscope
from neuroscope.cli.commands import COMMANDS
from neuroscope.cli.console import out, show_error, show_warnings_as_lines
from neuroscope.cli.options import (
    LocalOption,
    TargetOption,
    TlsCaOption,
    TlsCertificateOption,
    TlsKeyOption,
    TlsOption,
    TokenOption,
    TraceOption,
)

DEBUG_VARIABLE = "NEUROSCOPE_DEBUG"


class _Commands(TyperGroup):
    """Commands whose errors become one line and exit code 1; NEUROSCOPE_DEBUG=1 shows the stack trace instead."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in COMMANDS:
            self.add_command(command)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            from neuroscope.errors import MLXIntegrationError

            if not isinstance(error, MLXIntegrationError) or os.environ.get(DEBUG_VARIABLE):
                raise
            show_error(error)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Opens a running language model to inspection: capture, stream and explain activations while it generates.",
)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"neuroscope {neuroscope.__version__} (Python {sys.version.split()[0]})")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
    token: TokenOption = "",
    tls: TlsOption = False,
    tls_ca: TlsCaOption = "",
    tls_certificate: TlsCertificateOption = "",
    tls_key: TlsKeyOption = "",
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Prints the version.")
    ] = False,
) -> None:
    """Options of every command; those of target, local and trace may come after its name too."""
    from neuroscope.cli.connection import Connection

    show_warnings_as_lines()
    context.obj = Connection.of(context, target, local, trace).with_security(
        token, tls, tls_ca, tls_certificate, tls_key
    )
