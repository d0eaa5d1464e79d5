"""How a run is scored: one number for each of the metric's positions, and their mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.experiments.python_metrics import Function, function_of
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_inference.engine.arrays import from_numpy
from neuroscope_inference.engine.expression import ResolveTensor
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.pair import Pair
from neuroscope_inference.tensor_checks import to_float32


@dataclass(frozen=True, slots=True)
class ScoreReference:
    """What the runs of a pair are scored against.

    Args:
        pair: the pair.
        row: of the run, whose own next tokens are those of its prompt.
        places: the metric's positions in the run.
        clean_end: of the clean run, at its positions; None while that run itself is scored.
    """

    pair: Pair
    row: int
    places: Sequence[int]
    clean_output: mx.array | None


@dataclass(slots=True)
class Metric:
    """A metric, checked against a model and the pairs.

    Args:
        kind: name of the contract's field.
        positions: as the request names them; empty: those of the kind.
        answers: ids, of each pair.
        others: ids, of each pair.
        direction: of a projection (d_model,).
        terms: of a sum, with their weights.
        function: of Python.
    """

    kind: str
    positions: Sequence[int]
    is_normalised: bool
    answers: Sequence[int] = ()
    others: Sequence[int] = ()
    direction: np.ndarray[tuple[int], np.dtype[np.float32]] | None = None
    terms: Sequence[tuple[float, Metric]] = ()
    function: Function | None = None
    _column: mx.array | None = field(default=None, init=False)

    @property
    def kinds(self) -> set[str]:
        """Its kind, or those of its terms."""
        return {term.kind for _, term in self.terms} or {self.kind}

    @property
    def reads_stream(self) -> bool:
        """Whether it sees the last residual stream instead of logits."""
        return "projection" in self.kinds

    def places(self, length: int) -> list[int]:
        """Its positions in a prompt of that many tokens, ascending."""
        if self.positions:
            return sorted(position % length for position in self.positions)
        return list(range(length - 1)) if self.kind == "cross_entropy" else [length - 1]

    def scores(self, end: mx.array, at: ScoreReference, first: int = 0) -> mx.array:
        """A number for each row and position (rows, positions), lazy.

        Args:
            end: of the rows (rows, positions, width), at the last positions of the metric.
            at: what they are scored against.
            first: ordinal of the first of these positions among the metric's.
        """
        return _KINDS[self.kind](self, end, at, first)

    def column(self) -> mx.array:
        """The direction of a projection (d_model, 1); made on the engine's thread."""
        if self._column is None:
            assert self.direction is not None
            self._column = from_numpy(self.direction[:, None])
        return self._column


def _log_probabilities(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _logit_difference(metric: Metric, end: mx.array, at: ScoreReference, first: int) -> mx.array:
    pair = at.pair.index
    return end[..., metric.answers[pair]] - end[..., metric.others[pair]]


def _log_probability(metric: Metric, end: mx.array, at: ScoreReference, first: int) -> mx.array:
    return end[..., metric.answers[at.pair.index]] - mx.logsumexp(end, axis=-1)


def _probability(metric: Metric, end: mx.array, at: ScoreReference, first: int) -> mx.array:
    return mx.exp(_log_probability(metric, end, at, first))


def _rank(metric: Metric, end: mx.array, at: ScoreReference, first: int) -> mx.array:
    answer = metric.answers[at.pair.index]
    return (end > end[..., answer : answer + 1]).sum(axis=-1).astype(mx.float32)


def _kl_divergence(metric: Metric, end: mx.array, at: ScoreReference, first: int) -> mx.array:
    if at.clean_output is None:
        return mx.zeros(end.shape[:2])
    clean = _log_probabilities(at.clean_output[:, first:])
    return (mx.exp(clean) * (clean - _log_probabilities(end))).sum(axis=-1)


def _cross_entropy(metric: Metric, end: mx.array, at: ScoreReference, first: int) -> mx.array:
    tokens = at.pair.prompt(at.row)
    targets = mx.array([tokens[place + 1] for place in at.places[first:]])[None, :, None]
    targets = mx.broadcast_to(targets, (*end.shape[:2], 1))
    return mx.logsumexp(end, axis=-1) - mx.take_along_axis(end, targets, axis=-1)[..., 0]


def _projection(metric: Metric, end: mx.array, at: ScoreReference, first: int) -> mx.array:
    return (end @ metric.column())[..., 0]


def _weighted_sum(metric: Metric, end: mx.array, at: ScoreReference, first: int) -> mx.array:
    total = mx.zeros(end.shape[:2])
    for weight, term in metric.terms:
        total = total + weight * term.scores(end, at, first)
    return total


def _python_function(metric: Metric, end: mx.array, at: ScoreReference, first: int) -> mx.array:
    assert metric.function is not None
    try:
        found = metric.function(end)
        scores = found if isinstance(found, mx.array) else mx.array(np.asarray(found, np.float32))
    except Exception as error:  # whatever the caller's code makes of it
        raise InvalidRequestError(
            f"the metric's function raised {type(error).__name__}: {error}", field="metric.python_function"
        ) from error
    if scores.shape != end.shape[:2]:
        raise InvalidRequestError(
            f"the metric's function made {list(scores.shape)} of logits {list(end.shape)}: a number is due for each "
            f"row and position, {list(end.shape[:2])}",
            field="metric.python_function",
        )
    return scores.astype(mx.float32)


_KINDS: dict[str, Callable[[Metric, mx.array, ScoreReference, int], mx.array]] = {
    "logit_difference": _logit_difference,
    "log_probability": _log_probability,
    "probability": _probability,
    "rank": _rank,
    "kl_divergence": _kl_divergence,
    "cross_entropy": _cross_entropy,
    "projection": _projection,
    "weighted_sum": _weighted_sum,
    "python_function": _python_function,
}


def parse_metric(message: pb.Metric, model: LoadedModel, pairs: Sequence[Pair], resolve: ResolveTensor) -> Metric:
    """The metric of a request.

    Raises:
        InvalidRequestError: there is none, a token is not one token, a position is outside a prompt.
        DataConversionError: a direction does not fit the residual stream.
    """
    metric = _parse_metric(message, model, pairs, resolve, "metric")
    _check_positions(metric, pairs)
    if metric.is_normalised and any(pair.corrupted is None for pair in pairs):
        raise InvalidRequestError(
            "values are scaled between two runs: give a corrupted prompt", field="metric.normalised"
        )
    return metric


def _parse_metric(
    message: pb.Metric, model: LoadedModel, pairs: Sequence[Pair], resolve: ResolveTensor, path: str
) -> Metric:
    """A metric, or a term of one."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequestError(f"the metric is missing: one of {', '.join(_KINDS)}", field=path)
    of_kind = f"{path}.{kind}"
    metric = Metric(kind, list(message.positions), message.normalised)
    match getattr(message, kind):
        case pb.LogitDifference() as difference:
            metric.answers = _resolve_tokens(difference.answers, model, pairs, f"{of_kind}.answers")
            metric.others = _resolve_tokens(difference.others, model, pairs, f"{of_kind}.others")
            for answer, other in zip(metric.answers, metric.others, strict=True):
                if answer == other:
                    raise InvalidRequestError(
                        f"the answer and the other token are the same: {model.token_text(answer)!r} ({answer})",
                        field=f"{of_kind}.others",
                    )
        case pb.LogProbability() | pb.Probability() | pb.Rank() as one:
            metric.answers = _resolve_tokens(one.answers, model, pairs, f"{of_kind}.answers")
        case pb.Projection() as projection:
            metric.direction = _direction(projection, model, resolve, f"{of_kind}.direction")
        case pb.PythonFunction() as named:
            metric.function = function_of(named.function_id)
            if metric.function is None:
                raise InvalidRequestError(
                    f"the engine's process holds no function {named.function_id!r}: functions of Python are metrics "
                    "where client and engine are one process (Client.local)",
                    field=f"{of_kind}.function_id",
                )
        case pb.WeightedSum() as weighted:
            metric.terms = _parse_terms(weighted, model, pairs, resolve, of_kind)
        case _:
            pass
    return metric


def _parse_terms(
    message: pb.WeightedSum, model: LoadedModel, pairs: Sequence[Pair], resolve: ResolveTensor, path: str
) -> list[tuple[float, Metric]]:
    if not message.terms:
        raise InvalidRequestError("a sum has at least one term", field=f"{path}.terms")
    found: list[tuple[float, Metric]] = []
    for index, term in enumerate(message.terms):
        field = f"{path}.terms[{index}]"
        if not math.isfinite(term.weight):
            raise InvalidRequestError(f"{term.weight} is not a finite number", field=f"{field}.weight")
        for name in ("positions", "normalised"):
            if getattr(term.metric, name):
                raise InvalidRequestError("the sum says that of all its terms", field=f"{field}.metric.{name}")
        if term.metric.WhichOneof("kind") == "weighted_sum":
            raise InvalidRequestError("a term is no sum itself", field=f"{field}.metric")
        found.append((term.weight, _parse_metric(term.metric, model, pairs, resolve, f"{field}.metric")))
    if len({metric.reads_stream for _, metric in found}) > 1:
        raise InvalidRequestError(
            "projections are of the residual stream, other terms of logits: they have no sum", field=f"{path}.terms"
        )
    return found


def _resolve_tokens(
    choices: Sequence[pb.TokenChoice], model: LoadedModel, pairs: Sequence[Pair], path: str
) -> list[int]:
    """A token for each pair."""
    if len(choices) not in (1, len(pairs)):
        raise InvalidRequestError(
            f"one token for all pairs or one for each of the {len(pairs)}, not {len(choices)}", field=path
        )
    ids = [model.resolve_token(choice, f"{path}[{index}]") for index, choice in enumerate(choices)]
    return ids * len(pairs) if len(ids) == 1 else ids


def _direction(
    message: pb.Projection, model: LoadedModel, resolve: ResolveTensor, path: str
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    array, width = resolve(message.direction, path), model.description.d_model
    if array.size != width or array.shape[-1] != width:
        raise DataConversionError(
            f"a direction of the residual stream has {width} entries, this one has the shape {list(array.shape)}",
            field=path,
        )
    return to_float32(array, "a direction", path).reshape(width)


def _check_positions(metric: Metric, pairs: Sequence[Pair]) -> None:
    needs_next = "cross_entropy" in metric.kinds
    if needs_next and metric.terms and not metric.positions:
        raise InvalidRequestError("a sum with cross_entropy names its positions", field="metric.positions")
    for pair in pairs:
        prompts = [pair.clean] if pair.corrupted is None else [pair.clean, pair.corrupted]
        for row, prompt in enumerate(prompts):
            length = len(prompt)
            if needs_next and length < 2:
                raise InvalidRequestError(
                    f"{pair.name(row)} of pair {pair.index} has one token: none follows it",
                    field="metric.cross_entropy",
                )
            for index, position in enumerate(metric.positions):
                if not -length <= position < length:
                    raise InvalidRequestError(
                        f"position {position} lies outside {pair.name(row)} of pair {pair.index}, which has {length} "
                        "tokens",
                        field=f"metric.positions[{index}]",
                    )
                if needs_next and position % length == length - 1:
                    raise InvalidRequestError(
                        f"position {position} is the last one of {pair.name(row)} of pair {pair.index}: no token "
                        "follows it",
                        field=f"metric.positions[{index}]",
                    )
            if len(set(metric.places(length))) < len(metric.places(length)):
                raise InvalidRequestError("a position is named twice", field="metric.positions")
        if (
            "kl_divergence" in metric.kinds
            and len(set(map(len, prompts))) > 1
            and any(p >= 0 for p in metric.positions)
        ):
            raise InvalidRequestError(
                f"the prompts of pair {pair.index} have {' and '.join(str(len(p)) for p in prompts)} tokens: positions "
                "of a divergence are then counted from the end",
                field="metric.positions",
            )
