"""What good requests to a service with the bundled model are made of, by message and by field (see `Sensible`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from neuroscope.v1 import dictionary_pb2, experiment_pb2, intervention_pb2, site_pb2, tensor_pb2
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary import tensors as tensors_of
from neuroscope.wire import frames
from neuroscope.wire.codec import encode

IDS = [1, 50, 60, 70]
WIDTH = 128
"""Of the residual stream."""
DICTIONARY = "sae"
DIRECTION = np.arange(1, WIDTH + 1, dtype=np.float32)


@dataclass(frozen=True)
class There:
    """What the service has, by the names that good requests use."""

    model_id: str
    model_path: str
    spare_model_id: str
    """One that may be freed and loaded."""
    hook_id: str
    generation_id: str
    """Of a generation that runs, in lockstep."""
    whole_capture_id: str
    """Of the residual streams of all layers."""
    broken_capture_id: str
    restart_token: str
    tensor_id: str
    trace_id: str
    dictionary_path: str
    """Of the dictionary `sae`, which reads resid_post.2."""


def examples(there: There) -> dict[str, Sequence[Any]]:
    """The examples for a service."""
    return {**_MESSAGES, **_references(there), **_fields(there)}


def _hook(component: str, layer: int | None = None, **fields: Any) -> pb.HookSpec:
    return pb.HookSpec(site=site_pb2.Site(component=component, layer=layer), **fields)


def _upload() -> list[pb.PutTensorRequest]:
    header = pb.TensorHeader(dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2, WIDTH // 2], time_to_live_ms=2000)
    slices = frames.slice_frames(DIRECTION.view(np.uint8).data, WIDTH * 2)
    return [pb.PutTensorRequest(header=header), *(pb.PutTensorRequest.FromString(encode(part)) for part in slices)]


_ITSELF = intervention_pb2.Expression(activation=intervention_pb2.Activation())
_LIST = site_pb2.PositionSelector(list=site_pb2.PositionList(positions=[-1, 0]))
_RANGE = site_pb2.PositionSelector(range=site_pb2.PositionRange(start=1, stop=3))
_INLINE = tensor_pb2.TensorReference(
    inline=tensor_pb2.Tensor(
        dtype=tensor_pb2.DATA_TYPE_FLOAT32,
        shape=[WIDTH],
        data=DIRECTION.tobytes(),
        xxh3_64=xxhash.xxh3_64_intdigest(DIRECTION.tobytes()),
    )
)
_SITES = [
    site_pb2.Site(component="resid_post", layer=1),
    site_pb2.Site(component="attention_pattern"),
    site_pb2.Site(component="blocks.2.hook_mlp_out"),
    site_pb2.Site(component="residual", layer_name="transformer.h.3", side=site_pb2.SIDE_INPUT),
    site_pb2.Site(component="logits"),
]
_PROMPT = pb.Prompt(token_ids=pb.TokenIds(ids=IDS))
_EACH = experiment_pb2.SweepAxis(each=experiment_pb2.EachIndex())
_ZERO = experiment_pb2.SweepValue(constant=0)
_LOGITS = experiment_pb2.PathReceivers(nodes=[experiment_pb2.PathReceiver(site=site_pb2.Site(component="logits"))])
_QUERIES = experiment_pb2.PathReceivers(
    name="queries",
    nodes=[experiment_pb2.PathReceiver(site=site_pb2.Site(component="q_proj", layer=2), heads=[0])],
)
_ANSWER = experiment_pb2.TokenChoice(id=5)
_PAIR = experiment_pb2.PromptPair(clean=_PROMPT, corrupted=pb.Prompt(token_ids=pb.TokenIds(ids=IDS[::-1])))
_LOG_PROBABILITY = experiment_pb2.Metric(log_probability=experiment_pb2.LogProbability(answers=[_ANSWER]))
_CHANGE = intervention_pb2.FeatureEdit(features=[3, 7], value=2)
_FEATURES = intervention_pb2.Expression(
    features=intervention_pb2.FeatureEdits(dictionary_id=DICTIONARY, edits=[_CHANGE])
)


def _parts() -> dictionary_pb2.DictionaryParts:
    """Of a dictionary of four features."""
    arrays = {
        "W_enc": np.ones((WIDTH, 4), np.float32),
        "W_dec": np.ones((4, WIDTH), np.float32),
        "b_enc": np.zeros(4, np.float32),
        "b_dec": np.zeros(WIDTH, np.float32),
    }
    tensors = [
        dictionary_pb2.DictionaryTensor(
            name=name, tensor=tensor_pb2.TensorReference(inline=tensors_of.to_message(array))
        )
        for name, array in arrays.items()
    ]
    return dictionary_pb2.DictionaryParts(configuration='{"hook_name": "blocks.1.hook_resid_pre"}', tensors=tensors)


_MESSAGES: dict[str, Sequence[Any]] = {
    "Site": _SITES,
    "Prompt": [
        pb.Prompt(text="The capital of France is"),
        pb.Prompt(token_ids=pb.TokenIds(ids=IDS), bos=pb.BOS_POLICY_OMIT),
        pb.Prompt(text="Hello", bos=pb.BOS_POLICY_ADD),
    ],
    "Selector": [
        site_pb2.Selector(),
        site_pb2.Selector(positions=_LIST),
        site_pb2.Selector(positions=_RANGE),
        site_pb2.Selector(steps=site_pb2.StepSelector(stop=2), rows=[0]),
    ],
    "Sampling": [
        pb.Sampling(max_tokens=2),
        pb.Sampling(max_tokens=3, temperature=1, top_p=0.9, min_p=0.01, top_k=40, top_logprobs=2, seed=1),
        pb.Sampling(max_tokens=3, stop=["zebra"], stop_token_ids=[7], ignore_eos=True, rows_per_prompt=2),
        pb.Sampling(max_tokens=3, presence_penalty=0.5, repetition_penalty=1.1, logit_bias={5: 1.0, 9: -100.0}),
        pb.Sampling(max_tokens=3, json_schema=pb.JsonSchema(schema='{"type": "object", "properties": {"a": {}}}')),
        pb.Sampling(max_tokens=3, grammar='start: "yes" | "no"'),
    ],
    "PromptPair": [
        _PAIR,
        experiment_pb2.PromptPair(clean=_PROMPT),
        experiment_pb2.PromptPair(
            clean=pb.Prompt(text="Mary had a lamb"), noise=experiment_pb2.SubjectNoise(subject="Mary", seed=1)
        ),
    ],
    "SweepGrid": [
        experiment_pb2.SweepGrid(site=_SITES[0], positions=_EACH, value=_ZERO),
        experiment_pb2.SweepGrid(site=site_pb2.Site(component="head_output"), layers=[-1], heads=_EACH, value=_ZERO),
        experiment_pb2.SweepGrid(
            features=experiment_pb2.SweepFeatures(
                dictionary_id=DICTIONARY,
                axis=experiment_pb2.SweepAxis(one_by_one=experiment_pb2.Indices(indices=[3, 7, 511])),
            ),
            value=_ZERO,
        ),
    ],
    "PathGrid": [
        experiment_pb2.PathGrid(
            senders=[experiment_pb2.PathSender(site=site_pb2.Site(component="mlp_out"))],
            receivers=[_LOGITS],
            value=_ZERO,
        ),
        experiment_pb2.PathGrid(
            senders=[experiment_pb2.PathSender(site=site_pb2.Site(component="head_output", layer=0), heads=_EACH)],
            receivers=[_LOGITS, _QUERIES],
            value=_ZERO,
            recompute_mlps=True,
        ),
    ],
    "EdgeGrid": [
        experiment_pb2.EdgeGrid(
            senders=[experiment_pb2.EdgeSender(site=site_pb2.Site(component="mlp_contrib", layer=1))],
            value=_ZERO,
            each=experiment_pb2.EachIndex(),
        ),
        experiment_pb2.EdgeGrid(
            value=_ZERO,
            cells=experiment_pb2.EdgeCells(cells=[experiment_pb2.EdgeCell(name="two", edges=[0, 1])]),
        ),
    ],
    "SweepGeneration": [
        experiment_pb2.SweepGeneration(sampling=pb.Sampling(max_tokens=2)),
        experiment_pb2.SweepGeneration(
            sampling=pb.Sampling(max_tokens=3, temperature=1, seed=2), edited_tokens=experiment_pb2.EDITED_TOKENS_PROMPT
        ),
    ],
    "Metric": [
        _LOG_PROBABILITY,
        experiment_pb2.Metric(kl_divergence=experiment_pb2.KlDivergence(), positions=[-1, 0]),
        experiment_pb2.Metric(cross_entropy=experiment_pb2.CrossEntropy()),
        experiment_pb2.Metric(
            weighted_sum=experiment_pb2.WeightedSum(
                terms=[experiment_pb2.WeightedMetric(weight=0.5, metric=_LOG_PROBABILITY)]
            )
        ),
    ],
    "NodeAttribution": [
        experiment_pb2.NodeAttribution(),
        experiment_pb2.NodeAttribution(sites=[experiment_pb2.NodeSite(site=_SITES[0], by_position=True)], steps=2),
        experiment_pb2.NodeAttribution(gradient_times_activation=True),
        experiment_pb2.NodeAttribution(sites=[experiment_pb2.NodeSite(dictionary_id=DICTIONARY, by_unit=True)]),
    ],
    "EdgeAttribution": [experiment_pb2.EdgeAttribution(steps=1), experiment_pb2.EdgeAttribution()],
    "IntegratedGradients": [experiment_pb2.IntegratedGradients(steps=2)],
    "PutTensor": [_upload()],
}


def _references(there: There) -> dict[str, Sequence[Any]]:
    """Messages that name what is there, or are made of those that do."""
    expression = intervention_pb2.Expression
    uploaded = tensor_pb2.TensorReference(tensor_id=there.tensor_id)
    captured = tensor_pb2.CapturedTensor(capture_id=there.whole_capture_id, plan_index=1)
    kept = tensor_pb2.TensorReference(captured=captured)
    doubled = expression(
        binary=intervention_pb2.BinaryOperation(
            operator=intervention_pb2.BINARY_OPERATOR_MULTIPLY, left=_ITSELF, right=expression(constant=2)
        )
    )
    reductions = [
        pb.Reduction(norm=pb.NormReduction()),
        pb.Reduction(mean=pb.MeanReduction()),
        pb.Reduction(top_k=pb.TopKReduction(k=3)),
        pb.Reduction(projection=pb.ProjectionReduction(directions=uploaded)),
        pb.Reduction(lens=pb.LensReduction(top_k=2, token_ids=[5], kl=True)),
        pb.Reduction(features=pb.FeatureReduction(dictionary_id=DICTIONARY, top_count=3, l0=True, error=True)),
    ]
    return {
        "TensorReference": [uploaded, _INLINE, kept],
        "CapturedTensor": [captured],
        "Reduction": reductions,
        "Expression": [
            _ITSELF,
            doubled,
            expression(constant=0),
            expression(noise=intervention_pb2.Noise(seed=3, standard_deviation=0.1)),
            expression(clamp=intervention_pb2.Clamp(operand=_ITSELF, minimum=-1)),
            expression(project_out=intervention_pb2.ProjectOut(operand=_ITSELF, direction=uploaded)),
            expression(project_out=intervention_pb2.ProjectOut(operand=doubled, direction=_INLINE)),
            expression(reference_mean=intervention_pb2.ReferenceMean(reference=kept)),
        ],
        "hooks": [
            [_hook("resid_post", 1)],
            [_hook("resid_post", hook_id="all"), _hook("attention_pattern", 2)],
            *([_hook("resid_post", 2, reduction=reduction)] for reduction in reductions),
            [_hook("mlp_out", 0, dtype=tensor_pb2.DATA_TYPE_FLOAT16, select=site_pb2.Selector(positions=_LIST))],
            [_hook("head_output", 3, select=site_pb2.Selector(heads=[0, -1], positions=_RANGE))],
        ],
    }


def _fields(there: There) -> dict[str, Sequence[Any]]:
    return {
        "LoadModelRequest.model_path": [there.model_path],
        "LoadModelRequest.model_id": ["", there.spare_model_id, "another"],
        "LoadModelRequest.adapter_path": [None],
        "LoadModelRequest.revision": [None],
        "LoadModelRequest.dtype": [None],
        "LoadModelRequest.dequantize": [None],
        "UnloadModelRequest.model_id": [there.spare_model_id],
        "RegisterHooksRequest.hooks": [[_hook("resid_post", 1)], [_hook("mlp", hook_id="fuzz")]],
        "ClearHooksRequest.hook_ids": [(), (there.hook_id,)],
        "AdvanceGenerationRequest.steps": [1, 2],
        "CaptureRequest.capture_id": [None, "kept"],
        "GenerateRequest.generation_id": [None, "kept too"],
        "EstimateCaptureRequest.capture": [...],
        "ResumeCaptureRequest.capture_id": [there.whole_capture_id] * 2 + [there.broken_capture_id],
        "ResumeCaptureRequest.sequence": [0],
        "ResumeCaptureRequest.restart_token": [None, None, there.restart_token],
        "GetTraceRequest.trace_id": [there.trace_id],
        "HealthCheckRequest.service": ["", "neuroscope.v1.ModelService"],
        "Intervention.site": [site_pb2.Site(component=name, layer=2) for name in ("resid_post", "mlp_out")],
        "Intervention.select": [None, site_pb2.Selector(positions=_LIST)],
        "RunSweepRequest.pairs": [...],
        "RunSweepRequest.references": [(), [_PROMPT]],
        "RunSweepRequest.grids": [...],
        "RunSweepRequest.paths": [(), ...],
        "RunSweepRequest.edges": [(), ...],
        "RunSweepRequest.cells": [()],
        "RunSweepRequest.generation": [None, None, ...],
        "RunSweepRequest.metric": [...],
        "RunSweepRequest.done_patches": [(), (0,)],
        "RunSweepRequest.limits": [None, experiment_pb2.SweepLimits(max_patches=500)],
        "AttributeRequest.pairs": [[_PAIR], [_PAIR] * 2],
        "AttributeRequest.metric": [_LOG_PROBABILITY],
        "AttributeRequest.batch_bytes": [None],
        "ReadWeightsRequest.names": [(), ("W_Q", "mlp"), ("ln1.w",), ("embedding", "ov")],
        "ReadWeightsRequest.layers": [(), (0, -1)],
        "ReadWeightsRequest.heads": [()],
        "ReadWeightsRequest.experts": [()],
        "ReadWeightsRequest.dtype": [None, tensor_pb2.DATA_TYPE_FLOAT16],
        "ProjectToVocabularyRequest.vectors": [...],
        "ProjectToVocabularyRequest.top_k": [3],
        "ProjectToVocabularyRequest.tokens": [(), [_ANSWER]],
        "ProjectToVocabularyRequest.reference_row": [0],
        "ProjectToVocabularyRequest.reference_vector": [_INLINE],
        # of any message
        "capture_id": [there.whole_capture_id, there.broken_capture_id],
        "generation_id": [there.generation_id],
        "model_id": ["", there.model_id],
        "prompt": [...],
        "prompts": [[pb.Prompt(text="Once upon a time")], [_PROMPT] * 2],
        "hook_ids": [(), (), (there.hook_id,)],
        "token_ids": [(5, 6), (70,)],
        "tensor": [...],
        "interventions": [(), ..., [intervention_pb2.Intervention(value=_FEATURES)]],
        "LoadDictionaryRequest.dictionary_id": ["another"],
        "LoadDictionaryRequest.path": [there.dictionary_path],
        "LoadDictionaryRequest.parts": [_parts()],
        "LoadDictionaryRequest.site": [None],
        "LoadDictionaryRequest.output_site": [None],
        "LoadDictionaryRequest.dtype": [None, tensor_pb2.DATA_TYPE_FLOAT16],
        "dictionary_id": [DICTIONARY],
        "cache_quantization": [None],
        "chunk_budget_bytes": [None, 4096],
        "stop_at_layer": [None],
        "max_steps_ahead": [None, None, 1],
    }
