"""Patches per second: the clean prompt's resid_pre put into the corrupted run, a layer and position at a time.

The residual stream before every layer at every fourth of PROMPT_TOKENS positions; the metric is a difference of two
logits at the last position, and all libraries must find the same. They take turns of a quarter of a second. A further
figure, patches in the time of a plain forward pass of the same library, holds on any machine.

To add a way: a `patch` (and `forward`) in the library's class of `workers`, and an Entrant.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from tests.bench.peers.agreement import TOLERANCE, DisagreementError, require_agreement
from tests.bench.peers.contestants import HUGGING_FACE, OURS, contestants, in_turns
from tests.bench.peers.weights import shared_folder
from tests.bench.peers.workers.library import PatchWay
from tests.bench.tax import token_ids
from tests.bench.turns import Taken
from tests.support.compare import describe_difference

MODEL = "gpt2"
PROMPT_TOKENS = 64
TARGETS = (5, 7)
FORWARDS = 8  # timed together


@dataclass(frozen=True)
class Entrant:
    """A library and its way of running a sweep."""

    label: str
    library: str
    way: PatchWay = ""
    every: int = 1
    """It patches one in so many of the positions: who runs patches one by one does fewer at the same rate."""


ENTRANTS = (
    Entrant("NeuroScope, Client.patch", OURS),
    Entrant("TransformerLens, patching.generic_activation_patch", "TransformerLens", every=4),
    Entrant("nnsight, a trace each", "nnsight", every=4),
    Entrant("Hugging Face, batches of 16", HUGGING_FACE, "all logits"),
    Entrant("Hugging Face, batches of 16, logits_to_keep=1", HUGGING_FACE, "last logits"),
)


def run(rounds: int = 1, *, positions: int = 16, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measures the random gpt2 of 124 million parameters.

    Args:
        rounds: of every entrant.
        positions: how many of the prompt's are patched, evenly spaced.
        progress: is told what begins.
    """
    progress(f"{MODEL}: a model")
    with shared_folder(MODEL) as folder:
        return measure(folder, rounds, positions=positions, progress=progress)


def measure(
    folder: Path, rounds: int, *, positions: int = 16, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """The entrants with one model.

    Raises:
        DisagreementError: they find different numbers.
    """
    clean = token_ids(PROMPT_TOKENS)
    corrupted = [320 - token for token in clean]  # ids of 11 to 310
    chosen = list(range(0, PROMPT_TOKENS, PROMPT_TOKENS // positions))
    progress(f"{folder.name}: loading")
    with contestants(folder, [entrant.library for entrant in ENTRANTS]) as processes:
        progress(f"{folder.name}: whether they agree")
        require_agreement(processes, clean)
        taken: list[list[Taken]] = []
        plain: list[list[Taken]] = []
        question: dict[str, Any] = {"clean": clean, "corrupted": corrupted, "targets": TARGETS}
        ways = [{"way": entrant.way, "positions": chosen[:: entrant.every]} for entrant in ENTRANTS]
        in_turns(processes, 0, "forward", ids=corrupted, times=1)
        in_turns(processes, 0, "patch", positions=chosen[:1], **question)
        for one in processes:
            one.forget_peak()
        for index in range(rounds):
            progress(f"{folder.name}: round {index + 1} of {rounds}")
            plain.append(in_turns(processes, index, "forward", ids=corrupted, times=FORWARDS))
            taken.append(in_turns(processes, index, "patch", each=ways, **question))
        scores = [np.array(run.result["values"]) for run in taken[0]]
        _require_same_scores(scores)
        cases = [
            {"label": entrant.label, **_figures(score.size, runs, forwards, one.peak_bytes())}
            for entrant, one, score, runs, forwards in zip(
                ENTRANTS, processes, scores, zip(*taken, strict=True), zip(*plain, strict=True), strict=True
            )
        ]
    size = {"layers": scores[0].shape[0], "positions": len(chosen), "prompt_tokens": PROMPT_TOKENS}
    return {"model": folder.name, "rounds": rounds, **size, "cases": cases}


def _require_same_scores(scores: Sequence[Any]) -> None:
    for entrant, found in zip(ENTRANTS[:-1], scores, strict=False):
        if problem := describe_difference("patch", found, scores[-1][:, :: entrant.every], tolerance=TOLERANCE):
            raise DisagreementError(f"{entrant.label} is not {ENTRANTS[-1].label}: {problem}")


def _figures(patches: int, runs: Sequence[Taken], plain: Sequence[Taken], peak: int | None) -> dict[str, Any]:
    forward_s = statistics.median(run.cpu_s for run in plain) / FORWARDS
    return {
        "patches": patches,
        "patches_per_cpu_s": patches / statistics.median(run.cpu_s for run in runs),
        "patches_per_s": patches / statistics.median(run.wall_s for run in runs),
        "forward_cpu_s": forward_s,
        "patches_per_forward": forward_s * patches / statistics.median(run.cpu_s for run in runs),
        "peak_mb": None if peak is None else peak / 1e6,
    }


def table(result: Mapping[str, Any]) -> Table:
    """The results as a table."""
    found = Table(
        title=f"Patching resid_pre of {result['model']}: {result['layers']} layers x {result['positions']} positions, "
        f"prompts of {result['prompt_tokens']} tokens, medians of {result['rounds']} rounds",
        title_justify="left",
    )
    for index, column in enumerate(
        ("library", "patches", "patches/CPU s", "patches/s", "patches per forward", "peak MB")
    ):
        found.add_column(column, justify="left" if index == 0 else "right")
    for case in result["cases"]:
        found.add_row(
            case["label"],
            str(case["patches"]),
            f"{case['patches_per_cpu_s']:.2f}",
            f"{case['patches_per_s']:.2f}",
            f"{case['patches_per_forward']:.2f}",
            "" if case["peak_mb"] is None else f"{case['peak_mb']:.0f}",
        )
    return found
