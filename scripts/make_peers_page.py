"""Makes docs/peers.md and its plot from the results of `make bench-peers`.

    make bench-peers BENCH_ARGS="--json peers.json"
    python -m scripts.make_peers_page peers.json [...]

Benches of later files replace those of earlier ones. The merged results are docs/peers.json, which the page is made
of if no file is given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from scripts.results import markdown_table, rounded

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "peers.md"
RESULTS = DOCS / "peers.json"
PLOT = DOCS / "images" / "peers.svg"
MODELS = ("gpt2", "llama")
NOTHING, ALL = "nothing", "all residual points"
_COLOURS = {
    "NeuroScope": "#5b8def",
    "TransformerLens": "#3fb68b",
    "nnsight": "#e0a43a",
    "Hugging Face": "#d45f6a",
    "mlx-lm": "#999999",
}

_HEAD = """# Benchmarks against other libraries

The same work in other libraries and in NeuroScope, in one run: `make bench-peers`, which sets up an environment with
torch once. `python -m scripts.make_peers_page` makes this page from [peers.json](peers.json). Machine: {machine},
without a GPU, {versions}. Each library has one thread for matrix products.

All use the same weight files: random, 124 million parameters (gpt2 and llama, 12 layers of width 768, float32). Before
anything is measured, logits and residual streams must agree within 1e-4 of the largest entry, then generated tokens,
bytes captured and patch scores. A library that differs ends the run.

Here torch's kernels are faster than those of MLX's CPU backend, above all for single tokens; on Apple silicon MLX runs
on the GPU. So compare each library with itself, and with `mlx-lm`, which has NeuroScope's kernels.

![Tokens and patches per CPU second](images/{plot})

## Generation and long prompts

Greedy decoding of {tokens} tokens after a prompt of {prompt}; prefill of {prefill} tokens and one token. `all` captures
resid_pre, resid_mid and resid_post of 12 layers at every position, {megabytes:.0f} MB for a prefill. Medians of rounds
({rounds}), measured interleaved in turns of a quarter of a second; `all to none` is the median ratio within rounds.
Rounds differ by about a tenth, so smaller differences mean nothing.

* **NeuroScope**: `Client.generate(..., hooks=[...])` over gRPC; CPU time and memory of service and client together.
* **TransformerLens**: `TransformerBridge.generate` within `model.hooks(...)`. **nnsight**: `model.generate` with
  `tracer.cache(...)`. **Hugging Face**: `model.generate` with forward hooks. All in the caller's process.
* **mlx-lm**: `stream_generate`, without captures.
"""

_PATCHES = """
## Patches

Activation patching of `resid_pre` ({model}), {layers} layers x {positions} positions of a prompt of {prompt_tokens}
tokens, each alone, scored by a logit difference; rounds: {rounds}. `per forward` is the number of patches in the time
of the library's own plain forward pass and depends little on the machine. Libraries that patch one by one do a quarter
of the positions.

"""

_SERVING = """
## Chat

`POST /v1/chat/completions`, streamed to one client, {tokens} tokens; medians of {rounds} rounds, one server after the
other. mlx-lm's server uses the BLAS of NeuroScope (its own is many times slower); both return the same text.
`llama-85m` is random, with 12 layers, width 768 and 512 tokens. Steps of the bundled `neuroscope-tiny` (a million
parameters) are so short that the server's overhead dominates.

"""

_NUMBERS = """
## Numerical agreement

`tests/data/peers` holds TransformerLens' logits, residual streams, attention patterns, logit-lens predictions, head
ablations and residual patches for the bundled model and a small random gpt2 (`python -m tests.bench.peers.fixtures`).
`tests/integration/test_peer_numbers.py` reproduces them within 1e-4 of the largest entry.
"""


def page(results: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    captures = [case for model in MODELS for case in results[model]["cases"]]
    tokens = {case["kind"]: case["tokens"] for case in captures}
    text = _HEAD.format(
        machine=results["machine"],
        versions=", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        plot=PLOT.name,
        tokens=tokens["decode"],
        prefill=tokens["prefill"],
        prompt=results["gpt2"]["prompt_tokens"],
        rounds=", ".join(f"{model} {results[model]['rounds']}" for model in MODELS),
        megabytes=max(case["captured_mb"] for case in captures),
    )
    text += "".join(_captures_table(kind, captures) for kind in tokens)
    patches = results["patches"]
    text += _PATCHES.format(**patches) + markdown_table(
        ("library", "patches", "patches per CPU s", "patches per s", "per forward", "peak MB"),
        map(_patches_row, patches["cases"]),
    )
    serving = results["serving"]
    text += _SERVING.format(**serving) + markdown_table(
        ("model", "server", "first token, ms", "to mlx-lm", "tokens per s", "to mlx-lm", "CPU ms a token"),
        map(_serving_row, serving["cases"]),
    )
    text += _NUMBERS + "\n## Not measured\n\n"
    return text + "".join(f"* {name}: {why}.\n" for name, why in results["absent"].items())


def _captures_table(kind: str, cases: Sequence[Mapping[str, Any]]) -> str:
    """The cases of decode or of prefill, with a heading."""
    columns = (
        "model",
        "library",
        "tokens per CPU s, none/all",
        "all to none",
        "tokens per s, none/all",
        "peak MB, none/all",
    )
    nothing = [case for case in cases if case["captured"] == NOTHING and case["kind"] == kind]
    rows = [_captures_row(none, cases) for none in nothing]
    return f"\n### {kind.capitalize()}\n\n{markdown_table(columns, rows)}"


def _captures_row(none: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> list[str]:
    same = [case for case in cases if case["captured"] == ALL and _group(case) == _group(none)]
    pair = [none, *same]
    rates = ["/".join(f"{case[name]:.1f}" for case in pair) for name in ("tokens_per_cpu_s", "tokens_per_s")]
    ratio = f"{same[0]['to_nothing']:.2f}" if same else ""
    return [none["model"], none["library"], rates[0], ratio, rates[1], "/".join(filter(None, map(_megabytes, pair)))]


def _group(case: Mapping[str, Any]) -> tuple[str, str, str]:
    return case["model"], case["kind"], case["library"]


def _patches_row(case: Mapping[str, Any]) -> list[str]:
    rates = [f"{case[name]:.2f}" for name in ("patches_per_cpu_s", "patches_per_s", "patches_per_forward")]
    return [case["label"], str(case["patches"]), *rates, _megabytes(case)]


def _serving_row(case: Mapping[str, Any]) -> list[str]:
    return [
        case["model"],
        case["server"],
        f"{case['first_token_ms']:.1f}",
        f"{case['first_token_to_mlx']:.2f}",
        f"{case['tokens_per_s']:.1f}",
        f"{case['tokens_per_s_to_mlx']:.2f}",
        f"{case['cpu_ms_per_token']:.2f}",
    ]


def _megabytes(case: Mapping[str, Any]) -> str:
    return "" if case["peak_mb"] is None else f"{case['peak_mb']:.0f}"


def draw(results: Mapping[str, Any]) -> None:
    """Writes the plot."""
    settings: Any = mpl.rcParams
    settings["svg.hashsalt"] = "neuroscope"  # the same figures make the same file
    figure: Any = Figure(figsize=(10, 3.4), layout="constrained")
    decode, prefill, patches = figure.subplots(1, 3)
    for axes, kind in ((decode, "decode"), (prefill, "prefill")):
        _draw_captures(axes, [case for model in MODELS for case in results[model]["cases"] if case["kind"] == kind])
        axes.set_title(f"{kind}: tokens per CPU second")
    cases = results["patches"]["cases"][::-1]
    colours = [_COLOURS[case["label"].split(",")[0]] for case in cases]
    patches.barh(range(len(cases)), [case["patches_per_cpu_s"] for case in cases], color=colours)
    patches.set_yticks(range(len(cases)), [case["label"].replace(", ", ",\n") for case in cases], fontsize=7)
    patches.set_title("patches per CPU second")
    for axes in (decode, prefill, patches):
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = decode.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(PLOT, metadata={"Date": None})


def _draw_captures(axes: Any, cases: Sequence[Mapping[str, Any]]) -> None:
    """Bars with nothing captured, pale, and with every residual point."""
    models = list(dict.fromkeys(case["model"] for case in cases))
    libraries = [library for library in _COLOURS if any(case["library"] == library for case in cases)]
    width = 0.8 / len(libraries)
    for index, library in enumerate(libraries):
        for captured, alpha in ((NOTHING, 0.4), (ALL, 1.0)):
            chosen = [case for case in cases if case["library"] == library and case["captured"] == captured]
            places = [models.index(case["model"]) + (index - (len(libraries) - 1) / 2) * width for case in chosen]
            wide = width * (0.9 if captured == NOTHING else 0.5)
            label = library if captured == (NOTHING if library == "mlx-lm" else ALL) else None
            axes.bar(
                places,
                [case["tokens_per_cpu_s"] for case in chosen],
                wide,
                color=_COLOURS[library],
                alpha=alpha,
                label=label,
            )
    axes.set_xticks(range(len(models)), models)


def main() -> None:
    """Writes results, page and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path)
    files: list[Path] = parser.parse_args().results
    if files:
        merged: dict[str, Any] = {}
        for file in files:
            merged |= rounded(json.loads(file.read_text()))
        RESULTS.write_text(json.dumps(merged, indent=1) + "\n")
    results = json.loads(RESULTS.read_text())
    PAGE.write_text(page(results))
    draw(results)


if __name__ == "__main__":
    main()
