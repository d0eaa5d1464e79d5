"""Runs the benches, one after the other, and prints what they found.

    python -m tests.bench [wire] [capture] [tax] [concurrency] [rest] [sweep] [attribution] [analysis]
        [--quick|--full] [--json FILE] [--traces FOLDER]

`--quick` takes two minutes instead of about ten: less data and fewer rounds, so figures that are further off. `--full`
takes an hour and a half, and has the figures of docs/performance.md, which `python -m scripts.make_performance_page`
makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench import analysis, attribution, capture, concurrency, program, rest, sweep, tax, wire
from tests.bench.program import Bench

BENCHES: Mapping[str, Bench] = {
    "wire": Bench(wire.run, wire.table, usual={"gigabytes": 1, "rounds": 1}, quick={"gigabytes": 0.2, "rounds": 1}),
    "capture": Bench(capture.run, capture.table, quick={"gigabytes": 0.2, "rounds": 1}),
    "tax": Bench(
        tax.run,
        tax.table,
        usual={"rounds": 2, "tokens": 32},
        quick={"models": ("llama", "bundled"), "rounds": 1, "tokens": 8},
        full={"rounds": 20, "tokens": 128},
        traces=True,
    ),
    "concurrency": Bench(
        concurrency.run,
        concurrency.table,
        usual={"rounds": 1, "tokens": 16},
        quick={"models": ("llama", "bundled"), "rounds": 1, "tokens": 16},
        full={"rounds": 5, "tokens": 64},
    ),
    "rest": Bench(
        rest.run,
        rest.table,
        usual={"models": ("bundled",), "rounds": 4, "tokens": 24},
        quick={"models": ("bundled",), "rounds": 2, "tokens": 16},
        full={"rounds": 10, "tokens": 64},
    ),
    "sweep": Bench(
        sweep.run,
        sweep.table,
        usual={"rounds": 1},
        quick={"rounds": 1, "sweeps": ("resid", "last")},
        full={"rounds": 10, "lengths": (64, 256, 1024)},
    ),
    "attribution": Bench(
        attribution.run,
        attribution.table,
        usual={"rounds": 1},
        quick={"rounds": 1},
        full={"rounds": 10, "lengths": (64, 256)},
    ),
    "analysis": Bench(
        analysis.run,
        analysis.table,
        usual={"tokens": 1000},
        quick={"tokens": 500, "analyses": ("attention", "routing")},
    ),
}

if __name__ == "__main__":
    program.main("python -m tests.bench", __doc__, BENCHES, {})
