"""Sweeps written as a sentence: what is patched, from where, and how it is scored.

    client.patch(clean, corrupted).residual().heads().run(metric=logit_diff(" Mary", " John"))

Every method gives a new value, so that a beginning can be used twice. In terms of TransformerLens' patching module:
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
    """A sweep that is being written.

    Args:
        experiment: as far as it goes.
        sweep: runs it: `Client.sweep`, or that of the other client.
        default: what its cells put in the place of activations, unless they say something else.
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
        """What each attention layer writes, at each position."""
        return self.site("attn_out", layers=layers, positions=positions, **how)

    def mlps(self, *, layers: Layers = None, positions: Axis = EACH, **how: Any) -> Patching[Answer]:
        """What each MLP writes, at each position."""
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
            component: any name of the vocabulary; one that carries its layer sweeps that layer alone.
            layers: None: every layer that has the component.
            heads: as all axes: EACH, a list, together(...), or None for all of them together.
            positions: negative ones count from the end.
            units: along the last axis: neurons of mlp_neurons, experts of router_logits.
            value: what is put there; None: what the sweep began with.
            window: layers around its own that each cell edits together; causal tracing restores 10.
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
        """Sets of edges of the model's graph, a cell each: what circuits are evaluated by.

        Over its changed edges a receiver reads what the senders write with the value, over the others what they write
        in this cell: everything is computed anew. `{"S-inhibition": ["a7.h3->a9.h9<q>", "a7.h9->a9.h9<q>"]}` is one
        cell of two edges, `["a0.h1->m2", "m2->logits"]` are two cells of one.

        Args:
            cells: sets of edges, with names or without; or boolean masks (cells, senders, receivers) of the graph that
                `edge_graph` describes; None: each edge alone.
            value: what senders write over changed edges; None: what the sweep began with.
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

        What a sender writes is replaced for the receivers alone: all between them is as it was in the edited run, all
        behind the receivers is computed again.

        Args:
            senders: names such as input, a3.h5, a3, m3; heads and mlps are those of every layer.
            receivers: names such as a9.h6<q>, a9.h6<k>, a9.h6<v>, m9, logits; several in a tuple read together.
            sender_positions: where the sender's output is replaced; None: everywhere.
            receiver_positions: where receivers read it; None: everywhere.
            recompute_mlps: MLPs between are computed again, so that paths go through them, too.
            value: what the sender writes instead; None: what the sweep began with.
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
        """Features of a dictionary, whose other features and error stay: features x positions.

        Args:
            dictionary: a loaded one, or its id.
            features: EACH, a list such as the active ones (`dictionary.features(prompt).active()`), or together(...).
            positions: as in `site`.
            value: a number, `other_run()` or `resample()`; None: what the sweep began with.
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
        """A cell of its own: one edit or several at a time, as `neuroscope.edit` makes them."""
        cell = pb.SweepCell(name=name, interventions=interventions.to_messages(edits, "cell"))
        return self._changed(pb.RunSweepRequest(cells=[cell]))

    def references(self, prompt: PromptLike, *, bos: bool | None = None) -> Patching[Answer]:
        """Prompts that stand for what is usual, for mean and resample ablation."""
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
        """Lets every run go on, edited or not: `result.scores.texts`, and `result.scores.by("function_call")`.

        Args:
            tokens: at most so many; an end-of-sequence token ends a run before.
            temperature: 0: the likeliest token.
            seed: of the draws, the same for all runs.
            stop: texts that end a run.
            edits: generated: cells of all positions edit each generated token, too, as far as their value is there for
                it; prompt: positions of the prompt alone.

        Raises:
            InvalidRequestError: there is no such choice.
        """
        if edits not in EDITED:
            raise InvalidRequestError(f"edits are those of {edits!r}?", field="edits", valid=EDITED)
        sampling = inference_pb2.Sampling(max_tokens=tokens, temperature=temperature, seed=seed, stop=stop)
        generation = pb.SweepGeneration(sampling=sampling, edited_tokens=EDITED[edits])
        return self._changed(pb.RunSweepRequest(generation=generation))

    def limits(self, *, max_patches: int = 0, max_seconds: float = 0.0, batch_bytes: int = 0) -> Patching[Answer]:
        """What it may cost; a sweep that is estimated to cost more is refused with the estimate."""
        limits = pb.SweepLimits(max_patches=max_patches, max_seconds=max_seconds, batch_bytes=batch_bytes)
        return self._changed(pb.RunSweepRequest(limits=limits))

    def scored_by(self, metric: Metric, *, method: str = "auto") -> Experiment:
        """The finished experiment.

        Args:
            metric: how runs are scored.
            method: auto, or one of plain, layers, layers_and_positions.
        """
        if method not in METHODS:
            raise InvalidRequestError(f"there is no method {method!r}", field="method", valid=METHODS)
        request = self._changed(pb.RunSweepRequest(method=METHODS[method])).experiment.request
        request.metric.CopyFrom(metric.message)
        return Experiment(request)

    def run(self, metric: Metric, *, method: str = "auto", **how: Any) -> Answer:
        """Runs it; further arguments are those of `Client.sweep`."""
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
    """A sweep over pairs of prompts; what the two clients' `patch` give.

    Raises:
        InvalidRequestError: there are not as many clean prompts as corrupted ones, or `into` names no run.
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
    """A sweep over single prompts; what the two clients' `ablate` give."""
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
    """A sweep over noisy runs of prompts; what the two clients' `causal_trace` give.

    Raises:
        InvalidRequestError: there are not as many subjects as prompts, or no sample.
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
