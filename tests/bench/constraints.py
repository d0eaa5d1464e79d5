"""Constrained JSON: how many answers are valid, and what a constraint costs, beside free text.

    python -m tests.bench.constraints [FOLDER] [--schemas 200] [--rounds 12]

FOLDER has the model; by default the bundled one. Free and constrained generations of equally many tokens take turns.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from neuroscope.client import Client
from neuroscope_inference import blas
from tests.support.chat_templates import BUNDLED
from tests.support.json_schemas import make_schemas

PROMPT = "A list of things, as JSON:"
TOKENS = 64
MAX_TOKENS = 600
LONG: dict[str, Any] = {
    "type": "array",
    "minItems": 30,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 20, "maxLength": 40},
            "count": {"type": "integer", "minimum": 0, "maximum": 999},
            "kind": {"enum": ["fruit", "tool", "animal"]},
        },
        "required": ["name", "count", "kind"],
    },
}


def count_valid(client: Client, count: int) -> tuple[int, list[str]]:
    """How many answers satisfy their schema, half of them drawn at temperature 1; and what is wrong with the others."""
    wrong: list[str] = []
    for index, schema in enumerate(make_schemas(count, seed=1)):
        text = client.generate(
            PROMPT, json_schema=schema, max_tokens=MAX_TOKENS, temperature=float(index % 2), seed=index
        ).wait()
        try:
            Draft202012Validator(schema).validate(json.loads(text.text))
        except Exception as error:
            wrong.append(f"{json.dumps(schema)}: {text.text!r}: {error}")
    return count - len(wrong), wrong


def seconds(client: Client, **fields: Any) -> tuple[float, float]:
    """Seconds and CPU seconds from the first token to the last one of `TOKENS`."""
    tokens = iter(client.generate(PROMPT, max_tokens=TOKENS, temperature=1.0, seed=5, **fields))
    next(tokens)
    started, cpu = time.perf_counter(), time.process_time()
    count = 1 + sum(1 for _ in tokens)
    assert count == TOKENS, count
    return time.perf_counter() - started, time.process_time() - cpu


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=BUNDLED)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
    blas.load()  # before the engine imports mlx
    with Client("local") as client:
        client.load_model(str(options.folder))
        seconds(client, json_schema=LONG)  # builds the vocabulary
        if rows := [
            seconds(client, ignore_eos=True) + seconds(client, json_schema=LONG) for _ in range(options.rounds)
        ]:
            free, free_cpu, bound, bound_cpu = (statistics.median(column) for column in zip(*rows, strict=True))
            ratio = statistics.median(row[2] / row[0] for row in rows)
            cpu = statistics.median(row[3] / row[1] for row in rows)
            speed = TOKENS - 1
            print(f"tokens/s: free {speed / free:.1f}, constrained {speed / bound:.1f}; medians of {len(rows)} rounds")
            print(f"constrained / free: time {ratio:.3f}, CPU time {cpu:.3f}")
            print(f"CPU ms per token: free {1e3 * free_cpu / speed:.2f}, constrained {1e3 * bound_cpu / speed:.2f}")
        if options.schemas:
            valid, wrong = count_valid(client, options.schemas)
            print(*wrong, sep="\n", end="\n" if wrong else "")
            print(f"valid: {valid} of {options.schemas}")


if __name__ == "__main__":
    main()
