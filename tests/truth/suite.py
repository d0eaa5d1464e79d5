"""The truth suite: methods on planted models, on null models, roles of heads, as numbers for docs/truth.json."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import numpy as np

from neuroscope.analysis import AttentionResult
from tests.truth import measures
from tests.truth.attention import model as attention
from tests.truth.methods import METHODS
from tests.truth.names import model as names
from tests.truth.names.prompts import named_pairs
from tests.truth.null import permuted
from tests.truth.running import Bench, bench
from tests.truth.tasks import TASKS, Pairs

BUNDLED = Path(__file__).parents[2] / "models" / "neuroscope-tiny"
PAIRS = 8
PERMUTATIONS = 100
"""Null models for each method, of planted models and of the bundled one in turn."""
LABEL_PERMUTATIONS = 10
Say = Callable[[str], None]
Row = dict[str, Any]


def run(
    say: Say = print,
    *,
    tasks: Sequence[str] = tuple(TASKS),
    methods: Sequence[str] = tuple(METHODS),
    permutations: int = PERMUTATIONS,
    label_permutations: int = LABEL_PERMUTATIONS,
) -> Row:
    """Everything, on the real services.

    Args:
        say: hears what is being done.
        tasks: which planted models.
        methods: which methods.
        permutations: null models for each method.
        label_permutations: null models for roles of heads.
    """
    began = monotonic()
    with TemporaryDirectory() as folder, bench() as services:
        place = Path(folder)
        found = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            "pairs": PAIRS,
            "discovery": discovery(services, place, say, tasks, methods),
            "null": null(services, place, say, tasks, methods, permutations),
            "labels": labels(services, place, say, label_permutations),
        }
    return {**found, "seconds": monotonic() - began}


def discovery(bench: Bench, place: Path, say: Say, tasks: Sequence[str], methods: Sequence[str]) -> list[Row]:
    """Every method on every planted model."""
    rows: list[Row] = []
    for name in tasks:
        task = TASKS[name]
        pairs = task.pairs(PAIRS)
        with bench.model(task.build(place / name)) as model_id:
            exact = None
            for method in (METHODS[each] for each in methods):
                found = method.discover(bench.analysis, model_id, pairs, task, curve=True, minimality=True)
                if method.name == measures.EXACT:
                    exact = measures.edge_scores(found)
                row = measures.of_search(task, found, exact)
                rows.append({"model": name, "method": method.name, "edges": len(task.circuit), **row})
                say(f"{name:10} {method.name:20} AUROC {row['auroc']:.3f}  {row['seconds']:.1f} s")
    return rows


def null(
    bench: Bench, place: Path, say: Say, tasks: Sequence[str], methods: Sequence[str], permutations: int
) -> list[Row]:
    """Every method on null models: how often it finds something where there is nothing."""
    sources: list[tuple[str, Path, Pairs]] = [
        (name, TASKS[name].build(place / name), TASKS[name].pairs(PAIRS)) for name in tasks
    ]
    with bench.model(BUNDLED) as model_id:
        sources.append((BUNDLED.name, BUNDLED, _bundled_pairs(bench, model_id)))
    found: dict[str, list[bool]] = {name: [] for name in methods}
    scored = dict.fromkeys(methods, 0)
    began = dict.fromkeys(methods, 0.0)
    for number in range(permutations):
        name, folder, pairs = sources[number % len(sources)]
        with bench.model(permuted(folder, place / f"null-{number}", number)) as model_id:
            for method in (METHODS[each] for each in methods):
                start = monotonic()
                result = method.discover(bench.analysis, model_id, pairs, TASKS.get(name), evaluate=False)
                began[method.name] += monotonic() - start
                found[method.name].append(result.is_found)
                scored[method.name] += any(np.isfinite(result[array].values).any() for array in result.names)
                if result.is_found:
                    say(f"null {number} of {name}: {method.name} finds {len(result.circuit.edges)} edges")
    return [
        {
            "method": name,
            "permutations": len(each),
            "scored": scored[name],
            "found": sum(each),
            "rate": float(np.mean(each)),
            "upper": measures.wilson_upper(sum(each), len(each)),
            "seconds": began[name],
        }
        for name, each in found.items()
    ]


def _bundled_pairs(bench: Bench, model_id: str) -> Pairs:
    """Of indirect object identification."""
    return [
        {
            "clean": list(pair.clean_ids),
            "corrupted": list(pair.corrupted_ids),
            "answer": pair.answer_id,
            "other": pair.other_id,
        }
        for pair in bench.analysis.dataset("ioi", count=PAIRS, model_id=model_id)
    ]


# ------------------------------------------------------------------------------------------------ roles of heads


def labels(bench: Bench, place: Path, say: Say, permutations: int) -> Row:
    """Roles on the planted models, with and without confirmation, and on null models."""
    planted = {**{role: {head} for role, head in attention.PLANTED.items()}, "copying": attention.COPYING}
    planted |= {"suppression": attention.SUPPRESSING}
    named = {"name_mover": {names.NAME_MOVER}, "s_inhibition": {names.S_INHIBITION}}
    folders = attention.build(place / "attention"), names.build(place / "names-labels")
    with bench.model(folders[0]) as model_id:
        found = _by_sequences(bench, model_id)
    with bench.model(folders[1]) as model_id:
        found_names = _by_names(bench, model_id)
    scores = {
        kind: [
            _f1(set(result.heads(role, confirmed=kind == "confirmed")), heads)
            for result, roles in ((found, planted), (found_names, named))
            for role, heads in roles.items()
        ]
        for kind in ("confirmed", "by score")
    }
    false: list[int] = []
    for number in range(permutations):
        with bench.model(permuted(folders[number % 2], place / f"null-heads-{number}", number)) as model_id:
            result = (_by_names if number % 2 else _by_sequences)(bench, model_id)
        false.append(sum(label.is_confirmed for label in result.labels))
        if false[-1]:
            say(f"null {number}: {[(each.role, each.layer, each.head) for each in result.labels if each.is_confirmed]}")
    say(f"roles    macro-F1 {np.mean(scores['confirmed']):.3f}, by score {np.mean(scores['by score']):.3f}")
    return {
        "roles": len(planted) + len(named),
        "macro_f1": float(np.mean(scores["confirmed"])),
        "macro_f1_by_score": float(np.mean(scores["by score"])),
        "permutations": permutations,
        "models_with_false_labels": int(np.count_nonzero(false)),
        "false_labels": sum(false),
    }


def _by_sequences(bench: Bench, model_id: str) -> AttentionResult:
    return bench.analysis.analyze_attention(
        token_ids=attention.TOKEN_IDS, block_length=attention.BLOCK, sequences=8, seed=1, model_id=model_id
    )


def _by_names(bench: Bench, model_id: str) -> AttentionResult:
    roles = ["name_mover", "s_inhibition"]
    return bench.analysis.analyze_attention(roles=roles, named_pairs=named_pairs(PAIRS), model_id=model_id)


def _f1(found: set[tuple[int, int]], true: set[tuple[int, int]]) -> float:
    return 2 * len(found & true) / (len(found) + len(true))
