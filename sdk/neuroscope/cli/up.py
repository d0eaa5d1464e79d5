"""`neuroscope up`: all services, in the foreground."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from neuroscope.cli.bundled import bundled_model
from neuroscope.cli.console import err, out
from neuroscope.cli.options import ANALYSIS_TARGET_VARIABLE, TARGET_VARIABLE, TraceOption
from neuroscope.cli.processes import services
from neuroscope.cli.processes.span_receiver import SpanReceiver
from neuroscope.cli.processes.supervisor import Supervisor
from neuroscope.tracing import trace_file

_COLOURS = {services.INFERENCE: "cyan", services.ANALYSIS: "blue", services.GATEWAY: "magenta"}
_PREFIX_WIDTH = 10
_TOKEN_VARIABLES = (
    "NEUROSCOPE_INFERENCE_TOKEN",
    "NEUROSCOPE_ANALYSIS_TOKEN",
    "NEUROSCOPE_ANALYSIS_INFERENCE_TOKEN",
    "NEUROSCOPE_GATEWAY_INFERENCE_TOKEN",
)


class ServiceLog:
    """One log of all services: on the terminal with a coloured prefix, in a file without colours."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def line(self, name: str, text: str) -> None:
        """A line of a service's output."""
        self._write(name.removeprefix("neuroscope-"), Text(text), _COLOURS.get(name, "green"))

    def notice(self, text: str) -> None:
        """A notice of the supervisor, such as a restart."""
        self._write("up", Text(text, "bold yellow"), "yellow")

    def _write(self, name: str, text: Text, colour: str) -> None:
        out.print(Text.assemble((f"{name:<{_PREFIX_WIDTH}}│ ", colour), text), soft_wrap=True)
        if self._file is not None:
            now = datetime.now().astimezone().isoformat(timespec="milliseconds")
            self._file.write(f"{now} {name:<{_PREFIX_WIDTH}}| {text.plain}\n")
            self._file.flush()


def up(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="PATH", help="Folder or hub id to load; repeat for several."),
    ] = None,
    no_model: Annotated[bool, typer.Option("--no-model", help="Starts without the bundled model.")] = False,
    host: Annotated[str, typer.Option(help="Address of the services.")] = "127.0.0.1",
    port_inference: Annotated[int, typer.Option(min=0, max=65535, help="gRPC; 0: any free port.")] = 50051,
    port_analysis: Annotated[int, typer.Option(min=0, max=65535, help="gRPC; 0: any free port.")] = 50052,
    port_gateway: Annotated[int, typer.Option(min=0, max=65535, help="REST; 0: any free port.")] = 8080,
    no_analysis: Annotated[bool, typer.Option("--no-analysis", help="Starts without the analysis service.")] = False,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Appends the log to a file too.")] = None,
    trace: TraceOption = None,
) -> None:
    """Starts inference, analysis and the gateway, restarts what dies, and stops all of them on Ctrl-C."""
    trace = trace or (context.obj.trace if context.obj else None)
    models = list(model or [])
    if not models and not no_model and (bundled := bundled_model()):
        models = [str(bundled)]
    with (
        log.open("a", encoding="utf-8") if log else nullcontext() as file,
        _trace_environment(trace) as environment,
    ):
        environment = {**environment, **_token_environment(context)}
        service_log = ServiceLog(file)
        with Supervisor(service_log.line, service_log.notice, grace_s=services.grace_s()) as supervisor:
            port_inference = port_inference or services.free_port(host)
            inference = supervisor.start(
                services.inference(models, host=host, port=port_inference, environment=environment)
            )
            analysis = ""
            if not no_analysis and not services.has_analysis():
                service_log.notice("without analysis, which is not installed: pip install 'neuroscope-mlx[analysis]'")
            elif not no_analysis:
                port_analysis = port_analysis or services.free_port(host)
                analysis = supervisor.start(
                    services.analysis(inference, host=host, port=port_analysis, environment=environment)
                )
            gateway = supervisor.start(
                services.gateway(
                    inference, analysis_address=analysis, host=host, port=port_gateway, environment=environment
                )
            )
            out.print(_banner(inference, analysis, gateway, trace))
            try:
                supervisor.wait()
            except KeyboardInterrupt:
                service_log.notice("stopping")
                supervisor.stop()
                raise typer.Exit(130) from None
            finally:
                supervisor.stop()


def _banner(inference: str, analysis: str, gateway: str, trace: Path | None) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_row("[cyan]gRPC[/]", f"[bold]{inference}[/]", "[dim]neuroscope generate 'The capital of France is'[/]")
    if inference != "127.0.0.1:50051":
        table.add_row("", "", f"[dim]with {TARGET_VARIABLE}={inference}[/]")
    if analysis:
        table.add_row("[blue]analysis[/]", f"[bold]{analysis}[/]", "[dim]neuroscope analyze attention 'a prompt'[/]")
        if analysis != "127.0.0.1:50052":
            table.add_row("", "", f"[dim]with {ANALYSIS_TARGET_VARIABLE}={analysis}[/]")
    table.add_row("[magenta]REST[/]", f"[bold]{gateway}[/]", f"[dim]OpenAI-compatible; reference at {gateway}/docs[/]")
    if trace is not None:
        table.add_row("trace", str(trace), "[dim]written at the end[/]")
    return Panel(table, title="NeuroScope is up", title_align="left", subtitle="Ctrl-C stops it", border_style="green")


def _token_environment(context: typer.Context) -> dict[str, str]:
    """The variables that make inference and analysis ask for a token, and those that call them give it."""
    token: str = context.obj.token if context.obj else ""
    return dict.fromkeys(_TOKEN_VARIABLES, token) if token else {}


@contextmanager
def _trace_environment(trace: Path | None) -> Generator[dict[str, str], None, None]:
    """The variables that make services send their spans here, if a trace is wanted; writes it at the end."""
    if trace is None:
        yield {}
        return
    with SpanReceiver() as receiver:
        try:
            yield receiver.environment
        finally:
            json_path, html_path = trace_file.write(trace, receiver.traces())
            err.print(f"trace: {json_path} (ui.perfetto.dev), {html_path}", style="dim", soft_wrap=True)
