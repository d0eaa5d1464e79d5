"""Measures the same work in other libraries, beside ours and in the same run, and prints what it found.

    make bench-peers [BENCH_ARGS="gpt2 llama patches serving --quick|--full --json FILE"]

gpt2, llama   generating with every residual point captured and with none, and long prompts, on a random model of
              124 million parameters
patches       activation patching
serving       mlx-lm's own server beside the gateway

That all of them load the same weights, and compute and capture the same numbers, is checked before anything is
measured. A quarter of an hour; `python -m scripts.make_peers_page` makes docs/peers.md of the results.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.bench import program
from tests.bench.peers import captures, environment, patches, serving
from tests.bench.peers.weights import MODELS
from tests.bench.program import Bench

BENCHES: Mapping[str, Bench] = {
    **{
        model: Bench(
            captures.run,
            captures.table,
            usual={"models": [model]},
            quick={"models": [model], "rounds": 1, "tokens": 16, "prefill_tokens": 128},
            full={"models": [model], "rounds": 5, "tokens": 128},
        )
        for model in MODELS
    },
    "patches": Bench(patches.run, patches.table, quick={"positions": 2}, full={"rounds": 3}),
    "serving": Bench(serving.run, serving.table, quick={"rounds": 2, "tokens": 16}, full={"rounds": 20}),
}

if __name__ == "__main__":
    about = {"versions": environment.versions(), "absent": environment.absent()}
    program.main("python -m tests.bench.peers", __doc__, BENCHES, about)
