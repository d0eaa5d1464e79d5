"""The commands, put together, and how they end when something is wrong."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import neuroscope
from neuroscope.cli import (
    analyze,
    attribute,
    capture,
    circuits,
    dictionaries,
    directions,
    doctor,
    generate,
    hooks,
    lens,
    models,
    sweep,
    up,
    weights,
)
from neuroscope.cli.connection import (
    Connection,
    LocalOption,
    TargetOption,
    TlsCaOption,
    TlsCertificateOption,
    TlsKeyOption,
    TlsOption,
    TokenOption,
    TraceOption,
)
from neuroscope.cli.console import out, show_error, show_warnings_as_lines
from neuroscope.cli.demo import demo
from neuroscope.errors import MLXIntegrationError

DEBUG_VARIABLE = "NEUROSCOPE_DEBUG"


class _Commands(TyperGroup):
    """Commands whose errors become one line and exit code 1; NEUROSCOPE_DEBUG=1 shows the stack trace instead."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MLXIntegrationError as error:
            if os.environ.get(DEBUG_VARIABLE):
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
    show_warnings_as_lines()
    context.obj = Connection.of(context, target, local, trace).with_security(
        token, tls, tls_ca, tls_certificate, tls_key
    )


app.command("up", rich_help_panel="Services")(up.up)
app.command("doctor", rich_help_panel="Services")(doctor.doctor)
app.add_typer(models.app, name="models", rich_help_panel="Services")
app.command("hooks", rich_help_panel="Inspection")(hooks.hooks)
app.command("generate", rich_help_panel="Inspection")(generate.generate)
app.command("capture", rich_help_panel="Inspection")(capture.capture)
app.command("lens", rich_help_panel="Inspection")(lens.lens)
app.add_typer(directions.app, name="directions", rich_help_panel="Inspection")
app.add_typer(dictionaries.app, name="dictionaries", rich_help_panel="Inspection")
app.command("sweep", rich_help_panel="Inspection")(sweep.sweep)
app.command("attribute", rich_help_panel="Inspection")(attribute.attribute)
app.command("weights", rich_help_panel="Inspection")(weights.weights)
app.command("project", rich_help_panel="Inspection")(weights.project)
app.add_typer(analyze.app, name="analyze", rich_help_panel="Inspection")
app.add_typer(circuits.app, name="circuit", rich_help_panel="Inspection")
app.command("demo", rich_help_panel="Inspection")(demo.demo)
