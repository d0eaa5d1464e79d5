"""Corrupted runs that edits make: of a prompt of their own, or of the clean one, as in causal tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.edit import EditResult
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.expression import ResolveTensor
from neuroscope_inference.engine.hook_plan import PointIndex, RowEdit
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.sweeps.cell_plan import ActivationKey, CellPlan
from neuroscope_inference.engine.sweeps.cells import (
    EditExtent,
    boundary_of,
    check_donors,
    check_no_rows_or_steps,
    is_open_ended,
    make_generation_plan,
    uses_other_rows,
)
from neuroscope_inference.engine.sweeps.pair import CORRUPTED, Pair

_DEFAULT_DEVIATION = 3.0


@dataclass(frozen=True, slots=True)
class Corruptions:
    """The edits of corrupted runs.

    Args:
        model: what is edited.
        resolve: finds tensors.
    """

    model: LoadedModel
    resolve: ResolveTensor

    def plan(self, pair: Pair) -> EditPlan | None:
        """Those of a pair's corrupted run; None: its prompt alone makes it.

        Raises:
            InvalidRequestError, UnknownSiteError, UnavailableSiteError, DataConversionError: name the edit.
        """
        if not pair.corruptions:
            return None
        edits = [_select_corrupted(corruption.edit) for corruption in pair.corruptions]
        paths = [corruption.path for corruption in pair.corruptions]
        try:
            return EditPlan(self.model, edits, pair.lengths, 0, self.resolve, paths=paths)
        except MLXIntegrationError as error:
            error.field = error.field.replace(".noise.value.binary.right.noise", ".noise")
            raise

    def checked_plan(self, pair: Pair) -> EditPlan | None:
        """The same; what it asks for is there."""
        for corruption in pair.corruptions:
            check_no_rows_or_steps(corruption.edit, corruption.path)
        plan = self.plan(pair)
        if plan is not None:
            check_donors(plan, pair)
        return plan

    def extent(self, extent: EditExtent, pair: Pair) -> EditExtent:
        """What a cell can change in a pair's edited run.

        It is one block more where the run has an edit of the stream before a block of its own, which comes between that
        block and what the cell edits behind the block below.
        """
        plan = self.plan(pair) if pair.edited_row == CORRUPTED else None
        points = () if plan is None else plan.points
        if extent.boundary > 0 and Point("resid_pre", extent.boundary) in points:
            return replace(extent, boundary=extent.boundary - 1)
        return extent

    def generation_plan(self, pair: Pair, new_tokens: int) -> EditPlan | None:
        """The edits at tokens that are generated: those of all positions that take nothing of other runs."""
        edits = [
            _select_corrupted(corruption.edit)
            for corruption in pair.corruptions
            if is_open_ended(corruption.edit.select) and not uses_other_rows(corruption.edit.value)
        ]
        return make_generation_plan(self.model, edits, pair, new_tokens, self.resolve)


@dataclass(frozen=True, slots=True)
class ChainedEdits:
    """The edits of a run and those of a cell of it, which come after and see what the former made.

    Args:
        before: of the run.
        plan: of the cell.
        boundary: where the row enters a batch with the stream of the run, which has what was edited below; None: the
            row runs as a whole.
        num_layers: of the model.
    """

    before: EditPlan
    plan: CellPlan
    boundary: int | None
    num_layers: int

    @property
    def points(self) -> Sequence[Point]:
        """What is edited behind the boundary."""
        return [*(point for point in self.before.points if not self._is_in_stream(point)), *self.plan.points]

    @property
    def edits_logits(self) -> bool:
        """Whether logits are edited."""
        return self.before.edits_logits or self.plan.edits_logits

    @property
    def required_activations(self) -> set[ActivationKey]:
        """What both ask for."""
        return self.before.required_activations | self.plan.required_activations

    def provide(self, given: Mapping[ActivationKey, mx.array]) -> None:
        """Hands the cell what it asks for; the run has it."""
        self.plan.provide(given)

    def edits_for(self, position_range: PositionRange) -> tuple[dict[PointIndex, list[RowEdit]], EditResult]:
        """The edits of the run, then those of the cell."""
        earlier, outcome = self.before.edits_for(position_range)
        there = {edit.index for edit in self.before.edits if self._is_in_stream(edit.point)}
        found = {point: list(edits) for point, edits in earlier.items() if point not in there}
        later, other = self.plan.edits_for(position_range)
        for point, edits in later.items():
            found.setdefault(point, []).extend(edits)
        outcome.finite += other.finite
        outcome.donated += other.donated
        outcome.errors += other.errors
        return found, outcome

    def _is_in_stream(self, point: Point) -> bool:
        """Whether the stream with which the row enters has the edit of a point."""
        if self.boundary is None:
            return False
        if point.component == "embedding":
            return self.boundary >= 0
        reached = boundary_of(point.component, point.layer, self.num_layers)
        is_stream = point.component in ("resid_pre", "resid_post")
        return reached <= self.boundary if is_stream else reached < self.boundary


def subject_noise(
    message: pb.SubjectNoise, model: LoadedModel, tokens: Sequence[int], path: str
) -> intervention_pb2.Intervention:
    """Noise at the embeddings of a subject's tokens.

    Args:
        message: of the request.
        model: reads the prompt.
        tokens: of the prompt whose run is corrupted.
        path: of the message in the request.

    Raises:
        InvalidRequestError: the subject is not in the prompt, or there several times.
    """
    positions = find_token_positions(model, tokens, message.subject, f"{path}.subject")
    noise = intervention_pb2.Noise(
        seed=message.seed,
        standard_deviation=message.standard_deviation or _DEFAULT_DEVIATION,
        unit=intervention_pb2.NOISE_UNIT_OWN_DEVIATION,
    )
    select = site_pb2.Selector()
    select.positions.list.positions.extend(positions)
    noisy = intervention_pb2.BinaryOperation(
        operator=intervention_pb2.BINARY_OPERATOR_ADD,
        left=intervention_pb2.Expression(activation=intervention_pb2.Activation()),
        right=intervention_pb2.Expression(noise=noise),
    )
    return intervention_pb2.Intervention(
        intervention_id="the subject's noise",
        site=Point("embedding").to_message(),
        select=select,
        value=intervention_pb2.Expression(binary=noisy),
    )


def find_token_positions(model: LoadedModel, tokens: Sequence[int], text: str, path: str) -> list[int]:
    """The tokens that have a part in a text.

    Raises:
        InvalidRequestError: the text is not in the prompt, or there several times.
    """
    if not text:
        raise InvalidRequestError("the subject is empty", field=path)
    known = [model.detokenize(list(tokens[:count]), skip_special_tokens=False) for count in range(len(tokens) + 1)]
    whole = known[-1]
    start, times = whole.find(text), whole.count(text)
    if times != 1:
        said = f"{times} times" if times else "not"
        raise InvalidRequestError(
            f"{text!r} is {said} in the prompt {whole[:200]!r}" + "; edits name positions" * (times > 1), field=path
        )
    # A character may be of several tokens, of which the first decode to a replacement character.
    begins = [len(part.rstrip("\ufffd")) for part in known[:-1]]
    ends = [len(part) for part in known[1:]]
    return [
        index
        for index, (begin, end) in enumerate(zip(begins, ends, strict=True))
        if begin < start + len(text) and end > start and begin < end
    ]


def _select_corrupted(edit: intervention_pb2.Intervention) -> intervention_pb2.Intervention:
    found = intervention_pb2.Intervention()
    found.CopyFrom(edit)
    found.select.rows.append(CORRUPTED)
    return found
