"""Makes docs/performance.md and its plots from what the benches measured.

    python -m tests.bench --full --json bench.json
    python -m scripts.make_performance_page bench.json [...]

Cases of files given later replace those of files given before. What was used is kept as docs/performance.json, and
without a file the page is made of that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from scripts.results import markdown_table, rounded

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "performance.md"
RESULTS = DOCS / "performance.json"
TAX_PLOT = DOCS / "images" / "performance_tax.svg"
CONCURRENCY_PLOT = DOCS / "images" / "performance_concurrency.svg"
PEER = "mlx-lm"
_BENCHES = ("wire", "capture", "tax", "concurrency", "rest", "sweep", "attribution", "analysis")
_COLOURS = ("#5b8def", "#3fb68b", "#e0a43a", "#d45f6a", "#9a7bd0")

_HEAD = """# Performance

What the service costs, measured by scripts of the repository: `make bench`, a table for each bench (`BENCH_ARGS="tax
--quick"` for one of them, in a hurry). This page is made of [performance.json](performance.json) by `python -m
scripts.make_performance_page`; the figures are of {machine}, MLX's CPU backend, {versions}. The machine is shared, and
other work ran beside some of them, so rates depend on that; ratios are taken within a run, those to mlx-lm between
processes that take turns of a quarter of a second.

## What captures cost

Tokens per CPU second of the service, to those of mlx-lm with the same weights in the same run: the median of {rounds}
rounds and its 90 % bootstrap interval. One BLAS thread for each. Decode is {tokens} tokens after a short prompt
beside `mlx_lm.stream_generate`; prefill a prompt of {prefill} tokens and one token after it. `one point` is the
residual stream behind a layer; `every point` is all that the model has, scores and patterns of every head among them.
Captures go to a client over gRPC, whose CPU time stands beside; `REST` goes through the gateway as NDJSON with base64,
and the gateway's CPU time counts as the service's.

![Tokens per CPU second to mlx-lm's](images/{tax_plot})

"""

_PREFILL = """
A prefill that captures the residual stream behind the last layer computes that layer's attention and MLP for every
position, which a prefill without captures never does: of twelve layers that is a twelfth of the work. That the ratios
lie near 1 all the same is the doing of short chunks, see [decisions.md](decisions.md).

## Many at once

Generations of {tokens} tokens at the same time, each of which captures another layer's residual stream; tokens per
second of all of them, and to one alone in the same round (medians of {rounds} rounds).

![Tokens per second of several generations at once](images/{concurrency_plot})

"""

_REST = """
## REST beside gRPC

The same chat over both, {tokens} tokens, medians of {rounds} rounds with 90 % intervals. `later` is how much later the
first token comes over REST; where the prompt's activations are asked for they come before it, and a client has to parse
them. CPU time is per generated token, the prompt's share included.

"""

_WIRE = """
## The wire

Tensors that are already computed, from one process to another, CPU seconds per 10^9 bytes. `tcp` is raw loopback TCP,
`gRPC alone` are bytes over gRPC that nobody looks at: what a codec cannot be faster than. Rates are compared with that
of raw TCP in turns. `shared` is what clients on the service's host get unless they say otherwise, over TCP too.

"""

_SWEEP = """
## Sweeps and attributions

How many patches a sweep of {model} runs in the time of one plain forward pass of mlx-lm, which takes turns with it;
from the call to the last value, both unedited runs included. `resid`: the residual stream before each of 12 layers at
16 positions. `heads`: 12 x 12 heads, each at all positions. `last`: each head at the last position. One by one it would
be less than 1. Medians of rounds; memory is the process's peak, weights included.

"""

_ATTRIBUTION = """
And the time that attributions take, in forward passes. `nodes`: attribution patching of every head, MLP and the input
at every position. `edges`: EAP-IG with 5 steps over all edges.

"""

_ANALYSIS = """
## Analyses

What the analysis service costs beside the inference service that makes the captures, on {model}: CPU seconds of both,
one BLAS thread for each, those of the analysis as a share of the other's, and the most memory that it held.

"""


def page(results: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    tax, concurrency, capture = results["tax"], results["concurrency"], results["capture"]
    kinds = {case["kind"]: case["tokens"] for case in tax["cases"] if case["captured"] == PEER}
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    text = _HEAD.format(
        machine=results["machine"],
        versions=versions,
        rounds=tax["rounds"],
        tokens=kinds["decode"],
        prefill=kinds["prefill"],
        tax_plot=TAX_PLOT.name,
    )
    text += markdown_table(
        (
            "model",
            "",
            "captured",
            "tokens per CPU s",
            "to mlx-lm",
            "90 % interval",
            "bar",
            "client, ms a token",
            "memory",
        ),
        map(_tax_row, tax["cases"]),
    )
    text += _PREFILL.format(
        tokens=concurrency["tokens"], rounds=concurrency["rounds"], concurrency_plot=CONCURRENCY_PLOT.name
    )
    text += markdown_table(
        ("model", "generations", "tokens per s", "to one", "bar"),
        (
            [c["model"], str(c["generations"]), f"{c['tokens_per_s']:.1f}", f"{c['to_one']:.2f}", _bar(c["bar"])]
            for c in concurrency["cases"]
        ),
    )
    rest = results["rest"]
    text += _REST.format(tokens=rest["tokens"], rounds=rest["rounds"]) + markdown_table(
        (
            "model",
            "captured",
            "way",
            "later, ms",
            "tokens per s, to gRPC",
            "KB a token",
            "CPU ms: inference",
            "gateway",
            "client",
        ),
        map(_rest_row, rest["cases"]),
    )
    text += _WIRE + markdown_table(
        ("case", "client", "server", "both", "MB/s", "of raw TCP", "per step of 200 tensors of 3 KiB"),
        map(_wire_row, results["wire"]["cases"]),
    )
    slow = capture["cases"][-1]
    text += (
        f"\nA capture of {slow['bytes'] / 1e6:.1f} MB ({capture['positions']} positions in chunks of "
        f"{capture['chunk_positions']}, width {capture['shape']['hidden_size']}, "
        f"{capture['shape']['num_hidden_layers']} layers) by a reader ten times slower than the engine: the server's "
        f"memory grew by {slow['growth_mb']:.0f} MB.\n"
    )
    counts = "tokens", "range", "rounds", "bar", "seconds", "peak MB", "to a forward pass's"
    text += _SWEEP.format(**results["sweep"]) + markdown_table(
        ("sweep", "patches", "per forward pass", *counts),
        (_counted(case, "patches", "patches_per_forward", "at least") for case in results["sweep"]["cases"]),
    )
    text += _ATTRIBUTION + markdown_table(
        ("attribution", "scores", "forward passes", *counts),
        (_counted(case, "scores", "forwards", "at most") for case in results["attribution"]["cases"]),
    )
    return (
        text
        + _ANALYSIS.format(**results["analysis"])
        + markdown_table(
            ("analysis", "tokens", "in prompts of", "CPU s", "of inference", "share", "bar", "peak MB", "bar"),
            map(_analysis_row, results["analysis"]["cases"]),
        )
    )


def _tax_row(case: Mapping[str, Any]) -> list[str]:
    low, high = case["interval_90"]
    named = [case["model"], f"{case['kind']} {case['tokens']}", case["captured"], f"{case['tokens_per_cpu_s']:.1f}"]
    if case["captured"] == PEER:
        return [*named, "1", "", "", "", f"{case['resident_mb']:.0f} MB"]
    return [
        *named,
        f"{case['to_mlx_lm']:.3f}",
        f"{low:.3f} to {high:.3f}",
        _bar(case["bar"]),
        f"{case['client_ms_per_token']:.2f}",
        f"x {case['memory_to_mlx_lm']:.2f}",
    ]


def _rest_row(case: Mapping[str, Any]) -> list[str]:
    def compared(name: str, digits: int) -> str:
        low, high = case[f"{name}_90"]
        return f"{case[name]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})" if low != high else ""

    used = [f"{case[f'{who}_ms_per_token']:.2f}" for who in ("inference", "gateway", "client")]
    return [
        case["model"],
        case["captured"],
        case["way"],
        compared("first_token_ms_later", 1),
        compared("tokens_per_s_to_grpc", 3),
        f"{case['bytes_per_token'] / 1e3:.1f}",
        *used,
    ]


def _wire_row(case: Mapping[str, Any]) -> list[str]:
    client, server = case["client_cpu_s_per_gb"], case["server_cpu_s_per_gb"]
    small = "client_cpu_ms_per_step" in case
    step = f"{case['client_cpu_ms_per_step']:.2f} + {case['server_cpu_ms_per_step']:.2f} ms" if small else ""
    rates = f"{client:.2f}", f"{server:.2f}", f"{client + server:.2f}", f"{case['mb_per_s']:.0f}"
    of_raw_tcp = f"{case['of_raw_tcp']:.2f}" if "of_raw_tcp" in case else ""
    return [case["case"], *rates, of_raw_tcp, step]


def _counted(case: Mapping[str, Any], what: str, ratio: str, bound: str) -> list[str]:
    """A row of what is counted in forward passes."""
    seconds = case["seconds"] if "seconds" in case else case["patches"] / case["patches_per_s"]
    return [
        case["name"],
        str(case[what]),
        f"{case[ratio]:.2f}",
        str(case["length"]),
        f"{case['lowest']:.2f} to {case['highest']:.2f}",
        str(case["rounds"]),
        _bar(case["bar"], bound),
        f"{seconds:.1f}",
        f"{case['peak_bytes'] / 1e6:.0f}",
        f"{case['peak_bytes'] / case['plain_peak_bytes']:.2f}",
    ]


def _analysis_row(case: Mapping[str, Any]) -> list[str]:
    return [
        case["name"],
        str(case["tokens"]),
        str(case["length"]),
        f"{case['analysis_cpu_s']:.1f}",
        f"{case['inference_cpu_s']:.1f}",
        f"{case['share']:.3f}",
        _bar(case["bar"], "at most"),
        f"{case['peak_bytes'] / 1e6:.0f}",
        _bar(case["most_bytes"] / 1e6, "at most"),
    ]


def _bar(bar: float | None, bound: str = "at least") -> str:
    return "" if bar is None else f"{bound} {bar:g}"


def draw(results: Mapping[str, Any]) -> None:
    """Writes the plots."""
    settings: Any = mpl.rcParams
    settings["svg.hashsalt"] = "neuroscope"  # the same figures make the same file
    cases = [case for case in results["tax"]["cases"] if case["captured"] != PEER]
    models = list(dict.fromkeys(case["model"] for case in cases))
    figure: Any = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("decode", "prefill"), strict=True):
        captured = list(dict.fromkeys(case["captured"] for case in cases if case["kind"] == kind))
        width = 0.8 / len(captured)
        for index, name in enumerate(captured):
            chosen = [case for case in cases if case["kind"] == kind and case["captured"] == name]
            places = [models.index(case["model"]) + (index - (len(captured) - 1) / 2) * width for case in chosen]
            values = [case["to_mlx_lm"] for case in chosen]
            spread = [
                [value - case["interval_90"][0] for value, case in zip(values, chosen, strict=True)],
                [case["interval_90"][1] - value for value, case in zip(values, chosen, strict=True)],
            ]
            axes.bar(places, values, width * 0.9, yerr=spread, label=name, color=_COLOURS[index], ecolor="#555555")
        axes.axhline(1, color="#888888", linewidth=0.8, linestyle="--")
        axes.set_xticks(range(len(models)), models)
        axes.set_title(kind)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("tokens per CPU second, to mlx-lm")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(TAX_PLOT, metadata={"Date": None})

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    cases = results["concurrency"]["cases"]
    for index, model in enumerate(dict.fromkeys(case["model"] for case in cases)):
        chosen = [case for case in cases if case["model"] == model]
        counts = [case["generations"] for case in chosen]
        axes.plot(counts, [case["to_one"] for case in chosen], "o-", label=model, color=_COLOURS[index])
    axes.set_xticks([1, 2, 4, 8])
    axes.set_xlabel("generations at once")
    axes.set_ylabel("tokens per second, to one")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(CONCURRENCY_PLOT, metadata={"Date": None})


def _merge(into: dict[str, Any], results: dict[str, Any]) -> None:
    """Puts results in, case by case."""
    for name, bench in results.items():
        if name in into and name in _BENCHES:
            cases = {_key(case): case for case in [*into[name]["cases"], *bench["cases"]]}
            models = list(dict.fromkeys(case.get("model") for case in cases.values()))
            kinds = list(dict.fromkeys(case.get("kind") for case in cases.values()))
            together = sorted(
                cases.values(), key=lambda case: (models.index(case.get("model")), kinds.index(case.get("kind")))
            )
            bench = {**bench, "cases": together}
        into[name] = bench


def _key(case: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        case.get(name) for name in ("model", "kind", "captured", "generations", "way", "case", "name", "length")
    )


def main() -> None:
    """Writes results, page and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path)
    files = parser.parse_args().results
    if files:
        merged: dict[str, Any] = {}
        for file in files:
            _merge(merged, rounded(json.loads(file.read_text())))
        RESULTS.write_text(json.dumps(merged, indent=1) + "\n")
    results = json.loads(RESULTS.read_text())
    PAGE.write_text(page(results))
    draw(results)


if __name__ == "__main__":
    main()
