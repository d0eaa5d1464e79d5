"""Name movers and S-inhibition heads (Wang et al. 2022, arXiv:2211.00593), by patterns, weights and paths.

A name mover attends from the last position to the answer and copies it. Its score is the mean attention weight there
times the copy score: the share of pairs in which the head's output for the answer has it among its top five tokens.
An S-inhibition head attends from the last position to the repeated name. The causal tests patch the head's path to the
logits, and to the queries of confirmed name movers at the last position.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import UnavailableSiteError
from neuroscope.experiments import logit_diff
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.frames import TensorPiece
from neuroscope_analysis import head_paths
from neuroscope_analysis.attention.ablation_tests import Candidate, Head
from neuroscope_analysis.attention.named_pairs import NamedPair
from neuroscope_analysis.attention.pattern_capture import ATTENTION_PATTERN
from neuroscope_analysis.attention.patterns import Floats, PatternChunk
from neuroscope_analysis.attention.roles import Role
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.significance import (
    DEFAULT_LEAST_EFFECT,
    DEFAULT_SIGNIFICANCE,
    EffectThreshold,
    MetricChanges,
    robust_upper_bound,
)

_VALUE = "value"
_TOP_K = 5
_MIN_OTHERS = 5


class NameHeadAnalysis:
    """Scores and tests both roles.

    Args:
        model: the model.
        pairs: at least two pairs.
        layers: the layers.
        heads: maximum number of heads of a layer.
        wanted: minimum effect and significance.
        why_not: why labels are not tested; empty if they are.
    """

    def __init__(
        self,
        model: RemoteModel,
        pairs: Sequence[NamedPair],
        layers: Sequence[int],
        heads: int,
        wanted: pb.CausalTest,
        why_not: str,
    ) -> None:
        self._model = model
        self._pairs = pairs
        self._layers = layers
        self._wanted = wanted
        self._why_not = why_not
        shape = (len(layers), heads)
        self._weights = {name: np.full((len(pairs), *shape), np.nan) for name in ("answer", "repeated")}
        self._values: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in layers}  # pair by pair
        self._shape = shape
        self._name_movers: list[Head] = []

    async def read(self, index: int) -> None:
        """Captures patterns and values on the clean prompt of one pair."""
        pair = self._pairs[index]
        places = sorted({pair.answer_position, pair.repeated_position})
        hooks = [Hook(ATTENTION_PATTERN, layer, positions=[-1], dtype="float32") for layer in self._layers]
        hooks += [Hook(_VALUE, layer, positions=places, dtype="float32") for layer in self._layers]
        values: dict[int, list[NDArray[np.float32]]] = {}

        def fresh() -> Callable[[TensorPiece], Awaitable[None]]:
            values.clear()
            return take

        async def take(piece: TensorPiece) -> None:
            layer = piece.spec.site.layer
            if piece.spec.site.component == _VALUE:
                values.setdefault(layer, []).append(np.array(piece.array[0], np.float32))  # (place, kv head, d_head)
            else:
                self._add_pattern(index, self._layers.index(layer), PatternChunk.of(piece))

        what = f"reading pair {index + 1} of {len(self._pairs)}"
        await self._model.capture(pair.ids, hooks, fresh, what=what)
        for layer, pieces in values.items():
            self._values[layer].append(np.concatenate(pieces)[places.index(pair.answer_position)])

    def _add_pattern(self, index: int, place: int, chunk: PatternChunk) -> None:
        pair = self._pairs[index]
        for name, position in (("answer", pair.answer_position), ("repeated", pair.repeated_position)):
            weights = chunk.at(np.array([position]))[:, 0]
            self._weights[name][index, place, : len(weights)] = weights

    async def scores(self) -> dict[pb.HeadRole.ValueType, Floats]:
        """Scores by role (layer, head), after all pairs have been read."""
        moved = self._weights["answer"].mean(axis=0) * await self._copy_scores()
        return {
            pb.HEAD_ROLE_NAME_MOVER: moved.astype(np.float32),
            pb.HEAD_ROLE_S_INHIBITION: self._weights["repeated"].mean(axis=0).astype(np.float32),
        }

    async def _copy_scores(self) -> NDArray[np.float64]:
        """The share of pairs in which a head's output for the answer has it among its top five tokens (layer, head)."""
        found = np.full(self._shape, np.nan)
        answers = np.array([pair.tokens.answer for pair in self._pairs])
        for place, layer in enumerate(self._layers):
            weights = await self._model.weights("W_O", layers=[layer])
            output = weights.of("W_O", layer).astype(np.float32)  # (head, d_head, d_model)
            values = np.stack(self._values[layer])  # (pair, kv head, d_head)
            shared = [weights.key_value_head(head) for head in range(len(output))]
            written = await asyncio.to_thread(np.einsum, "phd,hdm->phm", values[:, shared], output)
            top = (
                await self._model.project(written, "reading what heads copy", top_k=_TOP_K)
            ).top_token_ids  # (pair, head, 5)
            is_something = np.abs(written).max(axis=2) > 0
            is_copied = (top == answers[:, None, None]).any(axis=2) & is_something
            found[place, : len(output)] = is_copied.mean(axis=0)
        return found

    async def direct_effects(self) -> MetricChanges:
        """The loss of logit difference when each head's path to the logits is patched (pair, layer, head)."""
        return self._to_array(await self._path_effects("logits", "patching paths to the logits"))

    async def labels(
        self,
        role: Role,
        threshold: float,
        candidates: Sequence[Candidate],
        others: Sequence[Head],
        direct: MetricChanges,
    ) -> AsyncGenerator[pb.HeadLabel, None]:
        """The labels of a role; call it for name movers first.

        Args:
            role: the role.
            threshold: the minimum score.
            candidates: heads that reach it.
            others: heads that do not.
            direct: effects of paths to the logits.
        """
        if not candidates:
            return
        effects, why_not = direct, self._why_not
        if role.role == pb.HEAD_ROLE_S_INHIBITION and not why_not:
            if self._name_movers:
                effects = await self._query_effects()
            else:
                why_not = "no name mover was confirmed whose queries it could be tested on"
        for candidate in candidates:
            label = candidate.label(role, threshold, pb.CAUSAL_VERDICT_NOT_TESTED, reason=why_not)
            if not why_not:
                self._test(label, candidate.head, effects, others, len(candidates))
            if label.verdict == pb.CAUSAL_VERDICT_CONFIRMED and role.role == pb.HEAD_ROLE_NAME_MOVER:
                self._name_movers.append(candidate.head)
            yield label

    def _test(
        self, label: pb.HeadLabel, head: Head, effects: MetricChanges, others: Sequence[Head], tests: int
    ) -> None:
        label.verdict = pb.CAUSAL_VERDICT_UNCONFIRMED
        changes = self._head_changes(head, effects)
        if not np.isfinite(changes).all():
            label.reason = "no path leads from it to the queries of the name movers, which are in no later layer"
            return
        usual = [self._head_changes(other, effects).mean() for other in others]
        usual = [effect for effect in usual if np.isfinite(effect)]
        beyond = robust_upper_bound(usual) if len(usual) >= _MIN_OTHERS else 0.0
        significance = (self._wanted.significance or DEFAULT_SIGNIFICANCE) / tests
        bounds = EffectThreshold(
            self._wanted.least_effect_nats or DEFAULT_LEAST_EFFECT, significance, beyond, len(usual)
        )
        evidence = bounds.evidence(pb.CAUSAL_PROBE_PATCHED, changes)
        label.evidence.append(evidence)
        if evidence.is_passed:
            label.verdict = pb.CAUSAL_VERDICT_CONFIRMED

    async def _query_effects(self) -> MetricChanges:
        queries = tuple(head_paths.query_name(head) for head in self._name_movers)
        return self._to_array(await self._path_effects([queries], "patching paths to the queries of name movers", [-1]))

    async def _path_effects(
        self, receivers: head_paths.Receivers, what: str, positions: Sequence[int] | None = None
    ) -> dict[Head, MetricChanges]:
        """The loss of logit difference when each head's path is patched (pair,)."""
        tokens = [pair.tokens for pair in self._pairs]
        patching = self._model.client.patch(
            [pair.clean for pair in tokens],
            [pair.corrupted for pair in tokens],
            into="clean",
            model_id=self._model.model_id,
        )
        metric = logit_diff([pair.answer for pair in tokens], [pair.other for pair in tokens])
        written = patching.paths("heads", receivers, receiver_positions=positions)
        result = await self._model.sweep(written.scored_by(metric), what)
        return head_paths.path_effects(result)[0]

    def _to_array(self, effects: dict[Head, MetricChanges]) -> MetricChanges:
        found = np.full((len(self._pairs), *self._shape), np.nan)
        for (layer, head), changes in effects.items():
            if layer in self._layers:
                found[:, self._layers.index(layer), head] = changes
        return found

    def _head_changes(self, head: Head, effects: MetricChanges) -> MetricChanges:
        return effects[:, self._layers.index(head[0]), head[1]]


async def why_no_paths(model: RemoteModel, layers: Sequence[int]) -> str:
    """Why paths cannot be patched on a model; empty if they can."""
    ids = [model.info.model.vocab_size - 1] * 2
    patching = model.client.patch([ids], [ids], into="clean", model_id=model.model_id)
    experiment = patching.paths(f"a{layers[0]}", "logits").scored_by(logit_diff(0, 1))
    try:
        await model.sweep(experiment, "trying a path")
    except UnavailableSiteError as error:
        return error.message
    return ""
