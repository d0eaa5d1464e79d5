"""The truth suite: methods on planted models, on null models, roles of heads, as numbers for docs/truth.json."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.analysis import AttentionResult, DiscoveryResult
from neuroscope.v1 import circuit_pb2
from neuroscope_analysis.circuits.effect_test import run_difference, share_prompts
from tests.truth import measures
from tests.truth.addition import model as addition
from tests.truth.attention import model as attention
from tests.truth.beside import beside
from tests.truth.facts import model as facts
from tests.truth.methods import METHODS
from tests.truth.names import model as names
from tests.truth.names.prompts import named_pairs
from tests.truth.noise import noise, random_pairs
from tests.truth.null import permuted
from tests.truth.planted import Stream
from tests.truth.ranking import auroc
from tests.truth.running import Bench, bench
from tests.truth.tasks import TASKS, Pairs, Task

BUNDLED = Path(__file__).parents[2] / "models" / "neuroscope-tiny"
PAIRS = 8
PERMUTATIONS = 100
"""Null models for each method, of the shapes of planted models and of the bundled one in turn."""
MIXED = 20
"""Models of a mechanism with noise beside it."""
SIGNIFICANCES = (0.05, 0.01, 0.001)
SHARPNESSES, STEPS = (12.0, 9.0, 6.0), (5, 20, 100)
"""Of attention, and steps of EAP-IG."""
FLAGS: Mapping[str, tuple[Stream, Sequence[str]]] = {
    "facts": (facts.STREAM, facts.FLAGS),
    "addition": (addition.STREAM, addition.FLAGS),
}
"""Where noise fits beside a mechanism, and the subspaces there that both prompts of a pair share."""
_GROUPS = 4
"""Tests of a gate on each null model, with random prompts."""
_MIXED_PAIRS = 4
_NEVER = 1e9
"""An effect that nothing has, so that a search ends at its gate."""
LABEL_PERMUTATIONS = 10
Say = Callable[[str], None]
Row = dict[str, Any]
Differences = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]
_Null = tuple[str, Path, Pairs, Callable[[Path, Path, int], Path]]


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
        discovered = discovery(services, place, say, tasks, methods)
        rows, gate = null(services, place, say, tasks, methods, permutations)
        found = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            "pairs": PAIRS,
            "discovery": discovered,
            "null": rows,
            "gate": gate,
            "mixed": mixed(services, place, say, tasks, methods, min(MIXED, permutations)),
            "saturation": saturation(services, place, say),
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
) -> tuple[list[Row], list[Row]]:
    """Every method on models that know nothing: how often it finds something; and how often the gate would open.

    Models are noise of the shapes of planted ones, and the bundled one with its weights permuted, in turn. Prompts and
    answers are random.
    """
    sources: list[_Null] = [(name, TASKS[name].build(place / name), TASKS[name].pairs(PAIRS), noise) for name in tasks]
    with bench.model(BUNDLED) as model_id:
        sources.append((BUNDLED.name, BUNDLED, _bundled_pairs(bench, model_id), permuted))
    found: dict[str, list[bool]] = {name: [] for name in methods}
    scored = dict.fromkeys(methods, 0)
    took = dict.fromkeys(methods, 0.0)
    gates: dict[str, list[Differences]] = {"random prompts": [], "prompts of the tasks": []}
    for number in range(permutations):
        name, folder, pairs, made = sources[number % len(sources)]
        with bench.model(made(folder, place / f"null-{number}", number)) as model_id:
            random = random_pairs(PAIRS * _GROUPS, number)
            gates["random prompts"] += differences(bench, model_id, random)
            gates["prompts of the tasks"] += differences(bench, model_id, pairs)
            for method in (METHODS[each] for each in methods):
                start = monotonic()
                result = method.discover(bench.analysis, model_id, random[:PAIRS], TASKS.get(name), evaluate=False)
                took[method.name] += monotonic() - start
                found[method.name].append(result.is_found)
                scored[method.name] += any(np.isfinite(result[array].values).any() for array in result.names)
                if result.is_found:
                    say(f"null {number} of {name}: {method.name} finds {len(result.circuit.edges)} edges")
    rows = [
        {
            "method": name,
            "permutations": len(each),
            "scored": scored[name],
            "found": sum(each),
            "rate": float(np.mean(each)),
            "upper": measures.wilson(sum(each), len(each))[1],
            "seconds": took[name],
        }
        for name, each in found.items()
    ]
    say(f"null      {sum(took.values()):.0f} s of searches")
    return rows, [_opened(prompts, tests, level) for prompts, tests in gates.items() for level in SIGNIFICANCES]


def differences(bench: Bench, model_id: str, pairs: Pairs) -> list[Differences]:
    """Metrics of clean and corrupted runs, with what the pairs share, `PAIRS` at a time: what a gate goes by."""
    found = bench.analysis.discover_circuit(
        pairs, method="attribution-patching", model_id=model_id, evaluate=False, least_effect=_NEVER
    )
    assert found.plan is not None
    assert not found.is_found
    clean, corrupted = (np.array([getattr(each, run) for each in found.baselines]) for run in ("clean", "corrupted"))
    groups = [slice(first, first + PAIRS) for first in range(0, len(pairs), PAIRS)]
    return [(clean[group], corrupted[group], share_prompts(found.plan.pairs[group])) for group in groups]


def _opened(prompts: str, tests: Sequence[Differences], level: float) -> Row:
    """How many would pass the test of a search at a significance."""
    test = circuit_pb2.EffectTest(significance=level)
    opened = sum(not run_difference(clean, corrupted, test, shared).why_no_effect for clean, corrupted, shared in tests)
    low, high = measures.wilson(opened, len(tests))
    share = opened / len(tests)
    return {"prompts": prompts, "significance": level, "tests": len(tests), "share": share, "lower": low, "upper": high}


def mixed(bench: Bench, place: Path, say: Say, tasks: Sequence[str], methods: Sequence[str], models: int) -> list[Row]:
    """Every method on models of a mechanism with noise beside it: how many of the edges that it returns are false."""
    rows: dict[str, Row] = {
        name: {"method": name, "models": 0, "returned": 0, "false": 0, "missing": 0, "models_with_false": 0}
        for name in methods
    }
    sources = [name for name in FLAGS if name in tasks]
    for number in range(models if sources else 0):
        name = sources[number % len(sources)]
        task, (stream, flags) = TASKS[name], FLAGS[name]
        folder = beside(task.build(place / name), place / f"mixed-{number}", number, stream, flags)
        with bench.model(folder) as model_id:
            for method in (METHODS[each] for each in methods):
                found = method.discover(bench.analysis, model_id, task.pairs(_MIXED_PAIRS), task, evaluate=False)
                returned, true = _returned(found, task, of_nodes=method.of_nodes)
                row = rows[method.name]
                row["models"] += 1
                row["returned"] += len(returned)
                row["false"] += len(returned - true)
                row["missing"] += len(true - returned)
                row["models_with_false"] += bool(returned - true)
    for row in rows.values():
        row["lower"], row["upper"] = measures.wilson(row["false"], max(row["returned"], 1))
        say(f"mixed      {row['method']:20} {row['false']} false of {row['returned']}")
    return list(rows.values())


def _returned(found: DiscoveryResult, task: Task, *, of_nodes: bool) -> tuple[set[Any], set[Any]]:
    """The edges of a circuit, or its nodes that write, and those that are planted."""
    if of_nodes:
        return {node for node in found.circuit.nodes if node != "logits"}, {sender for sender, _ in task.circuit}
    edges = {(edge.sender, edge.receiver) for edge in found.circuit.message.edges if edge.in_circuit}
    return edges, set(task.circuit)


def saturation(bench: Bench, place: Path, say: Say) -> list[Row]:
    """EAP-IG beside exact edge patching on one model, by counterfactual, steps and sharpness of attention."""
    rows: list[Row] = []
    for sharpness in SHARPNESSES:
        with bench.model(names.build(place / f"names-{sharpness}", sharpness)) as model_id:
            for task in (TASKS["names"], TASKS["names-swapped"]):
                asked: Any = {"model_id": model_id, "count": len(task.circuit), "evaluate": False}
                pairs = task.pairs(PAIRS)
                exact = bench.analysis.discover_circuit(pairs, method=measures.EXACT, **asked)
                for steps in STEPS:
                    found = bench.analysis.discover_circuit(pairs, method="eap-ig", steps=steps, **asked)
                    rows.append(
                        {
                            "model": task.name,
                            "sharpness": sharpness,
                            "clean": float(np.mean([each.clean for each in exact.baselines])),
                            "steps": steps,
                            "auroc": auroc(measures.edge_scores(found), task.circuit),
                            "pearson": measures.pearson(measures.edge_scores(found), measures.edge_scores(exact)),
                        }
                    )
        say(f"names, sharpness {sharpness:g}: {[round(row['pearson'], 3) for row in rows[-2 * len(STEPS) :]]}")
    return rows


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
