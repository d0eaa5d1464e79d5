"""Makes docs/performance.md and its plots from the results of the benches.

    python -m tests.bench --full --json bench.json
    python -m scripts.make_performance_page bench.json [...]

Cases of later files replace those of earlier ones. The merged results are docs/performance.json, which the page is made
of if no file is given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
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

What the services cost, measured by `make bench` (`BENCH_ARGS="tax --quick"`: one bench, quickly). `python -m
scripts.make_performance_page` makes this page from [performance.json](performance.json). Machine: {machine}, MLX's CPU
backend, {versions}. Other work ran beside some benches, which affects rates; ratios are taken within a run, those to
mlx-lm between processes that alternate every quarter of a second.

## Captures

Tokens per CPU second of the service, relative to mlx-lm with the same weights: median of {rounds} rounds (90 %
bootstrap interval), one BLAS thread each. Decode: {tokens} tokens after a short prompt, `mlx_lm.stream_generate` for
mlx-lm. Prefill: a prompt of {prefill} tokens and one token. `one point` is the residual stream after one layer; `every
point` includes scores and patterns of every head. The client uses gRPC; `REST` uses the gateway (NDJSON, base64), whose
CPU time counts as the service's.

![Tokens per CPU second, relative to mlx-lm](images/{tax_plot})

"""

_PREFILL = """A prefill that captures the residual stream after the last layer computes that layer at every position,
which a plain prefill skips: of twelve layers, a twelfth of the work. Short chunks keep the ratios near 1
([decisions.md](decisions.md#engine)).

## Concurrency

Simultaneous generations of {tokens} tokens, each capturing another layer's residual stream: total tokens per second
(relative to a single generation in the same round; bar), medians of {rounds} rounds.

![Tokens per second of simultaneous generations](images/{concurrency_plot})

"""

_REST = """
## REST compared with gRPC

The same chat over both, {tokens} tokens, medians of {rounds} rounds with 90 % intervals. `later` is the delay of the
first token over REST; with activations it includes receiving and parsing the prompt's. CPU time is per generated token,
the prompt included.

"""

_WIRE = """
## The wire

CPU seconds per 10^9 bytes of tensors that are already computed, between two processes. `tcp` is raw loopback TCP; `gRPC
alone` moves bytes without a codec, the bound for any codec. Rates are measured interleaved with raw TCP. `shared` is
the default for clients on the service's host, over TCP too.

"""

_SWEEP = """
## Sweeps and attributions

Patches that a sweep of {model} runs in the time of one plain forward pass of mlx-lm, measured interleaved, with both
unedited runs included. `resid`: the residual stream before each of 12 layers at 16 positions. `heads`: 12 x 12 heads at
all positions. `last`: each head at the last position. One by one would be less than 1. Medians of rounds; memory is the
peak of the process, with weights.

"""

_ATTRIBUTION = """
The time of attributions, in forward passes. `nodes`: attribution patching of every head, MLP and the input at every
position. `edges`: EAP-IG with 5 steps over all edges.

"""

_ANALYSIS = """
## Analyses

CPU seconds of analysis and inference service on {model} with prompts of {length} tokens, one BLAS thread each, their
ratio (bar {share}), and peak memory of the analysis service (bar {memory} MB).

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
    text += "".join(_tax_table(kind, tokens, tax["cases"]) for kind, tokens in kinds.items())
    text += _PREFILL.format(
        tokens=concurrency["tokens"], rounds=concurrency["rounds"], concurrency_plot=CONCURRENCY_PLOT.name
    )
    text += _concurrency_table(concurrency["cases"])
    rest = results["rest"]
    text += _REST.format(tokens=rest["tokens"], rounds=rest["rounds"]) + markdown_table(
        (
            "model",
            "captured",
            "protocol",
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
        ("case", "client", "server", "MB/s", "of raw TCP", "ms per step of 200 tensors of 3 KiB"),
        map(_wire_row, results["wire"]["cases"]),
    )
    slow = capture["cases"][-1]
    text += (
        f"\nA reader ten times slower than the engine, of a capture of {slow['bytes'] / 1e6:.1f} MB "
        f"({capture['positions']} positions in chunks of {capture['chunk_positions']}, width "
        f"{capture['shape']['hidden_size']}, {capture['shape']['num_hidden_layers']} layers): the server's memory grew "
        f"by {slow['growth_mb']:.0f} MB.\n"
    )
    counts = "tokens", "range", "rounds", "bar", "seconds", "peak MB", "to a forward pass's"
    text += _SWEEP.format(**results["sweep"]) + markdown_table(
        ("sweep", "patches", "per forward pass", *counts),
        (_counted(case, "patches", "patches_per_forward", "≥") for case in results["sweep"]["cases"]),
    )
    text += _ATTRIBUTION + markdown_table(
        ("attribution", "scores", "forward passes", *counts),
        (_counted(case, "scores", "forwards", "≤") for case in results["attribution"]["cases"]),
    )
    analyses = results["analysis"]["cases"]
    return (
        text
        + _ANALYSIS.format(
            model=results["analysis"]["model"],
            length=_common(case["length"] for case in analyses),
            share=_bar(_common(case["bar"] for case in analyses), "≤"),
            memory=_bar(_common(case["most_bytes"] / 1e6 for case in analyses), "≤"),
        )
        + markdown_table(
            ("analysis", "tokens", "CPU s", "of inference", "ratio", "peak MB"), map(_analysis_row, analyses)
        )
    )


def _common(values: Iterable[Any]) -> Any:
    """The value that all cases have."""
    (value,) = set(values)
    return value


def _tax_table(kind: str, tokens: int, cases: Sequence[Mapping[str, Any]]) -> str:
    """The cases of decode or of prefill, with a heading."""
    columns = "model", "captured", "tokens per CPU s", "to mlx-lm", "bar", "client, ms a token", "memory, to mlx-lm"
    rows = (_tax_row(case, tokens) for case in cases if case["kind"] == kind)
    return f"### {kind.capitalize()}\n\n{markdown_table(columns, rows)}\n"


def _tax_row(case: Mapping[str, Any], tokens: int) -> list[str]:
    low, high = case["interval_90"]
    captured = case["captured"] + ("" if case["tokens"] == tokens else f", {case['tokens']} tokens")
    named = [case["model"], captured, f"{case['tokens_per_cpu_s']:.1f}"]
    if case["captured"] == PEER:
        return [*named, "1", "", "", f"{case['resident_mb']:.0f} MB"]
    return [
        *named,
        f"{case['to_mlx_lm']:.3f} ({low:.3f}-{high:.3f})",
        _bar(case["bar"]),
        f"{case['client_ms_per_token']:.2f}",
        f"{case['memory_to_mlx_lm']:.2f}",
    ]


def _concurrency_table(cases: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model, a column for each number of generations."""
    counts = sorted({case["generations"] for case in cases})
    cells: dict[str, dict[int, str]] = {}
    for case in cases:
        bar = f"; {_bar(case['bar'])}" if case["bar"] else ""
        rate = f"{case['tokens_per_s']:.1f} ({case['to_one']:.2f}{bar})"
        cells.setdefault(case["model"], {})[case["generations"]] = rate
    rows = ([model, *(found[count] for count in counts)] for model, found in cells.items())
    return markdown_table(("generations", *map(str, counts)), rows)


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
    step = f"{case['client_cpu_ms_per_step']:.2f} + {case['server_cpu_ms_per_step']:.2f}" if small else ""
    of_raw_tcp = f"{case['of_raw_tcp']:.2f}" if "of_raw_tcp" in case else ""
    return [case["case"], f"{client:.2f}", f"{server:.2f}", f"{case['mb_per_s']:.0f}", of_raw_tcp, step]


def _counted(case: Mapping[str, Any], what: str, ratio: str, bound: str) -> list[str]:
    """A row of a table whose unit is a forward pass."""
    seconds = case["seconds"] if "seconds" in case else case["patches"] / case["patches_per_s"]
    return [
        case["name"],
        str(case[what]),
        f"{case[ratio]:.2f}",
        str(case["length"]),
        f"{case['lowest']:.2f}-{case['highest']:.2f}" if case["rounds"] > 1 else "",
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
        f"{case['analysis_cpu_s']:.1f}",
        f"{case['inference_cpu_s']:.1f}",
        f"{case['share']:.3f}",
        f"{case['peak_bytes'] / 1e6:.0f}",
    ]


def _bar(bar: float | None, bound: str = "≥") -> str:
    return "" if bar is None else f"{bound}{bar:g}"


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
    figure.axes[0].set_ylabel("tokens per CPU second, relative to mlx-lm")
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
    axes.set_xlabel("simultaneous generations")
    axes.set_ylabel("tokens per second, relative to one")
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
