"""What analyses of captures cost beside the inference service that makes the captures.

    python -m tests.bench.analysis [--tokens 10000] [--length 500] [--json FILE]

Each analysis reads prompts of random tokens on a random llama of 124 million parameters, in an analysis service of its
own in front of one inference service. Told are the CPU seconds of both, of the analysis as a share of the other's, and
the most memory that the analysis service held. One BLAS thread for each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from neuroscope.analysis import AnalysisClient
from tests.bench.models import model_folder
from tests.support import processes
from tests.support.services import Service, inference_service, running

MOST_SHARE, MOST_BYTES = 0.25, 500e6
"""Bars."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
Asking = Callable[[AnalysisClient, list[list[int]]], Any]


def _part(part: str) -> Asking:
    return lambda client, prompts: client.analyze_residual_stream(prompts, parts=[part], answer=7)


ANALYSES: Mapping[str, Asking] = {
    "attention": lambda client, prompts: client.analyze_attention(prompts, roles=()),
    "contributions": _part("contributions"),
    "attribution": _part("attribution"),
    "lens": _part("lens"),
    "routing": _part("routing"),
}


def run(
    tokens: int = 10_000,
    length: int = 500,
    analyses: Sequence[str] = tuple(ANALYSES),
    model: str = "llama",
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measures.

    Args:
        tokens: of all prompts.
        length: of each.
        analyses: which.
        model: a random one of `tests.bench.models`.
        progress: told what is measured.
    """
    prompts = np.random.default_rng(0).integers(5, 500, (-(-tokens // length), length)).tolist()
    cases: list[dict[str, Any]] = []
    with model_folder(model) as folder, inference_service(folder, environment=ONE_THREAD) as below:
        for name in analyses:
            arguments = ("--port", "0", "--inference", below.target)
            with (
                running("neuroscope_analysis", *arguments, environment=ONE_THREAD) as service,
                AnalysisClient(service.target) as client,
            ):
                ANALYSES[name](client, [prompts[0][:16]])
                progress(name)
                cases.append(_measured(name, client, prompts, service, below))
    return {"model": f"{model}-124m", "cases": cases}


def _measured(
    name: str, client: AnalysisClient, prompts: list[list[int]], service: Service, below: Service
) -> dict[str, Any]:
    began, before = time.perf_counter(), (service.cpu_seconds(), below.cpu_seconds())
    ANALYSES[name](client, prompts)
    seconds = time.perf_counter() - began
    analysis_s, inference_s = (each.cpu_seconds() - was for each, was in zip((service, below), before, strict=True))
    return {
        "name": name,
        "length": len(prompts[0]),
        "tokens": sum(map(len, prompts)),
        "analysis_cpu_s": analysis_s,
        "inference_cpu_s": inference_s,
        "share": analysis_s / inference_s,
        "bar": MOST_SHARE,
        "seconds": seconds,
        "peak_bytes": processes.peak_resident_bytes(service.process.pid),
        "most_bytes": MOST_BYTES,
    }


def table(result: dict[str, Any]) -> Table:
    """The results as a table."""
    found = Table(title=f"Analyses beside the inference service, on {result['model']}", title_justify="left")
    for column in ("analysis", "tokens", "CPU s", "inference", "share", "bar", "seconds", "MB"):
        found.add_column(column, justify="left" if column == "analysis" else "right")
    for case in result["cases"]:
        found.add_row(
            case["name"],
            f"{case['tokens']} in prompts of {case['length']}",
            f"{case['analysis_cpu_s']:.2f}",
            f"{case['inference_cpu_s']:.2f}",
            f"{case['share']:.3f}",
            f"{case['bar']:g}",
            f"{case['seconds']:.1f}",
            "" if case["peak_bytes"] is None else f"{case['peak_bytes'] / 1e6:.0f}",
        )
    return found


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("analyses", nargs="*", help=f"{', '.join(ANALYSES)}; all if none is named")
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--length", type=int, default=500)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.analyses) - set(ANALYSES):
        parser.error(f"there is no analysis {', '.join(sorted(unknown))}")
    chosen = options.analyses or tuple(ANALYSES)
    result = run(options.tokens, options.length, chosen, progress=lambda text: print(text, file=sys.stderr))
    Console().print(table(result))
    if options.json:
        options.json.write_text(json.dumps({"analysis": result}, indent=2))


if __name__ == "__main__":
    main()
