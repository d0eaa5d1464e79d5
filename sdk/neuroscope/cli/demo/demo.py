"""`neuroscope demo`: one question, answered three times with every layer captured, and the answers compared."""

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
from neuroscope.cli.arguments import conversation
from neuroscope.cli.bundled import require_bundled_model
from neuroscope.cli.connection import SERVICE_NAME, complete_trace, describe
from neuroscope.cli.console import out
from neuroscope.cli.demo import hooks as demo_hooks
from neuroscope.cli.demo import rest, verification
from neuroscope.cli.demo.circuit import PAIR_COUNT, FoundCircuit, find_circuit
from neuroscope.cli.demo.lens_lines import LensLines
from neuroscope.cli.demo.rest import RestCompletion
from neuroscope.cli.demo.verification import Verification
from neuroscope.cli.processes import services
from neuroscope.cli.processes.supervisor import Supervisor
from neuroscope.client import Client
from neuroscope.errors import MLXIntegrationError, ModelUnsupportedError
from neuroscope.tracing import telemetry, trace_file
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
    """Starts the services, answers a question over gRPC and REST with every layer captured, and compares both."""
    if not Demo(out, output, model or str(require_bundled_model()), question, max_tokens).run():
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Generations:
    """The same answer over gRPC, over REST and in one forward pass."""

    tokens: list[GeneratedToken]
    cache: ActivationCache
    """Of the generation over gRPC."""
    rest: RestCompletion
    whole: ActivationCache
    """One forward pass over prompt and answer."""
    text: str


@dataclass(frozen=True, slots=True)
class DemoResults:
    """What the services gave; they have ended by then."""

    model: pb.Model
    vocabulary: Sequence[str]
    """Text of every token id."""
    lens: LogitLens | None
    """None where the model's output is of another form."""
    generations: Generations
    traces: TracesData
    found: FoundCircuit | None = None
    """None: no analysis service is installed."""


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
                results = self._run_services(supervisor)
                process_ids = list(supervisor.process_ids().values())
        finally:
            telemetry.shutdown()
        self._print_heading("verified")
        verified = [*_verify(results), _check_processes_ended(process_ids)]
        for each in verified:
            self._print_verification(each)
        self._print_heading("written")
        self._write_files(results)
        return self._print_conclusion(verified)

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
            results = self._run_prompts(target, url)
        finally:
            telemetry.shutdown()
        self._print_heading("verified")
        verified = _verify(results)
        for each in verified:
            self._print_verification(each)
        return self._print_conclusion(verified)

    def _run_services(self, supervisor: Supervisor) -> DemoResults:
        """Everything that needs the services."""
        began_s = time.perf_counter()
        with self._spinner("starting the inference service"):
            target = supervisor.start(services.inference([self._model], port=0))
        self._print_step("inference", f"gRPC on {target}, up in {time.perf_counter() - began_s:.1f} s")
        with self._spinner("starting the gateway"):
            url = supervisor.start(services.gateway(target, port=0))
        self._print_step("gateway", f"REST on {url}")
        results = self._run_prompts(target, url)
        return replace(results, found=self._find_circuit(supervisor, target)) if services.has_analysis() else results

    def _find_circuit(self, supervisor: Supervisor, target: str) -> FoundCircuit:
        """What the analysis service finds."""
        self._print_heading("a circuit: the edges between heads and MLPs that a behaviour needs")
        began_s = time.perf_counter()
        with self._spinner("starting the analysis service"):
            address = supervisor.start(services.analysis(target, port=0))
        with self._spinner("looking for the circuit that copies words"), AnalysisClient(address) as client:
            found = find_circuit(client)
        if found.circuit is None:
            self._console.print(f"  no circuit: {found.why_not}", style="yellow", soft_wrap=True)
        else:
            self._print_step("circuit", found.detail())
            self._print_step(
                "found", f"by EAP-IG on {PAIR_COUNT} pairs of prompts in {time.perf_counter() - began_s:.1f} s"
            )
        return found

    def _run_prompts(self, target: str, url: str) -> DemoResults:
        with Client(target) as client:
            info = client.model()
            self._print_model(info)
            vocabulary = demo_hooks.vocabulary(client, info.model)
            lens = self._lens(info.model)
            with telemetry.tracer().start_as_current_span("neuroscope demo") as span:
                trace_id = telemetry.trace_id_of(span)
                generations = self._generate(client, url, info.model, vocabulary, lens)
            traces = complete_trace(trace_id, [lambda identifier: rest.trace(url, identifier)])
        return DemoResults(info.model, vocabulary, lens, generations, traces)

    def _generate(
        self, client: Client, url: str, model: pb.Model, vocabulary: Sequence[str], lens: LogitLens | None
    ) -> Generations:
        if not model.has_chat_template:
            raise ModelUnsupportedError(f"{model.model_id} has no chat template, which the demo needs", field="--model")
        messages = conversation(self._question)
        self._print_heading("gRPC: each token, and what each layer would have said")
        self._console.print(Text.assemble(("user       ", "dim"), self._question))
        lines = LensLines(lens, vocabulary, model.num_layers, self._console.width)
        self._console.print(lines.header(), soft_wrap=True)
        tokens: list[GeneratedToken] = []
        with client.generate(messages, hooks=demo_hooks.hooks(model), max_tokens=self._max_tokens) as generation:
            for token in generation:
                tokens.append(token)
                self._console.print(lines.line(token), soft_wrap=True)
        self._console.print(Text.assemble(("assistant  ", "dim"), (generation.text.strip(), "bold green")))
        with self._spinner("asking again over REST"):
            began_s = time.perf_counter()
            body = {
                "model": model.model_id,
                "messages": messages,
                "max_tokens": self._max_tokens,
                "temperature": 0,
                "activation_hooks": demo_hooks.rest_hooks(model),
            }
            completion = rest.complete(url, body)
            rest_ns = (time.perf_counter() - began_s) * 1e9
        with self._spinner("one forward pass over prompt and answer"):
            read = generation.cache.token_ids[0][:-1]  # the last token was generated and never read
            whole = client.capture(read, demo_hooks.hooks(model))
        self._console.print()
        detail = f"{format_bytes(completion.length_bytes)} of JSON in {format_duration(rest_ns)}"
        self._print_step("asked again over REST", detail)
        self._print_step("one forward pass", f"{len(read)} tokens, {format_bytes(whole.nbytes)}")
        return Generations(tokens, generation.cache, completion, whole, generation.text)

    def _write_files(self, results: DemoResults) -> None:
        cache = results.generations.cache
        tensors = self._output / "capture.safetensors"
        cache.save(tensors)
        self._print_file(tensors, f"{len(cache)} tensors; ActivationCache.load reads it")
        if find_spec("matplotlib") is None:
            self._console.print("  no picture: pip install 'neuroscope-mlx\\[viz]'", style="yellow")
        else:
            from neuroscope.viz.capture_picture import CapturedGeneration, draw

            token_ids = cache.token_ids[0]
            captured = CapturedGeneration(
                cache,
                [results.vocabulary[token_id] for token_id in token_ids],
                results.vocabulary,
                prompt_length=len(token_ids) - len(results.generations.tokens),
                title=f"{self._question} → {results.generations.text.strip()}",
                subtitle=describe(results.model),
                lens=results.lens,
            )
            picture = self._output / "capture.png"
            with self._spinner("drawing"):
                draw(captured, picture)
            self._print_file(picture, "logit lens, norms, attention")
        if results.found is not None and results.found.circuit is not None:
            self._write_circuit(results.found.circuit)
        json_path, html_path = trace_file.write(self._output / "trace.json", results.traces)
        self._print_file(json_path, "for ui.perfetto.dev")
        self._print_file(html_path, "the same as a page that opens offline")

    def _write_circuit(self, circuit: Circuit) -> None:
        page = self._output / "circuit.html"
        circuit.save(page)
        self._print_file(page, "the circuit as a page to look around in")
        if find_spec("matplotlib") is not None:
            picture = self._output / "circuit.png"
            with self._spinner("drawing"):
                circuit.save(picture)
            self._print_file(picture, "the same as a picture, with its faithfulness by size")

    def _print_conclusion(self, verified: Sequence[Verification]) -> bool:
        failed = [each.claim for each in verified if not each.passed]
        if failed:
            detail = Text(f"{len(failed)} of {len(verified)} claims do not hold:\n  " + "\n  ".join(failed))
            self._console.print(Panel(detail, border_style="red", title="failed", title_align="left"))
            return False
        detail = Text(f"all {len(verified)} claims hold", "green")
        self._console.print(Panel(detail, border_style="green", expand=False))
        return True

    def _lens(self, model: pb.Model) -> LogitLens | None:
        try:
            # A service in a container, or on another machine, has its folders elsewhere.
            return LogitLens.from_folder(model.model_path if Path(model.model_path).is_dir() else self._model)
        except MLXIntegrationError as error:
            self._console.print(f"  no logit lens: {error.message}", style="yellow", soft_wrap=True)
            return None

    def _print_model(self, info: ModelInfo) -> None:
        test = info.self_test
        held = sum(not check.failed_layers for check in test.identities)
        self._print_step("model", describe(info.model))
        bits = "logits bit-identical with all hooks" if test.logits_identical else "logits CHANGE under hooks"
        self._print_step("self-test", f"{bits}; {held} of {len(test.identities)} identities hold in every layer")

    def _print_heading(self, text: str) -> None:
        self._console.print()
        self._console.print(Rule(text, style="blue", align="left"))

    def _spinner(self, what: str) -> AbstractContextManager[object]:
        """A spinner; none on a recording, which would keep each of its frames."""
        return nullcontext() if self._console.record else self._console.status(what)

    def _print_step(self, what: str, detail: str) -> None:
        self._console.print(Text.assemble(("✓ ", "bold green"), f"{what:<22} ", (detail, "dim")), soft_wrap=True)

    def _print_verification(self, verified: Verification) -> None:
        mark, colour = ("✓ ", "bold green") if verified.passed else ("✗ ", "bold red")
        detail = (verified.detail, "dim" if verified.passed else "red")
        self._console.print(Text.assemble((mark, colour), f"{verified.claim:<47} ", detail), soft_wrap=True)

    def _print_file(self, path: Path, detail: str) -> None:
        size = format_bytes(path.stat().st_size)
        self._console.print(Text.assemble(f"  {path!s:<36} ", (f"{size:>8}  {detail}", "dim")), soft_wrap=True)


def _verify(results: DemoResults) -> list[Verification]:
    """The checks of the generations and of the trace."""
    generations, dtype = results.generations, dtype_name(results.model.dtype)
    same_text = generations.text == generations.rest.text
    verified = [
        verification.compare_pieces(demo_hooks.pieces_by_hook(generations.tokens), generations.rest.activations),
        Verification("both interfaces give the same text", same_text, repr(generations.rest.text.strip())),
        verification.compare_with_one_pass(generations.cache, generations.whole, dtype),
    ]
    if results.lens is not None:
        verified.append(verification.check_lens(results.lens, generations.cache, generations.tokens, dtype))
    verified.append(
        verification.check_single_trace(results.traces, (SERVICE_NAME, services.GATEWAY, services.INFERENCE))
    )
    if results.found is not None:
        verified += results.found.verified()
    return verified


def _check_processes_ended(process_ids: Sequence[int]) -> Verification:
    """Whether the services' process groups are gone."""
    left: list[int] = []
    for process_id in process_ids:
        try:
            os.killpg(process_id, 0)
            left.append(process_id)
        except ProcessLookupError:
            continue
    detail = f"processes {left} still run" if left else f"{len(process_ids)} process groups ended"
    return Verification("nothing is left running", not left, detail)
