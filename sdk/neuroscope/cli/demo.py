"""`neuroscope demo`: one question, answered with every layer open, three times, and the answers compared."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from neuroscope.activations.cache import ActivationCache
from neuroscope.activations.lens import LogitLens
from neuroscope.activations.stream import GeneratedToken
from neuroscope.analysis import AnalysisClient
from neuroscope.circuits import Circuit
from neuroscope.cli import every_layer, rest, services, verification
from neuroscope.cli.arguments import conversation
from neuroscope.cli.bundled import require_bundled_model
from neuroscope.cli.circuit_demo import PAIRS, FoundCircuit, find_circuit
from neuroscope.cli.connection import SERVICE_NAME, complete_trace, describe
from neuroscope.cli.console import out
from neuroscope.cli.lens_lines import LensLines
from neuroscope.cli.rest import RestCompletion
from neuroscope.cli.supervisor import Supervisor
from neuroscope.cli.verification import Verified
from neuroscope.client import Client
from neuroscope.errors import MLXIntegrationError, ModelUnsupportedError
from neuroscope.tracing import telemetry, tracefile
from neuroscope.tracing.waterfall import format_bytes, format_duration
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.model_info import ModelInfo
from neuroscope.vocabulary.tensors import dtype_name

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

QUESTION = "What is the capital of France?"


def demo(
    output: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="Where tensors, picture and trace go.")
    ] = Path("demo-output"),
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="PATH", help="Folder or hub id; by default the bundled model.")
    ] = "",
    question: Annotated[str, typer.Option(help="What is asked.")] = QUESTION,
    max_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of the answer.")] = 24,
) -> None:
    """Starts the services, answers a question with all layers open over gRPC and REST, and compares the answers."""
    if not Demo(out, output, model or str(require_bundled_model()), question, max_tokens).run():
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Answers:
    """The same answer, three times."""

    tokens: list[GeneratedToken]
    cache: ActivationCache
    """Of the generation over gRPC."""
    rest: RestCompletion
    whole: ActivationCache
    """One forward pass over prompt and answer."""
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What is left when the services are gone."""

    model: pb.Model
    vocabulary: Sequence[str]
    """Text of every token id."""
    lens: LogitLens | None
    """None where the model's output is of another form."""
    answers: Answers
    traces: TracesData
    found: FoundCircuit | None = None
    """None: nobody was asked for a circuit."""


class Demo:
    """One run of the demo.

    Args:
        console: what it is shown on.
        output: folder for its files.
        model: folder or hub id.
        question: what is asked, as a chat message.
        max_tokens: most tokens of the answer.
    """

    def __init__(self, console: Console, output: Path, model: str, question: str, max_tokens: int) -> None:
        self._console = console
        self._output = output
        self._model = model
        self._question = question
        self._max_tokens = max_tokens

    def run(self) -> bool:
        """Runs it; False if anything that was verified is not so.

        Raises:
            MLXIntegrationError: a service does not start, or refuses a call.
        """
        self._output.mkdir(parents=True, exist_ok=True)
        self._console.print(Rule("[bold]NeuroScope-MLX[/]: a language model with every layer open", style="blue"))
        telemetry.configure(SERVICE_NAME, record_roots=True)
        try:
            with Supervisor(restarts=False) as supervisor:
                seen = self._look(supervisor)
                process_ids = list(supervisor.process_ids().values())
        finally:
            telemetry.shutdown()
        self._heading("verified")
        verified = [*_verify(seen), _nothing_left(process_ids)]
        for each in verified:
            self._show(each)
        self._heading("written")
        self._write(seen)
        return self._conclude(verified)

    def verify(self, target: str, url: str) -> bool:
        """The same with services that run already, and without its files; False if anything is not so.

        Args:
            target: host:port of the inference service.
            url: of the gateway before it.

        Raises:
            MLXIntegrationError: a service refuses a call.
        """
        telemetry.configure(SERVICE_NAME, record_roots=True)
        try:
            seen = self._interrogate(target, url)
        finally:
            telemetry.shutdown()
        self._heading("verified")
        verified = _verify(seen)
        for each in verified:
            self._show(each)
        return self._conclude(verified)

    def _look(self, supervisor: Supervisor) -> Seen:
        """Everything that needs the services."""
        began_s = time.perf_counter()
        with self._working("starting the inference service"):
            target = supervisor.start(services.inference([self._model], port=0))
        self._done("inference", f"gRPC on {target}, up in {time.perf_counter() - began_s:.1f} s")
        with self._working("starting the gateway"):
            url = supervisor.start(services.gateway(target, port=0))
        self._done("gateway", f"REST on {url}")
        seen = self._interrogate(target, url)
        return replace(seen, found=self._circuit(supervisor, target)) if services.has_analysis() else seen

    def _circuit(self, supervisor: Supervisor, target: str) -> FoundCircuit:
        """What the analysis service finds."""
        self._heading("a circuit: the edges between heads and MLPs that a behaviour needs")
        began_s = time.perf_counter()
        with self._working("starting the analysis service"):
            address = supervisor.start(services.analysis(target, port=0))
        with self._working("looking for the circuit that copies words"), AnalysisClient(address) as client:
            found = find_circuit(client)
        if found.circuit is None:
            self._console.print(f"  no circuit: {found.why_not}", style="yellow", soft_wrap=True)
        else:
            self._done("circuit", found.told())
            self._done("found", f"by EAP-IG on {PAIRS} pairs of prompts in {time.perf_counter() - began_s:.1f} s")
        return found

    def _interrogate(self, target: str, url: str) -> Seen:
        with Client(target) as client:
            info = client.model()
            self._show_model(info)
            vocabulary = every_layer.vocabulary(client, info.model)
            lens = self._lens(info.model)
            with telemetry.tracer().start_as_current_span("neuroscope demo") as span:
                trace_id = telemetry.trace_id_of(span)
                answers = self._ask(client, url, info.model, vocabulary, lens)
            traces = complete_trace(trace_id, [lambda identifier: rest.trace(url, identifier)])
        return Seen(info.model, vocabulary, lens, answers, traces)

    def _ask(
        self, client: Client, url: str, model: pb.Model, vocabulary: Sequence[str], lens: LogitLens | None
    ) -> Answers:
        if not model.has_chat_template:
            raise ModelUnsupportedError(f"{model.model_id} has no chat template, which the demo needs", field="--model")
        messages = conversation(self._question)
        self._heading("gRPC: each token, and what each layer would have said")
        self._console.print(Text.assemble(("user       ", "dim"), self._question))
        lines = LensLines(lens, vocabulary, model.num_layers, self._console.width)
        self._console.print(lines.header(), soft_wrap=True)
        tokens: list[GeneratedToken] = []
        with client.generate(messages, hooks=every_layer.hooks(model), max_tokens=self._max_tokens) as generation:
            for token in generation:
                tokens.append(token)
                self._console.print(lines.line(token), soft_wrap=True)
        self._console.print(Text.assemble(("assistant  ", "dim"), (generation.text.strip(), "bold green")))
        with self._working("asking again over REST"):
            began_s = time.perf_counter()
            body = {
                "model": model.model_id,
                "messages": messages,
                "max_tokens": self._max_tokens,
                "temperature": 0,
                "activation_hooks": every_layer.rest_hooks(model),
            }
            completion = rest.complete(url, body)
            rest_ns = (time.perf_counter() - began_s) * 1e9
        with self._working("one forward pass over prompt and answer"):
            read = generation.cache.token_ids[0][:-1]  # the last token was generated and never read
            whole = client.capture(read, every_layer.hooks(model))
        self._console.print()
        told = f"{format_bytes(completion.length_bytes)} of JSON in {format_duration(rest_ns)}"
        self._done("asked again over REST", told)
        self._done("one forward pass", f"{len(read)} tokens, {format_bytes(whole.nbytes)}")
        return Answers(tokens, generation.cache, completion, whole, generation.text)

    def _write(self, seen: Seen) -> None:
        cache = seen.answers.cache
        tensors = self._output / "capture.safetensors"
        cache.save(tensors)
        self._written(tensors, f"{len(cache)} tensors; ActivationCache.load reads it")
        if find_spec("matplotlib") is None:
            self._console.print("  no picture: pip install 'neuroscope-mlx\\[viz]'", style="yellow")
        else:
            from neuroscope.viz.capture_picture import Captured, draw

            token_ids = cache.token_ids[0]
            captured = Captured(
                cache,
                [seen.vocabulary[token_id] for token_id in token_ids],
                seen.vocabulary,
                prompt_length=len(token_ids) - len(seen.answers.tokens),
                title=f"{self._question} → {seen.answers.text.strip()}",
                subtitle=describe(seen.model),
                lens=seen.lens,
            )
            picture = self._output / "capture.png"
            with self._working("drawing"):
                draw(captured, picture)
            self._written(picture, "logit lens, norms, attention")
        if seen.found is not None and seen.found.circuit is not None:
            self._write_circuit(seen.found.circuit)
        json_path, html_path = tracefile.write(self._output / "trace.json", seen.traces)
        self._written(json_path, "for ui.perfetto.dev")
        self._written(html_path, "the same as a page that opens offline")

    def _write_circuit(self, circuit: Circuit) -> None:
        page = self._output / "circuit.html"
        circuit.save(page)
        self._written(page, "the circuit as a page to look around in")
        if find_spec("matplotlib") is not None:
            picture = self._output / "circuit.png"
            with self._working("drawing"):
                circuit.save(picture)
            self._written(picture, "the same as a picture, with its faithfulness by size")

    def _conclude(self, verified: Sequence[Verified]) -> bool:
        failed = [each.claim for each in verified if not each.passed]
        if failed:
            told = Text(f"{len(failed)} of {len(verified)} claims do not hold:\n  " + "\n  ".join(failed))
            self._console.print(Panel(told, border_style="red", title="failed", title_align="left"))
            return False
        told = Text(f"all {len(verified)} claims hold", "green")
        self._console.print(Panel(told, border_style="green", expand=False))
        return True

    def _lens(self, model: pb.Model) -> LogitLens | None:
        try:
            # A service in a container, or on another machine, has its folders elsewhere.
            return LogitLens.from_folder(model.model_path if Path(model.model_path).is_dir() else self._model)
        except MLXIntegrationError as error:
            self._console.print(f"  no logit lens: {error.message}", style="yellow", soft_wrap=True)
            return None

    def _show_model(self, info: ModelInfo) -> None:
        test = info.self_test
        held = sum(not check.failed_layers for check in test.identities)
        self._done("model", describe(info.model))
        bits = "logits bit-identical with all hooks" if test.logits_identical else "logits CHANGE under hooks"
        self._done("self-test", f"{bits}; {held} of {len(test.identities)} identities hold in every layer")

    def _heading(self, text: str) -> None:
        self._console.print()
        self._console.print(Rule(text, style="blue", align="left"))

    def _working(self, what: str) -> AbstractContextManager[object]:
        """A spinner; none on a recording, which would keep each of its frames."""
        return nullcontext() if self._console.record else self._console.status(what)

    def _done(self, what: str, told: str) -> None:
        self._console.print(Text.assemble(("✓ ", "bold green"), f"{what:<22} ", (told, "dim")), soft_wrap=True)

    def _show(self, verified: Verified) -> None:
        mark, colour = ("✓ ", "bold green") if verified.passed else ("✗ ", "bold red")
        told = (verified.told, "dim" if verified.passed else "red")
        self._console.print(Text.assemble((mark, colour), f"{verified.claim:<47} ", told), soft_wrap=True)

    def _written(self, path: Path, told: str) -> None:
        size = format_bytes(path.stat().st_size)
        self._console.print(Text.assemble(f"  {path!s:<36} ", (f"{size:>8}  {told}", "dim")), soft_wrap=True)


def _verify(seen: Seen) -> list[Verified]:
    """Everything that is claimed of the answers and of the trace."""
    answers, dtype = seen.answers, dtype_name(seen.model.dtype)
    same_text = answers.text == answers.rest.text
    verified = [
        verification.same_pieces(every_layer.pieces_by_hook(answers.tokens), answers.rest.activations),
        Verified("both interfaces give the same text", same_text, repr(answers.rest.text.strip())),
        verification.same_as_one_pass(answers.cache, answers.whole, dtype),
    ]
    if seen.lens is not None:
        verified.append(verification.lens_ends_in_prediction(seen.lens, answers.cache, answers.tokens, dtype))
    verified.append(verification.one_trace(seen.traces, (SERVICE_NAME, services.GATEWAY, services.INFERENCE)))
    if seen.found is not None:
        verified += seen.found.verified()
    return verified


def _nothing_left(process_ids: Sequence[int]) -> Verified:
    """Whether the services' process groups are gone."""
    left: list[int] = []
    for process_id in process_ids:
        try:
            os.killpg(process_id, 0)
            left.append(process_id)
        except ProcessLookupError:
            continue
    told = f"processes {left} still run" if left else f"{len(process_ids)} process groups ended"
    return Verified("nothing is left running", not left, told)
