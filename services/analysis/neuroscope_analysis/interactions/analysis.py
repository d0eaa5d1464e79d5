"""The run of a search for interactions between heads.

Path patching (Wang et al. 2022, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969): the output of a head
is replaced by that of the corrupted run for the queries, keys or values of one later head only; everything after that
head is recomputed. Heads whose whole output has no effect are skipped.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np

from neuroscope.experiments import Patching
from neuroscope.v1 import interaction_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.wire.codec import Event
from neuroscope_analysis import head_paths
from neuroscope_analysis.head_paths import Head
from neuroscope_analysis.interactions.receivers import Receiver, receivers_by_layer
from neuroscope_analysis.interactions.request import HEAD_OUTPUT, InteractionJob
from neuroscope_analysis.progress import ProgressTimer
from neuroscope_analysis.result_arrays import ArraySpec, ResultArrays
from neuroscope_analysis.significance import MetricChanges, benjamini_hochberg, p_values, standard_error

HEAD_EFFECT = "head_effect"
_ARRAYS = {
    pb.RECEIVER_PART_LOGITS: "direct_effect",
    pb.RECEIVER_PART_Q: "q_effect",
    pb.RECEIVER_PART_K: "k_effect",
    pb.RECEIVER_PART_V: "v_effect",
}


class InteractionMap:
    """Runs one search."""

    def __init__(self, job: InteractionJob) -> None:
        self._job = job
        self._places = {layer: index for index, layer in enumerate(job.layers)}
        layer, head = tensor_pb2.AXIS_LAYER, tensor_pb2.AXIS_HEAD
        one = (len(job.layers), job.head_count)
        readers = {
            "q_effect": job.head_count,
            "k_effect": job.key_value_head_count,
            "v_effect": job.key_value_head_count,
        }
        shapes = {HEAD_EFFECT: one, "direct_effect": one}
        shapes |= {name: (*one, len(job.layers), heads) for name, heads in readers.items()}
        self._found = {name: np.full(shape, np.nan) for name, shape in shapes.items()}
        self._arrays = ResultArrays(
            [ArraySpec(name, HEAD_OUTPUT, (layer, head) * (len(shape) // 2), shape) for name, shape in shapes.items()]
        )
        self._timer = ProgressTimer()
        self._tested: list[pb.HeadInteraction] = []
        self._kept_count = 0

    async def events(self) -> AsyncGenerator[Event, None]:
        """The plan, partial results and the result."""
        job = self._job
        yield pb.MapInteractionsResponse(
            plan=pb.InteractionPlan(
                model_id=job.model.model_id,
                layers=job.layers,
                head_count=job.head_count,
                key_value_head_count=job.key_value_head_count,
                arrays=self._arrays.plan,
                metric=job.metric_description,
                pair_count=len(job.clean),
            )
        )
        async with aclosing(self._arrays.stream(self._search(), lambda: self._found)) as searched:
            async for event in searched:
                yield event
        yield pb.MapInteractionsResponse(
            result=pb.InteractionResult(
                interactions=self._significant(),
                tested_count=len(self._tested),
                screened_count=int(np.isfinite(self._found[HEAD_EFFECT]).sum()) - self._kept_count,
                call_count=job.model.call_count,
                elapsed_seconds=self._timer.elapsed_s(),
            )
        )

    async def _search(self) -> AsyncGenerator[Event, None]:
        """Patches heads, then the paths between heads with an effect."""
        job = self._job
        yield self._progress("patching heads", 0, 1)
        heads = await self._heads_with_effect()
        self._kept_count = len(heads)
        planned = list(receivers_by_layer(heads, job.head_count, job.key_value_head_count))
        for index, receivers in enumerate(planned):
            yield self._progress("patching paths", index, len(planned))
            tried = await self._patch_paths(heads, receivers)
            self._tested += tried
            yield pb.MapInteractionsResponse(partial=pb.InteractionPartial(tried=tried))

    async def _heads_with_effect(self) -> list[Head]:
        """Heads whose whole output has an effect, by layer; also stores the effects."""
        job = self._job
        written = self._patching().heads(layers=job.layers)
        scores = (await job.model.sweep(written.scored_by(job.metric), "patching heads"))[HEAD_OUTPUT]
        effects = np.asarray(scores.effects().values, np.float64).reshape(-1, *scores.shape[-2:])
        lost = -job.sign * effects.mean(axis=0)  # (layer, head)
        self._found[HEAD_EFFECT][:, : lost.shape[1]] = lost
        return [
            (layer, head)
            for layer, of_layer in zip(job.layers, lost, strict=True)
            for head, effect in enumerate(of_layer)
            if job.every_head or abs(effect) > job.least_effect
        ]

    async def _patch_paths(self, heads: Sequence[Head], receivers: Sequence[Receiver]) -> list[pb.HeadInteraction]:
        """Patches the paths from all earlier heads to some receivers."""
        job = self._job
        senders = [head for head in heads if receivers[0].is_reached_by(head)]
        if not senders:
            return []
        written = self._patching().paths(
            map(head_paths.sender_name, senders), [receiver.name for receiver in receivers]
        )
        result = await job.model.sweep(written.scored_by(job.metric), "patching paths")
        return [
            self._interaction(sender, receiver, job.sign * changes)
            for receiver, effects in zip(receivers, head_paths.path_effects(result), strict=True)
            for sender, changes in effects.items()
        ]

    def _interaction(self, sender: Head, receiver: Receiver, lost: MetricChanges) -> pb.HeadInteraction:
        """The effect of a path as a message; also stores it."""
        effect, error = float(lost.mean()), float(standard_error(lost))
        place: tuple[int, ...] = (self._places[sender[0]], sender[1])
        if receiver.head is not None:
            place = (*place, self._places[receiver.head[0]], receiver.head[1])
        self._found[_ARRAYS[receiver.part]][place] = effect
        return pb.HeadInteraction(
            sender_layer=sender[0],
            sender_head=sender[1],
            part=receiver.part,
            receiver_layer=None if receiver.head is None else receiver.head[0],
            receiver_head=None if receiver.head is None else receiver.head[1],
            effect=effect,
            standard_error=error,
            p_value=p_values(np.atleast_1d(effect), np.atleast_1d(error), len(lost))[0],
        )

    def _significant(self) -> list[pb.HeadInteraction]:
        """Significant interactions, strongest first."""
        chances = np.array([each.p_value for each in self._tested])
        found = [
            each
            for each, is_found in zip(
                self._tested, benjamini_hochberg(chances, self._job.false_discovery_rate), strict=True
            )
            if is_found and abs(each.effect) > self._job.least_effect
        ]
        return sorted(found, key=lambda each: -abs(each.effect))

    def _patching(self) -> Patching[Any]:
        job = self._job
        return job.model.client.patch(job.clean, job.corrupted, into="clean", model_id=job.model.model_id)

    def _progress(self, stage: str, done: int, count: int) -> pb.MapInteractionsResponse:
        return pb.MapInteractionsResponse(progress=self._timer.progress(stage, done, count))
