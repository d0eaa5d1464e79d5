"""A fluent interface for sweeps: what is patched, with what, and how runs are scored.

    client.patch(clean, corrupted).residual().heads().run(metric=logit_diff(" Mary", " John"))

Every method returns a new object. The equivalents in TransformerLens' patching module are:
`residual()` is get_act_patch_resid_pre, `attention()` attn_out, `mlps()` mlp_out, `heads()` attn_head_out_all_pos and
`heads(positions=EACH)` attn_head_out_by_pos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, SupportsIndex, TypeVar

from neuroscope import interventions
from neuroscope.dictionaries.dictionary import Dictionary
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.edges import EdgeSets, to_edge_grid
from neuroscope.experiments.experiment import Experiment
from neuroscope.experiments.grids import EACH, Axis, Value, ValueLike, other_run, to_axis, to_indices, to_value
from neuroscope.experiments.metrics import Metric
from neuroscope.experiments.paths import Positions, Receivers, to_receivers, to_senders
from neuroscope.interventions import InterventionLike
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary import prompts, sites
from neuroscope.vocabulary.prompts import PromptLike

Layers = SupportsIndex | Iterable[SupportsIndex] | None
Where = Literal["pre", "mid", "post"]
Answer = TypeVar("Answer")

METHODS = {
    "auto": pb.SWEEP_METHOD_UNSPECIFIED,
    "plain": pb.SWEEP_METHOD_PLAIN,
    "layers": pb.SWEEP_METHOD_LAYERS,
    "layers_and_positions": pb.SWEEP_METHOD_LAYERS_AND_POSITIONS,
}
EDITED = {"generated": pb.EDITED_TOKENS_GENERATED, "prompt": pb.EDITED_TOKENS_PROMPT}
_RUNS = {"clean": pb.SWEPT_RUN_CLEAN, "corrupted": pb.SWEPT_RUN_CORRUPTED}


@dataclass(frozen=True, slots=True)
class Patching(Generic[Answer]):
    """A builder of sweeps.

    Args:
        experiment: the experiment so far.
        sweep: runs an experiment: `Client.sweep` or `AsyncClient.sweep`.
        default: the default replacement for activations.
    """

    experiment: Experiment
    sweep: Callable[..., Answer]
    default: ValueLike

    def residual(
        self, *, where: Where = "pre", layers: Layers = None, positions: Axis = EACH, **how: Any
    ) -> Patching[Answer]:
        """The residual stream before, within or after each layer, at each position."""
        if where not in ("pre", "mid", "post"):
            raise InvalidRequestError(f"the stream is read pre, mid or post, not {where!r}", field="where")
        return self.site(f"resid_{where}", layers=layers, positions=positions, **how)

    def attention(self, *, layers: Layers = None, positions: Axis = EACH, **how: Any) -> Patching[Answer]:
        """The output of each attention layer, at each position."""
        return self.site("attn_out", layers=layers, positions=positions, **how)

    def mlps(self, *, layers: Layers = None, positions: Axis = EACH, **how: Any) -> Patching[Answer]:
        """The output of each MLP, at each position."""
        return self.site("mlp_out", layers=layers, positions=positions, **how)

    def heads(
        self, *, layers: Layers = None, heads: Axis = EACH, positions: Axis = None, **how: Any
    ) -> Patching[Answer]:
        """The output of each head, at all positions together."""
        return self.site("head_output", layers=layers, heads=heads, positions=positions, **how)

    def neurons(self, layers: Layers, units: Axis = EACH, *, positions: Axis = None, **how: Any) -> Patching[Answer]:
        """Neurons of the MLPs of some layers, at all positions together."""
        return self.site("mlp_neurons", layers=layers, units=units, positions=positions, **how)

    def site(
        self,
        component: str,
        *,
        layers: Layers = None,
        heads: Axis = None,
        positions: Axis = None,
        units: Axis = None,
        value: ValueLike | None = None,
        window: int = 1,
    ) -> Patching[Answer]:
        """A grid of any component: layers x heads x positions x units.

        Args:
            component: any name of the vocabulary; a name with a layer sweeps only that layer.
            layers: None for every layer that has the component.
            heads: like all axes: EACH, a list, together(...), or None for all heads together.
            positions: negative positions count from the end.
            units: along the last axis: neurons of mlp_neurons, experts of router_logits.
            value: the replacement; None for the default of the sweep.
            window: number of layers around the cell's layer that are edited together; causal tracing restores 10.
        """
        site = sites.parse(component)
        sites.resolve(site, None, field="component")
        grid = pb.SweepGrid(
            site=site,
            layers=() if layers is None else to_indices(layers, "layers"),
            heads=to_axis(heads, "heads"),
            positions=to_axis(positions, "positions"),
            units=to_axis(units, "units"),
            value=to_value(self.default if value is None else value),
            layer_window=window,
        )
        return self._changed(pb.RunSweepRequest(grids=[grid]))

    def edges(self, cells: EdgeSets = None, *, value: ValueLike | None = None) -> Patching[Answer]:
        """Sets of edges of the model's graph, one cell for each set. Circuits are evaluated this way.

        Over changed edges, a receiver reads the senders' replaced output; over other edges, their output in this run.
        `{"S-inhibition": ["a7.h3->a9.h9<q>", "a7.h9->a9.h9<q>"]}` is one cell of two edges, and
        `["a0.h1->m2", "m2->logits"]` are two cells of one edge.

        Args:
            cells: sets of edges, with or without names, or boolean masks (cells, senders, receivers) over the graph of
                `edge_graph`; None for each edge alone.
            value: the senders' replaced output; None for the default of the sweep.
        """
        grid = to_edge_grid(cells, to_value(self.default if value is None else value))
        return self._changed(pb.RunSweepRequest(edges=[grid]))

    def paths(
        self,
        senders: str | Iterable[str] = "heads",
        receivers: Receivers = "logits",
        *,
        sender_positions: Positions = None,
        receiver_positions: Positions = None,
        recompute_mlps: bool = False,
        value: ValueLike | None = None,
    ) -> Patching[Answer]:
        """Direct paths, senders x receivers (Wang et al. 2022, arXiv:2211.00593).

        The sender's output is replaced for the receivers only. Components in between keep their activations of the
        edited run; everything after the receivers is recomputed.

        Args:
            senders: names such as input, a3.h5, a3, m3; `heads` and `mlps` are those of every layer.
            receivers: names such as a9.h6<q>, a9.h6<k>, a9.h6<v>, m9, logits; a tuple is one cell of several.
            sender_positions: positions at which the output is replaced; None for all.
            receiver_positions: positions at which receivers read it; None for all.
            recompute_mlps: recomputes the MLPs in between, so that paths go through them too.
            value: the replaced output; None for the default of the sweep.
        """
        grid = pb.PathGrid(
            senders=to_senders(senders, sender_positions),
            receivers=to_receivers(receivers, receiver_positions),
            recompute_mlps=recompute_mlps,
            value=to_value(self.default if value is None else value),
        )
        return self._changed(pb.RunSweepRequest(paths=[grid]))

    def features(
        self,
        dictionary: Dictionary | str,
        features: Axis = EACH,
        *,
        positions: Axis = None,
        value: float | Value | None = None,
    ) -> Patching[Answer]:
        """Features of a dictionary (features x positions). Other features and the error are kept.

        Args:
            dictionary: a loaded dictionary, or its id.
            features: EACH, a list such as the active ones (`dictionary.features(prompt).active()`), or together(...).
            positions: as in `site`.
            value: a number, `other_run()` or `resample()`; None for the default of the sweep.
        """
        name = dictionary if isinstance(dictionary, str) else dictionary.dictionary_id
        axis = to_axis(features, "features")
        if axis is None:
            raise InvalidRequestError("features are EACH, a list or together(...)", field="features")
        grid = pb.SweepGrid(
            features=pb.SweepFeatures(dictionary_id=name, axis=axis),
            positions=to_axis(positions, "positions"),
            value=to_value(self.default if value is None else value),
        )
        return self._changed(pb.RunSweepRequest(grids=[grid]))

    def cell(self, *edits: InterventionLike, name: str = "") -> Patching[Answer]:
        """A single cell with one or several edits; see `neuroscope.edit`."""
        cell = pb.SweepCell(name=name, interventions=interventions.to_messages(edits, "cell"))
        return self._changed(pb.RunSweepRequest(cells=[cell]))

    def references(self, prompt: PromptLike, *, bos: bool | None = None) -> Patching[Answer]:
        """Reference prompts for mean and resample ablation."""
        return self._changed(pb.RunSweepRequest(references=prompts.to_messages(prompt, bos)))

    def generating(
        self,
        tokens: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Iterable[str] = (),
        edits: Literal["generated", "prompt"] = "generated",
    ) -> Patching[Answer]:
        """Generates text in every run, for `result.scores.texts` and `result.scores.by("function_call")`.

        Args:
            tokens: the most tokens to generate; an end-of-sequence token ends a run earlier.
            temperature: 0 for greedy decoding.
            seed: seed of sampling, the same for all runs.
            stop: texts that end a run.
            edits: `generated`: cells of all positions also edit generated tokens, if their value exists there;
                `prompt`: only positions of the prompt are edited.

        Raises:
            InvalidRequestError: `edits` is invalid.
        """
        if edits not in EDITED:
            raise InvalidRequestError(f"there is no {edits!r}", field="edits", valid=EDITED)
        sampling = inference_pb2.Sampling(max_tokens=tokens, temperature=temperature, seed=seed, stop=stop)
        generation = pb.SweepGeneration(sampling=sampling, edited_tokens=EDITED[edits])
        return self._changed(pb.RunSweepRequest(generation=generation))

    def limits(self, *, max_patches: int = 0, max_seconds: float = 0.0, batch_bytes: int = 0) -> Patching[Answer]:
        """Limits the cost. A sweep whose estimate exceeds them is refused, with the estimate."""
        limits = pb.SweepLimits(max_patches=max_patches, max_seconds=max_seconds, batch_bytes=batch_bytes)
        return self._changed(pb.RunSweepRequest(limits=limits))

    def scored_by(self, metric: Metric, *, method: str = "auto") -> Experiment:
        """The finished experiment.

        Args:
            metric: the metric.
            method: auto, plain, layers or layers_and_positions.
        """
        if method not in METHODS:
            raise InvalidRequestError(f"there is no method {method!r}", field="method", valid=METHODS)
        request = self._changed(pb.RunSweepRequest(method=METHODS[method])).experiment.request
        request.metric.CopyFrom(metric.message)
        return Experiment(request)

    def run(self, metric: Metric, *, method: str = "auto", **how: Any) -> Answer:
        """Runs the sweep. Further arguments are those of `Client.sweep`."""
        return self.sweep(self.scored_by(metric, method=method), **how)

    def _changed(self, change: pb.RunSweepRequest) -> Patching[Answer]:
        request = pb.RunSweepRequest()
        request.CopyFrom(self.experiment.request)
        request.MergeFrom(change)
        return Patching(Experiment(request), self.sweep, self.default)


def patching(
    clean: PromptLike,
    corrupted: PromptLike | None,
    sweep: Callable[..., Answer],
    *,
    corruptions: Sequence[InterventionLike] = (),
    into: str,
    model_id: str,
    bos: bool | None,
) -> Patching[Answer]:
    """A builder of sweeps over pairs of prompts, for `Client.patch`.

    Raises:
        InvalidRequestError: the numbers of clean and corrupted prompts differ, or `into` is invalid.
    """
    if into not in _RUNS:
        raise InvalidRequestError(
            f"activations are patched into the clean or the corrupted run, not {into!r}", field="into"
        )
    cleans = prompts.to_messages(clean, bos)
    if corrupted is None and not corruptions:
        raise InvalidRequestError("the corrupted prompt is missing, or edits that corrupt the run", field="corrupted")
    others = [None] * len(cleans) if corrupted is None else prompts.to_messages(corrupted, bos)
    if len(cleans) != len(others):
        raise InvalidRequestError(
            f"there are {len(cleans)} clean prompts and {len(others)} corrupted ones", field="corrupted"
        )
    edits = interventions.to_messages(corruptions, "corruptions")
    pairs = [
        pb.PromptPair(clean=one, corrupted=other, corruptions=edits) for one, other in zip(cleans, others, strict=True)
    ]
    request = pb.RunSweepRequest(model_id=model_id, pairs=pairs, edited_run=_RUNS[into])
    return Patching(Experiment(request), sweep, other_run())


def ablation(
    prompt: PromptLike, sweep: Callable[..., Answer], *, value: ValueLike, model_id: str, bos: bool | None
) -> Patching[Answer]:
    """A builder of sweeps over single prompts, for `Client.ablate`."""
    pairs: Sequence[pb.PromptPair] = [pb.PromptPair(clean=one) for one in prompts.to_messages(prompt, bos)]
    request = pb.RunSweepRequest(model_id=model_id, pairs=pairs, edited_run=pb.SWEPT_RUN_CLEAN)
    return Patching(Experiment(request), sweep, value)


def tracing(
    prompt: PromptLike,
    subject: str | Sequence[str],
    sweep: Callable[..., Answer],
    *,
    noise: float,
    samples: int,
    seed: int,
    model_id: str,
    bos: bool | None,
) -> Patching[Answer]:
    """A builder of sweeps over noisy runs of prompts, for `Client.causal_trace`.

    Raises:
        InvalidRequestError: the numbers of subjects and prompts differ, or there are no samples.
    """
    cleans = prompts.to_messages(prompt, bos)
    subjects = [subject] * len(cleans) if isinstance(subject, str) else list(subject)
    if len(subjects) != len(cleans):
        raise InvalidRequestError(f"there are {len(subjects)} subjects for {len(cleans)} prompts", field="subject")
    if samples < 1 or noise <= 0:
        raise InvalidRequestError("noise has a size above 0 and at least one sample", field="noise")
    pairs = [
        pb.PromptPair(clean=one, noise=pb.SubjectNoise(subject=of_one, seed=seed + at, standard_deviation=noise))
        for one, of_one in zip(cleans, subjects, strict=True)
        for at in range(samples)
    ]
    request = pb.RunSweepRequest(model_id=model_id, pairs=pairs, edited_run=pb.SWEPT_RUN_CORRUPTED)
    return Patching(Experiment(request), sweep, other_run())
