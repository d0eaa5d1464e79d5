"""How a command reaches the engine, and the trace that it leaves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from neuroscope.analysis import DEFAULT_ANALYSIS_TARGET, AnalysisClient
from neuroscope.cli.bundled import require_bundled_model
from neuroscope.cli.console import err
from neuroscope.cli.options import ANALYSIS_TARGET_VARIABLE, TARGET_VARIABLE
from neuroscope.client import DEFAULT_TARGET, Client
from neuroscope.errors import InvalidRequestError, MLXIntegrationError, UnknownIdError
from neuroscope.tracing import span_tree, telemetry, trace_file
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.counts import counted
from neuroscope.wire.tls import Tls

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

SERVICE_NAME = "neuroscope-client"
_SPANS_TIMEOUT_S = 3.0
_SPANS_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the engine is."""

    target: str = DEFAULT_TARGET
    """host:port of an inference service."""
    local: bool = False
    """The engine of this process instead."""
    trace: Path | None = None
    """Where the trace of the command goes."""
    token: str = field(default="", repr=False)
    """What the service asks of its callers."""
    tls: Tls | None = None
    """How the connection is encrypted; None: not at all."""

    @classmethod
    def of(
        cls, context: typer.Context, target: str | None = None, local: bool = False, trace: Path | None = None
    ) -> Connection:
        """A command's own options, then those before the command, then the environment, then the defaults."""
        parent: Connection | None = context.obj
        local = local or (parent is not None and parent.local and target is None)
        if local and target is not None:
            raise InvalidRequestError("--local and --target exclude each other", field="--target")
        chosen = target or (parent.target if parent else None) or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET
        with_security = (parent.token, parent.tls) if parent else ("", None)
        return cls(chosen, local, trace or (parent.trace if parent else None), *with_security)

    def with_security(self, token: str, tls: bool, ca: str, certificate: str, key: str) -> Connection:
        """The same with a token and TLS; a file turns TLS on too."""
        chosen_tls = Tls(ca or None, certificate or None, key or None) if tls or ca or certificate or key else None
        return replace(self, token=token, tls=chosen_tls)

    def client(self, timeout_s: float | None = None) -> Client:
        """A client of the service.

        Raises:
            InvalidRequestError: token, certificates and target do not fit together.
        """
        return Client(self.target, timeout_s=timeout_s, tls=self.tls, token=self.token)

    @contextmanager
    def open(self, name: str) -> Generator[Client, None, None]:
        """A client, within a span that is written to the trace file when the block ends.

        Args:
            name: of the command.
        """
        if self.trace is not None:
            telemetry.configure(SERVICE_NAME, record_roots=True)
        with Client.local() if self.local else self.client() as client, self._traced(name, [client.trace]):
            yield client

    @contextmanager
    def open_analysis(self, name: str, target: str | None, model: str) -> Generator[AnalysisClient]:
        """A client of the analysis service, traced likewise.

        Args:
            name: of the command.
            target: of the analysis service; None: that of the environment, or the default.
            model: what is loaded where engine and analyses run in this process; empty: the bundled one.

        Raises:
            InvalidRequestError: a target is named, and the engine is to run in this process.
        """
        if self.local and target is not None:
            raise InvalidRequestError("--local and --target exclude each other", field="--target")
        if self.trace is not None:
            telemetry.configure(SERVICE_NAME, record_roots=True)
        with self._analysis_client(target, model) as client, self._traced(name, [client.trace]):
            yield client

    def _analysis_client(self, target: str | None, model: str) -> AnalysisClient:
        if self.local:
            with err.status("loading the model"):
                return AnalysisClient.local(model or require_bundled_model())
        chosen = target or os.environ.get(ANALYSIS_TARGET_VARIABLE) or DEFAULT_ANALYSIS_TARGET
        return AnalysisClient(chosen, tls=self.tls, token=self.token)

    @contextmanager
    def _traced(self, name: str, sources: Sequence[Callable[[str], bytes]]) -> Generator[None]:
        """A span that is written to the trace file at the end, with those of the services that took part."""
        if self.trace is None:
            yield
            return
        trace_id = ""
        try:
            with telemetry.tracer().start_as_current_span(f"neuroscope {name}") as span:
                trace_id = telemetry.trace_id_of(span)
                yield
        finally:
            if trace_id:
                written = trace_file.write(self.trace, complete_trace(trace_id, sources))
                err.print(f"trace: {written[0]} (ui.perfetto.dev), {written[1]}", style="dim", soft_wrap=True)
            telemetry.shutdown()

    def model_id(self, client: Client, model: str) -> str:
        """The id of a model to use: with --local the model is loaded first, by default the bundled one."""
        if not self.local:
            return model
        with err.status("loading the model"):
            return client.load_model(model or require_bundled_model()).model_id


def chosen_model(argument: str, option: str) -> str:
    """The model that a command's argument or its `--model` names; empty: neither.

    Raises:
        InvalidRequestError: they name two models.
    """
    if argument and option and argument != option:
        raise InvalidRequestError(f"two models are named: {argument} and {option}", field="--model")
    return argument or option


def complete_trace(trace_id: str, sources: Sequence[Callable[[str], bytes]]) -> TracesData:
    """A trace of this process and of others; waits a moment for spans that are just ending.

    Args:
        trace_id: 32 hexadecimal digits.
        sources: each gives another process's spans, such as `Client.trace`; one that fails is left out.
    """
    deadline = time.monotonic() + _SPANS_TIMEOUT_S
    while True:
        merged = telemetry.merge(_collect_spans(trace_id, [telemetry.recent_trace, *sources]))
        if not span_tree.orphans(merged) or time.monotonic() > deadline:
            return merged
        time.sleep(_SPANS_POLL_S)


def _collect_spans(trace_id: str, sources: Sequence[Callable[[str], bytes]]) -> list[bytes]:
    collected: list[bytes] = []
    for source in sources:
        try:
            collected.append(source(trace_id))
        except UnknownIdError:
            continue  # the command did not get that far
        except MLXIntegrationError as error:
            err.print(f"warning: spans are missing: {error.message}", style="yellow", soft_wrap=True)
    return collected


def describe(model: pb.Model) -> str:
    """A model in one line."""
    return (
        f"{model.model_id}: {model.architecture}, {counted(model.num_layers, 'layer')}, width {model.d_model},"
        f" {counted(model.num_heads, 'head')}, {model.parameter_count / 1e6:.1f} M parameters"
    )
