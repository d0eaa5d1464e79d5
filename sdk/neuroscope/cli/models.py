"""`neuroscope models`: list, get, load, unload, info."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from neuroscope.base_client.progress import load_listener
from neuroscope.cli.bundled import NAME, require_bundled_model
from neuroscope.cli.connection import Connection, chosen_model, describe
from neuroscope.cli.console import err, out
from neuroscope.cli.options import LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.errors import InvalidRequestError
from neuroscope.named_models.catalogue import CATALOGUE, named_model
from neuroscope.named_models.fetching import fetch
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.counts import counted
from neuroscope.vocabulary.message_text import plain
from neuroscope.vocabulary.tensors import dtype_name

app = typer.Typer(no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Prints JSON.")]


@app.command("list")
def list_models(
    context: typer.Context,
    as_json: JsonOption = False,
    target: TargetOption = None,
    trace: TraceOption = None,
) -> None:
    """Lists the loaded models."""
    with Connection.of(context, target, trace=trace).open("models list") as client:
        models = client.models()
    if as_json:
        out.print_json(data=[_as_dict(model) for model in models])
        return
    if not models:
        err.print("no model is loaded; load one with: neuroscope models load PATH", style="yellow")
    else:
        table = Table(box=SIMPLE_HEAD)
        for name in ("model", "architecture", "layers", "width", "heads", "parameters", "weights", "form"):
            left = name in ("model", "architecture", "form")
            table.add_column(name, justify="left" if left else "right", no_wrap=name != "model")
        for model in models:
            table.add_row(
                f"[bold]{model.model_id}[/]",
                model.architecture,
                str(model.num_layers),
                str(model.d_model),
                _heads(model),
                f"{model.parameter_count / 1e6:,.1f} M",
                f"{model.weights_bytes / 1e6:,.1f} MB",
                _form(model),
            )
        out.print(table)
    loaded = {model.model_path for model in models}
    for named in CATALOGUE.values():
        if named.is_fetched and named.name not in loaded:
            out.print(f"[bold]{named.name}[/] is fetched, and not loaded: neuroscope models load {named.name}")


@app.command()
def get(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help=f"{', '.join(CATALOGUE)}; without a name: lists them.")
    ] = "",
) -> None:
    """Fetches a real model by pip into the cache folder, and checks its hash; it is then loaded by its name."""
    if not name:
        _list_named()
        return
    model = named_model(name)
    was_there = model.is_fetched
    with load_listener(True) as report:
        path = fetch(
            model,
            lambda done, total: report(pb.LoadProgress(phase=pb.LOAD_PHASE_FETCH, bytes_done=done, bytes_total=total)),
        )
    state = "is there already" if was_there else "is fetched"
    out.print(f"[green]✓[/] [bold]{name}[/] {state}: {path}", soft_wrap=True)
    out.print(f"load it with: neuroscope models load {name}; or use it at once: --local --model {name}", soft_wrap=True)


@app.command()
def load(
    context: typer.Context,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help=f"Folder or GGUF file at the service, hub id, or a name: {', '.join((NAME, *CATALOGUE))}.",
        ),
    ],
    model_id: Annotated[str, typer.Option("--id", help="Name in requests; by default the last part of PATH.")] = "",
    revision: Annotated[str, typer.Option(help="Branch, tag or commit on the hub.")] = "",
    adapter: Annotated[str, typer.Option(metavar="PATH", help="Folder of a LoRA adapter.")] = "",
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="float32, float16 or bfloat16; by default that of the files.")
    ] = "",
    dequantize: Annotated[
        bool | None,
        typer.Option(
            "--dequantize/--keep-quantized",
            help="Quantised weights become plain ones, or stay; by default those of GGUF do on MLX's CPU backend.",
        ),
    ] = None,
    target: TargetOption = None,
    trace: TraceOption = None,
) -> None:
    """Loads a model into the service and shows what its self-test proved."""
    if path == NAME:
        path = str(require_bundled_model())
    with Connection.of(context, target, trace=trace).open("models load") as client:
        model = client.load_model(
            path,
            model_id=model_id,
            revision=revision,
            adapter_path=adapter,
            dtype=dtype,
            dequantize=dequantize,
            progress=True,
        )
        self_test = client.model(model.model_id).self_test
    out.print(f"[green]✓[/] [bold]{describe(model)}[/]")
    for note in model.notes:
        out.print(Text(f"  {note}", "dim"), soft_wrap=True)
    out.print(_self_test_table(self_test))


@app.command()
def unload(
    context: typer.Context,
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="Id of a loaded model.")] = "",
    named: ModelOption = "",
    target: TargetOption = None,
    trace: TraceOption = None,
) -> None:
    """Frees a model."""
    chosen = chosen_model(model_id, named)
    if not chosen:
        raise InvalidRequestError("unload needs the id of a model", field="MODEL")
    with Connection.of(context, target, trace=trace).open("models unload") as client:
        client.unload_model(chosen)
    out.print(f"[green]✓[/] {chosen} is unloaded")


@app.command()
def info(
    context: typer.Context,
    model_id: Annotated[str, typer.Argument(metavar="[MODEL]", help="By default the one loaded first.")] = "",
    named: ModelOption = "",
    as_json: JsonOption = False,
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Describes a model: shape, tokens, self-test. `neuroscope hooks` lists its points."""
    connection = Connection.of(context, target, local, trace)
    with connection.open("models info") as client:
        found = client.model(connection.model_id(client, chosen_model(model_id, named)))
    model = found.model
    if as_json:
        out.print_json(data=_as_dict(model) | {"self_test": _as_dict(found.self_test)})
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title=model.model_id, title_justify="left")
    table.add_column(style="dim")
    available = sum(point.available for point in found.points)
    rows = {
        "path": model.model_path,
        "architecture": f"{model.architecture}, {counted(model.num_layers, 'layer')}, width {model.d_model}",
        "attention": f"{_heads(model)} heads of {model.d_head}",
        "vocabulary": f"{model.vocab_size} tokens",
        "context": f"{model.context_length} tokens" if model.context_length else "unknown",
        "parameters": f"{model.parameter_count:,} in {model.weights_bytes / 1e6:,.1f} MB, {dtype_name(model.dtype)}",
        "quantised": "; ".join(map(_quantization, model.quantization)) or "no",
        "notes": "\n".join(model.notes) or "none",
        "weights": model.weights_hash or "unknown",
        "chat template": "yes" if model.has_chat_template else "no",
        "bos, eos": f"{model.bos_token_id if model.HasField('bos_token_id') else 'none'}, {list(model.eos_token_ids)}",
        "hook points": f"{available} of {len(found.points)} available",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)
    out.print(_self_test_table(found.self_test))


def _list_named() -> None:
    table = Table(box=SIMPLE_HEAD)
    for column in ("name", "what it is", "from", "download", "here"):
        table.add_column(column, justify="right" if column == "download" else "left")
    for model in CATALOGUE.values():
        size = f"{model.wheel_bytes / 1e6:,.0f} MB"
        here = "yes" if model.is_fetched else "no"
        table.add_row(f"[bold]{model.name}[/]", model.description, model.requirement, size, here)
    out.print(table)


def _form(model: pb.Model) -> str:
    """The weights' type, and the bits of those that are quantised."""
    bits = sorted({form.bits for form in model.quantization})
    return dtype_name(model.dtype) + (f", {'/'.join(map(str, bits))} bits" if bits else "")


def _quantization(form: pb.Quantization) -> str:
    return f"{form.matrices} matrices in {form.bits} bits, groups of {form.group_size}, {form.mode}"


def _heads(model: pb.Model) -> str:
    if not model.num_heads:
        return "none"
    shared = model.num_kv_heads and model.num_kv_heads != model.num_heads
    return f"{model.num_heads}" + (f" / {model.num_kv_heads} kv" if shared else "")


def _self_test_table(test: pb.SelfTest) -> Table:
    """What the self-test proved, one line for each identity."""
    table = Table(
        box=SIMPLE_HEAD,
        title=f"self-test: {counted(test.token_count, 'token')}, {test.duration_ms:.0f} ms",
        title_justify="left",
    )
    for name in ("", "identity", "worst error", "allowed", "failed layers"):
        table.add_column(name)
    mark = "[green]✓[/]" if test.logits_identical else "[red]✗[/]"
    table.add_row(mark, "logits with every point captured == plain logits", "bit for bit", "", "")
    for check in test.identities:
        failed = ", ".join(str(layer) for layer in check.failed_layers)
        mark = "[red]✗[/]" if failed else "[green]✓[/]"
        table.add_row(mark, check.name, f"{check.worst_relative_error:.1e}", f"{check.tolerance:.0e}", failed)
    return table


def _as_dict(message: pb.Model | pb.SelfTest) -> dict[str, object]:
    return plain(message, defaults=True)
