"""`neuroscope weights` and `neuroscope project`: the model's matrices, and what directions predict, from the shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from neuroscope.calls.weights import LIMIT_BYTES
from neuroscope.cli.arguments import HeadsOption, LayersOption, parse_layers, parse_numbers
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import out
from neuroscope.cli.options import LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.saving import Saver
from neuroscope.cli.sweep import token_of
from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.vocabulary.tensors import Array
from neuroscope.weights import Weights
from neuroscope.wire import safetensors_file

_SAVER: Saver[Weights] = Saver({".safetensors": Weights.save})


def weights(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="W_Q, ln1.w, ..., or groups: attention, qk, ov, mlp, ... Default: all."
        ),
    ] = None,
    layers: LayersOption = "",
    heads: HeadsOption = "",
    norms: Annotated[bool, typer.Option("--norms", help="Norm, mean and deviation of each.")] = False,
    save: Annotated[list[Path] | None, _SAVER.option("the values")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16; empty: the model's own.")] = "",
    limit_gb: Annotated[float, typer.Option(min=0, help="Saves no more than that.")] = LIMIT_BYTES / 1e9,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Shows the model's weights by name, oriented as x @ W, and saves them."""
    _SAVER.check(save)
    connection = Connection.of(context, target, local, trace)
    with connection.open("weights") as client:
        chosen: dict[str, Any] = {
            "layers": parse_layers(layers) or (),
            "heads": parse_numbers(heads, "--heads") or (),
            "dtype": dtype,
        }
        model_id = connection.model_id(client, model)
        content = "summaries" if norms else "plan"
        found = client.weights(*names or (), **chosen, content=content, model_id=model_id)
        out.print(found.table())
        for note in found.notes:
            out.print(f"- {note}", style="dim", highlight=False)
        if save:
            values = client.weights(
                *names or (), **chosen, limit_bytes=int(limit_gb * 1e9), model_id=model_id, progress=True
            )
            _SAVER.write(values, save)


def project(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Vectors: .safetensors or .npy.")],
    tensor: Annotated[str, typer.Option("--tensor", help="Which tensor of the file; default: the only one.")] = "",
    top_k: Annotated[int, typer.Option(min=0, help="Likeliest tokens that are shown.")] = 5,
    token: Annotated[
        list[str] | None,
        typer.Option("--rank", metavar="TOKEN", help="A token whose rank is shown, #42 by its id; repeat it."),
    ] = None,
    no_norm: Annotated[
        bool, typer.Option("--no-norm", help="Without the final norm, for directions that are no residual stream.")
    ] = False,
    reference: Annotated[
        int | None, typer.Option(min=0, help="The row that the others' distributions are compared with.")
    ] = None,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Shows which tokens vectors of a file predict, through the model's own final norm and unembedding."""
    vectors = _vectors(file, tensor)
    connection = Connection.of(context, target, local, trace)
    with connection.open("project") as client:
        seen = client.project(
            vectors,
            top_k=top_k,
            tokens=[token_of(text) for text in token or ()],
            norm=not no_norm,
            reference=reference,
            model_id=connection.model_id(client, model),
        )
    out.print(seen.table())


def _vectors(file: Path, tensor: str) -> Array:
    """The vectors of a file.

    Raises:
        DataConversionError: it cannot be read.
        InvalidRequestError: it has several tensors and none is named, or none of that name.
    """
    try:
        if file.suffix == ".npy":
            return np.load(file, allow_pickle=False)
        arrays, _ = safetensors_file.read(file.read_bytes())
    except OSError as error:
        raise DataConversionError(f"{file}: {error.strerror or error}", field="file") from None
    except (ValueError, KeyError, TypeError, IndexError, EOFError):
        raise DataConversionError(f"{file} is no file of tensors", field="file") from None
    if not tensor and len(arrays) == 1:
        return next(iter(arrays.values()))
    if tensor not in arrays:
        what = f"no tensor {tensor!r}" if tensor else "several tensors"
        raise InvalidRequestError(f"{file} has {what}: {', '.join(arrays)}", field="tensor", valid=arrays)
    return arrays[tensor]
