"""Every call of the analysis service as a request of it: one that is soon done, and one that is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import Message

from neuroscope.analysis import AnalysisResult
from neuroscope.v1 import (
    answered_pair_pb2,
    attention_comparison_pb2,
    attention_pb2,
    circuit_pb2,
    composition_pb2,
    experiment_pb2,
    inference_pb2,
    interaction_pb2,
    residual_pb2,
    tokens_pb2,
    tuned_lens_pb2,
)
from neuroscope.wire.rpc import ANALYSIS_RPCS
from neuroscope_analysis.settings import AnalysisSettings

Result = AnalysisResult[Any, Any, Any, Any]
_SHORT, _LONG = 12, 300
"""Tokens of a prompt."""
_PARTS = residual_pb2.ResidualPart
_ANSWER, _OTHER = experiment_pb2.TokenChoice(id=7), experiment_pb2.TokenChoice(id=9)
METRIC = experiment_pb2.Metric(logit_difference=experiment_pb2.LogitDifference(answers=[_ANSWER], others=[_OTHER]))


@dataclass(frozen=True)
class Case:
    """A request of one call, for the random llama of the tests.

    Args:
        rpc: the call.
        make: makes the request, a long one or a short one.
        held_at: a call of the inference service in the middle of the long one: its name and its number, from 0.
        found: whether a result has what must have been found by then.
        reads: calls of the inference service that send it tensors.
        settings: of the analysis service.
        name: where one call has several.
    """

    rpc: str
    make: Callable[[bool], Message]
    held_at: tuple[str, int]
    found: Callable[[Any], bool]
    reads: tuple[str, ...] = ()
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)
    name: str = ""

    def __str__(self) -> str:
        return f"{self.rpc}{self.name and '-'}{self.name}"

    @property
    def is_stream(self) -> bool:
        """Whether it is answered as it goes on."""
        return ANALYSIS_RPCS[self.rpc].streams_responses

    def result(self, *, long: bool) -> Result | None:
        """The empty result; None of a call that answers at once."""
        kinds = {kind.rpc: kind for kind in _kinds(AnalysisResult)}
        return kinds[self.rpc](self.make(long)) if self.rpc in kinds else None


def _kinds(parent: Any) -> list[Any]:
    """Kinds of results, each of one call."""
    return [found for kind in parent.__subclasses__() for found in (kind, *_kinds(kind)) if hasattr(found, "rpc")]


def prompt(length: int, seed: int = 0) -> inference_pb2.Prompt:
    """Random tokens behind one and the same."""
    ids = [0, *np.random.default_rng([seed, length]).integers(5, 500, length - 1).tolist()]
    return inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=ids))


def _tokens(long: bool) -> int:
    return _LONG if long else _SHORT


def _prompts(long: bool, count: int) -> list[inference_pb2.Prompt]:
    return [prompt(_tokens(long), seed) for seed in range(count)]


def _pairs(long: bool) -> list[experiment_pb2.PromptPair]:
    length, count = (16 if long else _SHORT), 2
    return [
        experiment_pb2.PromptPair(clean=prompt(length, seed), corrupted=prompt(length, seed + 100))
        for seed in range(count)
    ]


def _sequences(long: bool) -> attention_pb2.RandomSequences:
    return attention_pb2.RandomSequences(count=4, block_length=16 if long else 4)


def _attention(long: bool) -> attention_pb2.AnalyzeAttentionRequest:
    return attention_pb2.AnalyzeAttentionRequest(prompts=_prompts(long, 2), sequences=_sequences(False))


def _named_pairs(long: bool) -> attention_pb2.AnalyzeAttentionRequest:
    named = [
        attention_pb2.NamedPair(
            pair=answered_pair_pb2.AnsweredPair(
                clean=_of(7, 9, 9, seed=seed), corrupted=_of(11, 13, 15, seed=seed), answer=_ANSWER, other=_OTHER
            )
        )
        for seed in range(40 if long else 3)
    ]
    roles = [attention_pb2.HEAD_ROLE_NAME_MOVER, attention_pb2.HEAD_ROLE_S_INHIBITION]
    # Every head is one that looks like these: of a random model none would be.
    thresholds = [attention_pb2.RoleThreshold(role=role, score=1e-6) for role in roles]
    return attention_pb2.AnalyzeAttentionRequest(named_pairs=named, roles=roles, thresholds=thresholds)


def _of(answer: int, other: int, again: int, *, seed: int) -> inference_pb2.Prompt:
    """A prompt of a few tokens with two names, one of which comes twice."""
    a, b, c = np.random.default_rng(seed).integers(20, 500, 3).tolist()
    return inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=[0, a, answer, b, other, c, again, a, b]))


def _comparison(long: bool) -> attention_comparison_pb2.CompareAttentionRequest:
    first, second = _prompts(long, 2)
    return attention_comparison_pb2.CompareAttentionRequest(first=first, second=second)


def _interactions(long: bool) -> interaction_pb2.MapInteractionsRequest:
    return interaction_pb2.MapInteractionsRequest(sequences=_sequences(long), layers=[0, 3], every_head=True)


_READ = (
    residual_pb2.RESIDUAL_PART_CONTRIBUTIONS,
    residual_pb2.RESIDUAL_PART_ATTRIBUTION,
    residual_pb2.RESIDUAL_PART_LENS,
    residual_pb2.RESIDUAL_PART_ROUTING,
    residual_pb2.RESIDUAL_PART_ABLATION,
)


def _residual(long: bool) -> residual_pb2.AnalyzeResidualStreamRequest:
    return residual_pb2.AnalyzeResidualStreamRequest(prompts=_prompts(long, 2), parts=_READ, answers=[_ANSWER])


def _flow(long: bool) -> residual_pb2.AnalyzeResidualStreamRequest:
    length, count = (48, 2) if long else (_SHORT, 1)
    return residual_pb2.AnalyzeResidualStreamRequest(
        prompts=[prompt(length, seed) for seed in range(count)],
        parts=[residual_pb2.RESIDUAL_PART_CONTRIBUTIONS, residual_pb2.RESIDUAL_PART_FLOW],
        answers=[_ANSWER],
        flow=residual_pb2.FlowSearch(
            corrupted=[prompt(length, seed + 100) for seed in range(count)], max_writers=8 if long else 2
        ),
    )


def _training(long: bool) -> tuned_lens_pb2.TrainTunedLensRequest:
    texts = [prompt(_LONG if long else 60, seed) for seed in range(4)]
    return tuned_lens_pb2.TrainTunedLensRequest(texts=texts, objective=tuned_lens_pb2.TUNED_LENS_OBJECTIVE_RIDGE)


def _search(method: circuit_pb2.CircuitMethod.ValueType, size: float) -> Callable[[bool], Message]:
    def make(long: bool) -> Message:
        return circuit_pb2.DiscoverCircuitRequest(
            pairs=_pairs(long),
            metric=METRIC,
            search=circuit_pb2.CircuitSearch(
                method=method, effect_test=circuit_pb2.EffectTest(skip=True), size=size if long else 0.1
            ),
            evaluation=circuit_pb2.EvaluationOptions(minimality=long, curve=True, curve_sizes=[0.1, 0.5]),
        )

    return make


def _evaluation(long: bool) -> circuit_pb2.EvaluateCircuitRequest:
    heads = [f"a{layer}.h{head}" for layer in range(4) for head in range(8)]
    edges = [
        (sender, f"{reader}<q>")
        for place, sender in enumerate(heads)
        for reader in heads[place - place % 8 + 8 :][: None if long else 1]
    ]
    circuit = circuit_pb2.Circuit(
        nodes=[circuit_pb2.CircuitNode(name=name) for name in ("input", *heads, "logits")],
        edges=[
            circuit_pb2.CircuitEdge(sender=sender, receiver=receiver, in_circuit=True, score=1)
            for sender, receiver in edges
        ],
    )
    options = circuit_pb2.EvaluationOptions(minimality=True, curve=True, curve_sizes=[0.1, 0.5])
    return circuit_pb2.EvaluateCircuitRequest(pairs=_pairs(long), metric=METRIC, circuit=circuit, evaluation=options)


def _has(*names: str) -> Callable[[Any], bool]:
    """Whether numbers of each of these arrays have come."""
    return lambda result: all(np.isfinite(result._stacked(name)[1]).any() for name in names)


_ATTENTION, _RESIDUAL, _DISCOVER = "AnalyzeAttention", "AnalyzeResidualStream", "DiscoverCircuit"
_CAPTURE, _WEIGHTS, _PROJECT = "Capture", "ReadWeights", "ProjectToVocabulary"
CASES = [
    Case(_ATTENTION, _attention, (_CAPTURE, 1), _has("entropy"), reads=(_CAPTURE, _WEIGHTS)),
    Case(
        _ATTENTION,
        _named_pairs,
        ("RunSweep", 1),
        _has("name_mover_score"),
        reads=(_CAPTURE, _WEIGHTS, _PROJECT),
        name="named pairs",
    ),
    Case(
        "CompareAttention",
        _comparison,
        (_CAPTURE, 5),
        _has("jensen_shannon"),
        reads=(_CAPTURE,),
        settings=AnalysisSettings(chunk_budget_bytes=1_000_000),
    ),
    Case(
        "MeasureComposition",
        lambda _: composition_pb2.MeasureCompositionRequest(),
        (_WEIGHTS, 5),
        _has("q_composition"),
        reads=(_WEIGHTS,),
    ),
    Case(
        "MapInteractions",
        _interactions,
        ("RunSweep", 3),
        lambda result: _has("head_effect", "q_effect")(result) and bool(result.interactions),
    ),
    Case(_RESIDUAL, _residual, (_CAPTURE, 1), _has("share", "direct", "lens_kl"), reads=(_CAPTURE, _WEIGHTS)),
    Case(_RESIDUAL, _flow, (_CAPTURE, 2), _has("share"), reads=(_CAPTURE, _WEIGHTS), name="flow"),
    Case(
        "TrainTunedLens",
        _training,
        (_CAPTURE, 4),
        lambda result: len(result.layers) == 1,
        reads=(_CAPTURE, _PROJECT),
        settings=AnalysisSettings(weights_budget_bytes=300_000),
    ),
    Case(
        _DISCOVER,
        _search(circuit_pb2.CIRCUIT_METHOD_EAP_IG, size=0.2),
        ("RunSweep", 2),
        lambda result: _has("edge_score")(result) and bool(result.measured.faithfulness),
        reads=("Attribute",),
    ),
    Case(
        _DISCOVER,
        _search(circuit_pb2.CIRCUIT_METHOD_EDGE_PATCHING, size=0.5),
        ("RunSweep", 2),
        lambda result: bool(result.edges),
        name="edges patched",
    ),
    Case("EvaluateCircuit", _evaluation, ("RunSweep", 2), lambda result: bool(result.measured.faithfulness)),
    Case(
        "TokenizePrompts",
        lambda long: tokens_pb2.TokenizePromptsRequest(prompts=_prompts(long, 3)),
        ("Tokenize", 1),
        bool,
    ),
]
