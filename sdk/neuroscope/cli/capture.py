"""`neuroscope capture`: one forward pass, and what the hooks saw, as a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from neuroscope.cli.arguments import HOOK_HELP, KvBitsOption, KvGroupSizeOption, conversation, parse_hooks, read_prompt
from neuroscope.cli.connection import Connection
from neuroscope.cli.console import err, out
from neuroscope.cli.options import LocalOption, ModelOption, TargetOption, TraceOption
from neuroscope.cli.saving import CACHE
from neuroscope.tracing.waterfall import format_bytes, format_duration
from neuroscope.vocabulary.counts import counted


def capture(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads standard input.")],
    site: Annotated[list[str], typer.Option("--site", "-s", metavar="SITE", help=HOOK_HELP)],
    save: Annotated[list[Path] | None, CACHE.option("what was captured")] = None,
    chat: Annotated[bool, typer.Option("--chat/--raw", help="As a chat message, or as it is.")] = False,
    stop_at_layer: Annotated[int | None, typer.Option(min=0, help="Runs only the layers before this one.")] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Says what it would cost, and captures nothing.")
    ] = False,
    kv_bits: KvBitsOption = None,
    kv_group_size: KvGroupSizeOption = 64,
    model: ModelOption = "",
    target: TargetOption = None,
    local: LocalOption = False,
    trace: TraceOption = None,
) -> None:
    """Runs a prompt once and shows, or saves, what was captured."""
    CACHE.check(save)
    text = read_prompt(prompt)
    sites = parse_hooks(site, "--site")
    connection = Connection.of(context, target, local, trace)
    with connection.open("capture") as client:
        model_id = connection.model_id(client, model)
        content = conversation(text) if chat else text
        how: dict[str, Any] = {"stop_at_layer": stop_at_layer, "kv_bits": kv_bits, "kv_group_size": kv_group_size}
        if estimate:
            cost = client.estimate_capture(content, sites, model_id=model_id, **how)
            out.print(
                f"tensors {format_bytes(cost.tensor_bytes)} ({cost.tensor_bytes} bytes) in {cost.chunk_count} chunks, "
                f"memory about {format_bytes(cost.peak_memory_bytes)} besides the weights",
                soft_wrap=True,
            )
            return
        began_s = time.perf_counter()
        cache = client.capture(content, sites, model_id=model_id, **how, progress=True)
        took_ns = (time.perf_counter() - began_s) * 1e9
    out.print(cache)
    summary = f"{counted(len(cache.token_ids[0]), 'token')}, {format_bytes(cache.nbytes)} in {format_duration(took_ns)}"
    err.print(summary, style="dim", soft_wrap=True)
    CACHE.write(cache, save)
