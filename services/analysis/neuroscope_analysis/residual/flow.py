"""Information flow between components by path patching, and the edges that skip layers.

Wang et al. 2022 (arXiv:2211.00593), Goldowsky-Dill et al. 2023 (arXiv:2304.05969). The effect of an edge is that of its
direct path: one reader reads the writer's output of the corrupted run, components in between keep their activations,
everything after the reader is recomputed. An edge skips layers if

    at least one whole layer is in between
    the write arrives unchanged (`survival`)
    no component in between reads it: no other direct path of the writer to an earlier reader has an effect
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.experiments import Metric
from neuroscope.experiments.patching import Patching
from neuroscope.v1 import residual_pb2 as pb
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.residual.components import MLP_CONTRIB, Components
from neuroscope_analysis.residual.graph_nodes import Reader, Writer, layers_between, readers_of
from neuroscope_analysis.residual.head_weights import HeadWeights
from neuroscope_analysis.residual.write_traces import WriteTrace, trace_writes

_DEFAULT_LEAST_EFFECT, _DEFAULT_TOLERANCE, _DEFAULT_MAX_WRITERS = 0.05, 0.1, 64
_MIN_RELATIVE_DIFFERENCE = 1e-4
"""Minimum relative difference of the metric between both runs."""
_MIN_RELATIVE_NORM = 1e-5
"""Minimum difference of a write, relative to the largest one."""
_ROW_BYTES = 64 * 2**20
"""Memory of the activations of one batch of writers."""
_CLEAN_BYTES = 128 * 2**20
"""Memory of the activations of the clean run; longer prompts run once for each window of positions."""
_MAX_ROWS = 16
"""Maximum writers of a batch."""


@dataclass(frozen=True, slots=True)
class FlowLimits:
    """Limits of the search.

    Args:
        least_effect: minimum effect of an edge, as a share of the difference between both runs.
        tolerance: tolerated change of a write in between.
        max_writers: maximum number of writers whose paths are patched.
    """

    least_effect: float
    tolerance: float
    max_writers: int

    @classmethod
    def from_request(cls, search: pb.FlowSearch) -> FlowLimits:
        """The limits of a request.

        Raises:
            InvalidRequestError: a limit is out of range.
        """
        for name in ("least_effect", "tolerance"):
            value: float = getattr(search, name)
            if not 0 <= value < 1:
                raise InvalidRequestError(f"{name} is a share from 0 to below 1, not {value:g}", field=f"flow.{name}")
        return cls(
            search.least_effect or _DEFAULT_LEAST_EFFECT,
            search.tolerance or _DEFAULT_TOLERANCE,
            search.max_writers or _DEFAULT_MAX_WRITERS,
        )


@dataclass(frozen=True, slots=True)
class FlowSearch:
    """Searches the information flow.

    Args:
        model: the model.
        components: components that write.
        heads: heads by layer.
        limits: limits of the search.
    """

    model: RemoteModel
    components: Components
    heads: Mapping[int, HeadWeights]
    limits: FlowLimits

    async def search(
        self, prompt: int, pair: tuple[Sequence[int], Sequence[int]], metric: Metric
    ) -> AsyncGenerator[pb.InformationFlow | tuple[str, int, int], None]:
        """Progress (stage, done, count), then the flow of one pair."""
        yield "effects of writers", 0, 1
        effects, clean, corrupted = await self._effects(pair, metric)
        flow = pb.InformationFlow(prompt=prompt, clean=clean, corrupted=corrupted)
        if abs(clean - corrupted) <= _MIN_RELATIVE_DIFFERENCE * max(1.0, abs(clean)):
            yield flow
            return
        ranked = sorted(effects, key=lambda writer: -abs(effects[writer]))
        yield "following writes", 0, len(ranked)
        followed = await trace_writes(
            self.model,
            pair,
            ranked,
            self.heads,
            [(each.component, each.layer) for each in self.components.written if each.layer >= 0],
            rows=max(1, min(_MAX_ROWS, _ROW_BYTES // (len(pair[0]) * self._position_bytes()))),
            positions=max(1, _CLEAN_BYTES // self._position_bytes()),
        )
        largest = max(each.norm for each in followed)
        carrying = [each for each in followed if each.norm > _MIN_RELATIVE_NORM * largest][: self.limits.max_writers]
        readers = self._readers()
        direct: dict[tuple[Writer, Reader], float] = {}
        groups: dict[int, list[WriteTrace]] = defaultdict(list)
        for each in carrying:
            groups[each.writer.order].append(each)
        for done, (order, group) in enumerate(sorted(groups.items())):
            yield "patching paths", done, len(groups)
            reached = [reader for reader in readers if reader.order > order]
            direct |= await self._direct_effects([each.writer for each in group], reached, pair, metric)
        count = self.components.layer_count
        for each in carrying:
            flow.writers.add(
                name=each.writer.name,
                effect=effects[each.writer],
                written_norm=each.norm,
                survival=[each.survival(2 * layer) for layer in range(count + 1)],
                rewriters=[
                    pb.Rewriting(name=name, share=share) for name, share in each.rewriters(self.limits.tolerance)
                ],
            )
            flow.edges.extend(self._edges(each, {r: direct[w, r] for w, r in direct if w == each.writer}))
        flow.edges.sort(key=lambda edge: -abs(edge.effect))
        yield flow

    async def _effects(
        self, pair: tuple[Sequence[int], Sequence[int]], metric: Metric
    ) -> tuple[dict[Writer, float], float, float]:
        """Effects of patching each writer's output, as shares of the difference between both runs; and the metrics
        of both."""
        patching = self._patching(pair).heads(layers=sorted(self.heads)).site("resid_pre", layers=[0])
        mlps = self._mlps()
        if mlps:
            patching = patching.site("mlp_out", layers=mlps)
        result = await self.model.sweep(patching.scored_by(metric), "patching what components write")
        heads = result["head_output"]
        clean, corrupted = float(heads.clean[0]), float(heads.corrupted[0])
        spread = (corrupted - clean) or 1.0
        found = {Writer(-1): float(result["resid_pre"].effects().values.reshape(-1)[0]) / spread}
        of_heads = heads.effects().values.reshape(len(self.heads), -1).tolist()
        for layer, of_layer in zip(sorted(self.heads), of_heads, strict=True):
            found |= {Writer(2 * layer, head): effect / spread for head, effect in enumerate(of_layer)}
        if mlps:
            for layer, effect in zip(mlps, result["mlp_out"].effects().values.reshape(-1).tolist(), strict=True):
                found[Writer(2 * layer + 1)] = effect / spread
        return found, clean, corrupted

    async def _direct_effects(
        self,
        writers: Sequence[Writer],
        readers: Sequence[Reader],
        pair: tuple[Sequence[int], Sequence[int]],
        metric: Metric,
    ) -> dict[tuple[Writer, Reader], float]:
        """Effects of direct paths, as shares of the difference between both runs."""
        patching = self._patching(pair).paths(
            [writer.name for writer in writers], [[reader.name] for reader in readers]
        )
        try:
            result = await self.model.sweep(patching.scored_by(metric), "patching paths")
        except MLXIntegrationError as error:
            if error.field.startswith("limits"):
                raise InvalidRequestError(
                    f"{len(writers)} writers have too many paths: {error.message}", field="flow.max_writers"
                ) from None
            raise
        scores = result["paths"]
        spread = float(scores.corrupted[0] - scores.clean[0])
        values = scores.effects().values.reshape(len(writers), len(readers)) / spread
        return {
            (writer, reader): float(values[w, r])
            for w, writer in enumerate(writers)
            for r, reader in enumerate(readers)
        }

    def _edges(self, each: WriteTrace, direct: Mapping[Reader, float]) -> list[pb.FlowEdge]:
        limits, found = self.limits, list[pb.FlowEdge]()
        for reader, effect in direct.items():
            if abs(effect) < limits.least_effect:
                continue
            between = [(abs(other), at.name) for at, other in direct.items() if at.order < reader.order]
            most, name = max(between, default=(0.0, ""))
            survival = each.survival(reader.order)
            count = layers_between(each.writer, reader)
            is_untouched = most <= limits.tolerance * abs(effect) and abs(1 - survival) <= limits.tolerance
            found.append(
                pb.FlowEdge(
                    writer=each.writer.name,
                    reader=reader.name,
                    effect=effect,
                    layers_between=count,
                    read_between=most / abs(effect),
                    reader_between=name if most > limits.tolerance * abs(effect) else "",
                    survival=survival,
                    is_skip=count > 0 and is_untouched,
                )
            )
        return found

    def _patching(self, pair: tuple[Sequence[int], Sequence[int]]) -> Patching[Any]:
        clean, corrupted = (list(ids) for ids in pair)
        return self.model.client.patch(clean, corrupted, into="clean", model_id=self.model.model_id)

    def _mlps(self) -> list[int]:
        return [each.layer for each in self.components.written if each.component == MLP_CONTRIB]

    def _readers(self) -> list[Reader]:
        heads = {layer: len(each.output) for layer, each in self.heads.items()}
        between = self.model.layers("resid_mid")
        mlps = {layer: layer in heads and layer not in between for layer in self._mlps()}
        return readers_of(heads, mlps, self.model.info.model.num_kv_heads, self.components.layer_count)

    def _position_bytes(self) -> int:
        """Bytes of the activations at one position in all layers."""
        model = self.model.info.model
        return len(self.components.written) * (model.d_model * 2 + model.num_heads * model.d_head) * 4
