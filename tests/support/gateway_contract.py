"""Which message of the contract each schema of the gateway stands for, and how it intentionally differs.

A field of a message becomes the field of the same name. `Contract` states every exception, so a field that is new in a
message, or missing in a schema, fails tests/unit/test_gateway_contract.py until it is served or listed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message
from pydantic import BaseModel

from neuroscope.v1 import answered_pair_pb2 as pairs
from neuroscope.v1 import attention_comparison_pb2 as comparison
from neuroscope.v1 import attention_pb2 as attention
from neuroscope.v1 import circuit_pb2 as circuits
from neuroscope.v1 import composition_pb2 as composition
from neuroscope.v1 import dictionary_pb2 as dictionaries
from neuroscope.v1 import experiment_pb2 as experiments
from neuroscope.v1 import inference_pb2 as inference
from neuroscope.v1 import interaction_pb2 as interactions
from neuroscope.v1 import intervention_pb2 as interventions
from neuroscope.v1 import residual_pb2 as residual
from neuroscope.v1 import telemetry_pb2 as telemetry
from neuroscope.v1 import tensor_pb2 as tensors
from neuroscope.v1 import tuned_lens_pb2 as tuned
from neuroscope.v1 import weights_pb2 as weights
from neuroscope_gateway.schemas import (
    analysis_request,
    arrays,
    captures,
    chat,
    completions,
    edge_graph,
    errors,
    generation,
    heads,
    health,
    hooks,
    metrics,
    models,
    presets,
    prompt_pairs,
    response_format,
    responses,
    sweep_axes,
    sweep_grids,
    sweep_values,
    sweeps,
    tools,
    usage,
    vocabulary,
)
from neuroscope_gateway.schemas import attention as attention_schemas
from neuroscope_gateway.schemas import attributions as attribution_schemas
from neuroscope_gateway.schemas import circuits as circuit_schemas
from neuroscope_gateway.schemas import dictionaries as dictionary_schemas
from neuroscope_gateway.schemas import residual as residual_schemas
from neuroscope_gateway.schemas import tuned_lens as lens_schemas
from neuroscope_gateway.schemas import weights as weight_schemas

TYPES = {
    "Prompt": "[integer]|string",
    "TokenChoice": "integer|string",
    "Site": "string",
    "SweepAxis": "[integer]|object|string",
    "SweepValue": "number|object|string",
    "TensorReference": "[any]|object",
    "TensorPlan": "[object]",
    "NodeSite": "string",
    "PathSender": "string",
    "PathReceivers": "[string]|string",
    "EdgeSender": "string",
    "Chat": "[object]",
}
"""The JSON type of messages that are not objects in REST."""

PARTS: Mapping[type[Message], set[str]] = {
    inference.Prompt: {"text", "token_ids", "chat", "bos"},
    experiments.TokenChoice: {"id", "text"},
    experiments.SweepAxis: {"each", "one_by_one", "together"},
    experiments.SweepValue: {"other_run", "constant", "mean", "resample", "noise", "expression"},
    experiments.MeanOfReferences: {"by_position"},
    experiments.PathSender: {"site", "layers", "heads", "positions"},
    experiments.PathReceivers: {"name", "nodes"},
    experiments.PathReceiver: {"site", "heads", "positions"},
    experiments.NodeSite: {"site", "layers", "by_head", "by_position", "by_unit", "dictionary_id"},
    tensors.TensorReference: {"tensor_id", "captured", "inline"},
    attention.RoleThreshold: {"role", "score"},
    tuned.WeightMark: {"name", "norm"},
    residual.TokenText: {"token_id", "text"},
}
"""The fields of messages that functions of the gateway or the SDK write by hand, without a schema of their own."""


@dataclass(frozen=True)
class Contract:
    """How a schema follows messages of the contract."""

    messages: tuple[type[Message], ...]
    expanded: tuple[str, ...] = ()
    """Fields whose own fields are fields of the schema; their paths are `sampling.top_k`."""
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path in the message -> field of the schema; `model_id` is `model` everywhere."""
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path in the message -> why REST does not have it."""
    added: Mapping[str, str] = field(default_factory=dict[str, str])
    """Field of the schema -> what it is. `object`, `stream`, `format` and unsupported parameters need no entry."""
    types: Mapping[str, str] = field(default_factory=dict[str, str])
    """Field of the schema -> its JSON type, where it is another one than the message's."""
    values: Mapping[str, set[str]] = field(default_factory=dict[str, set[str]])
    """Field of the schema -> its values, where they are others than the enum's."""


def of(*messages: type[Message], **differences: Any) -> Contract:
    """A contract."""
    return Contract(messages, **differences)


_IN_ARRAYS = "in the coords of arrays"
_IN_PROMPTS = "the request has the prompts"
_ONE_PROMPT = "prompts are a list"
_CALLS = "an implementation detail"
_NOT_SERVED = "not served by REST"
_RESUMABLE = "`capture_id` keeps a stream"
_OPENAI_PARAMETERS = (
    "max_completion_tokens",
    "logprobs",
    "stream_options",
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "prediction",
    "parallel_tool_calls",
    "tools",
    "tool_choice",
)
_GENERATE = of(
    inference.GenerateRequest,
    expanded=("sampling", "cache_quantization"),
    renamed={
        "prompts": "messages",
        "sampling.rows_per_prompt": "n",
        "sampling.json_schema": "response_format",
        "hooks": "activation_hooks",
        "hook_ids": "activation_hooks",
        "generation_id": "capture_id",
        "cache_quantization.bits": "kv_bits",
        "cache_quantization.group_size": "kv_group_size",
    },
    left_out={
        "sampling.stop_token_ids": "OpenAI has texts alone",
        "sampling.ignore_eos": _NOT_SERVED,
        "sampling.grammar": _NOT_SERVED,
        "max_steps_ahead": _NOT_SERVED,
        "resumable": _RESUMABLE,
        "chunk_budget_bytes": _NOT_SERVED,
    },
    added=dict.fromkeys(_OPENAI_PARAMETERS, "OpenAI's") | {"activation_format": "how values are written"},
    types={"messages": "[object]", "activation_hooks": "[object|string]", "stop": "[string]|string"},
)
_SEQUENCES = {"sequences.count": "sequences"}
_PAIR_RUNS = {
    "dataset.dropped_count": "the dataset is made here",
    "dataset.content_hash": "the dataset is made here",
}
_CIRCUIT_RENAMED = {"dataset.name": "dataset"}
_CIRCUIT_ADDED = {"drop": "how a dataset is fitted to the tokenizer"}
_DATASETS = {"ioi", "greater-than", "induction", "copying", "docstring", "facts", "arithmetic"}
_CIRCUIT_FORMAT = {"model": "of the plan", "dropped": "of the dataset", "warnings": "of the plan"}

CONTRACTS: Mapping[type[BaseModel], Contract] = {
    # Attention
    analysis_request.AnsweredPair: of(pairs.AnsweredPair),
    attention_schemas.NamedPair: of(attention.NamedPair, expanded=("pair",)),
    attention_schemas.AttentionRequest: of(
        attention.AnalyzeAttentionRequest,
        expanded=("sequences", "causal_test"),
        renamed=_SEQUENCES | {"causal_test.skip": "test"},
        left_out={"statistics_only": "`roles: []`"},
        types={"thresholds": "object"},
    ),
    attention_schemas.CausalEvidence: of(attention.CausalEvidence),
    attention_schemas.NullComparison: of(attention.NullComparison),
    attention_schemas.HeadLabel: of(
        attention.HeadLabel, values={"verdict": {"confirmed", "unconfirmed", "not tested"}}
    ),
    attention_schemas.RoleDefinition: of(attention.RolePlan),
    attention_schemas.AttentionAnalysis: of(
        attention.AttentionPlan,
        attention.AttentionResult,
        left_out={
            "layers": _IN_ARRAYS,
            "head_count": _IN_ARRAYS,
            "prompts": _IN_PROMPTS,
            "named_pairs": _IN_PROMPTS,
            "sequence_length": _NOT_SERVED,
            "warnings": _NOT_SERVED,
            "call_count": _CALLS,
        },
    ),
    heads.ComparisonRequest: of(
        comparison.CompareAttentionRequest, values={"alignment": {"auto", "positions", "tokens"}}
    ),
    heads.AttentionComparisonResponse: of(
        comparison.AttentionComparisonPlan,
        comparison.AttentionComparisonResult,
        renamed={"first_positions": "alignment", "second_positions": "alignment"},
        left_out={
            "layers": _IN_ARRAYS,
            "head_count": _IN_ARRAYS,
            "prompts": _IN_PROMPTS,
            "warnings": _NOT_SERVED,
            "token_count": _NOT_SERVED,
            "call_count": _CALLS,
        },
        types={"alignment": "[[integer]]"},
    ),
    heads.CompositionRequest: of(composition.MeasureCompositionRequest),
    heads.CompositionBaseline: of(composition.CompositionBaseline),
    heads.CompositionResponse: of(
        composition.CompositionPlan,
        composition.CompositionResult,
        left_out={"layers": _IN_ARRAYS, "head_count": _IN_ARRAYS, "call_count": _CALLS},
    ),
    heads.InteractionsRequest: of(interactions.MapInteractionsRequest, expanded=("sequences",), renamed=_SEQUENCES),
    heads.HeadInteraction: of(
        interactions.HeadInteraction,
        renamed={
            "sender_layer": "sender",
            "sender_head": "sender",
            "receiver_layer": "receiver",
            "receiver_head": "receiver",
        },
        types={"sender": "[integer]", "receiver": "[integer]"},
    ),
    heads.InteractionsResponse: of(
        interactions.InteractionPlan,
        interactions.InteractionResult,
        left_out={
            "layers": _IN_ARRAYS,
            "head_count": _IN_ARRAYS,
            "key_value_head_count": _IN_ARRAYS,
            "pair_count": _IN_PROMPTS,
            "warnings": _NOT_SERVED,
            "call_count": _CALLS,
        },
    ),
    # Residual stream and tuned lenses
    residual_schemas.Neuron: of(residual.Neuron),
    residual_schemas.ResidualRequest: of(
        residual.AnalyzeResidualStreamRequest,
        expanded=("neurons", "lens", "routing", "ablation", "flow"),
        renamed={"neurons.strongest": "strongest_neurons", "lens.tuned": "tuned_lens"},
    ),
    residual_schemas.TokenAttribution: of(residual.AttributedToken),
    residual_schemas.NeuronAttribution: of(residual.AttributedNeuron),
    residual_schemas.LogitAttribution: of(residual.LogitAttribution, left_out={"prompt": _ONE_PROMPT}),
    residual_schemas.ReconstructionError: of(
        residual.ResidualSum,
        renamed={"error": "components", "head_error": "heads"},
        left_out={"prompt": _ONE_PROMPT},
    ),
    residual_schemas.LensSummary: of(residual.LensReading, left_out={"prompt": _ONE_PROMPT}, types={"texts": "object"}),
    residual_schemas.Rewriter: of(residual.Rewriting),
    residual_schemas.FlowWriter: of(residual.FlowWriter),
    residual_schemas.FlowEdge: of(residual.FlowEdge),
    residual_schemas.InformationFlow: of(residual.InformationFlow, left_out={"prompt": _ONE_PROMPT}),
    residual_schemas.PromptAnalysis: of(
        residual.ResidualPrompt,
        residual.AblatedPrompt,
        renamed={"ids": "token_ids", "texts": "tokens"},
        left_out={"queries": _IN_ARRAYS, "prompt": _ONE_PROMPT},
        added={"arrays": "of frames", "error": "ResidualSum", "attribution": "", "lens": "", "flow": ""},
    ),
    residual_schemas.ResidualAnalysisResponse: of(
        residual.ResidualPlan,
        residual.ResidualEnd,
        left_out={
            "arrays": "of each prompt",
            "layer_count": _IN_ARRAYS,
            "head_count": _IN_ARRAYS,
            "findings": "of each prompt",
        },
    ),
    lens_schemas.Translator: of(tuned.Translator, renamed={"layer": "point"}),
    lens_schemas.TunedLensFile: of(
        tuned.TunedLens, added={"provenance": "of the plan of its training"}, types={"marks": "object"}
    ),
    lens_schemas.TunedLensRequest: of(tuned.TrainTunedLensRequest, values={"objective": {"auto", "ridge", "kl"}}),
    lens_schemas.TunedLayer: of(tuned.TunedLayer),
    lens_schemas.TunedLensResponse: of(tuned.TunedLensEnd, added={"lens": "of frames"}),
    # Circuits
    circuit_schemas.DiscoveryRequest: of(
        circuits.DiscoverCircuitRequest,
        expanded=("dataset", "search", "search.effect_test", "evaluation"),
        renamed=_CIRCUIT_RENAMED
        | {
            "search.edited_run": "into",
            "search.keep_dangling": "prune",
            "search.effect_test.skip": "test",
            "evaluation.skip": "evaluate",
        },
        left_out=_PAIR_RUNS,
        added=_CIRCUIT_ADDED,
        values={"dataset": _DATASETS},
    ),
    circuit_schemas.EvaluationRequest: of(
        circuits.EvaluateCircuitRequest,
        expanded=("dataset", "evaluation"),
        renamed=_CIRCUIT_RENAMED,
        left_out=_PAIR_RUNS
        | {
            "evaluation.skip": "an evaluation measures",
            "evaluation.resample_count": "an evaluation has no scores of single pairs",
        },
        added=_CIRCUIT_ADDED,
        values={"dataset": _DATASETS},
    ),
    circuit_schemas.DiscoveredCircuit: of(
        circuits.DiscoveryResult,
        renamed={"verdict": "is_found"},
        added=_CIRCUIT_FORMAT,
        types={"is_found": "boolean"},
    ),
    circuit_schemas.EvaluatedCircuit: of(
        circuits.EvaluationResult, left_out={"call_count": _CALLS}, added=_CIRCUIT_FORMAT
    ),
    # Sweeps and attributions
    prompt_pairs.SubjectNoise: of(experiments.SubjectNoise),
    prompt_pairs.PromptPair: of(experiments.PromptPair),
    sweep_grids.SweepFeatures: of(experiments.SweepFeatures),
    sweep_grids.SweepGrid: of(experiments.SweepGrid, renamed={"site": "component"}),
    sweep_grids.PathGrid: of(
        experiments.PathGrid,
        added={"sender_positions": "of PathSender", "receiver_positions": "of PathReceiver"},
    ),
    sweep_grids.EdgeCell: of(
        experiments.EdgeCell, left_out={"bitmap": "edges have names"}, types={"edges": "[string]"}
    ),
    sweep_grids.EdgeGrid: of(
        experiments.EdgeGrid,
        expanded=("cells",),
        renamed={"cells.cells": "cells"},
        left_out={"senders": "edges have names", "receivers": "edges have names", "each": "without `cells`"},
    ),
    sweep_grids.SweepCell: of(experiments.SweepCell),
    sweep_values.ResampleValue: of(experiments.ResampleReference, renamed={"seed": "resample"}),
    sweep_values.NoiseValue: of(interventions.Noise, renamed={"standard_deviation": "noise"}),
    metrics.WeightedMetric: of(experiments.WeightedMetric),
    metrics.Metric: of(
        experiments.Metric,
        expanded=(
            "logit_difference",
            "log_probability",
            "probability",
            "rank",
            "kl_divergence",
            "cross_entropy",
            "projection",
            "weighted_sum",
        ),
        left_out={"python_function": "a function of the SDK's own process"},
        added={"kind": "which metric"},
    ),
    sweeps.SweepGeneration: of(
        experiments.SweepGeneration,
        expanded=("sampling",),
        left_out={
            f"sampling.{name}": _NOT_SERVED
            for name in (
                "min_p stop_token_ids ignore_eos top_logprobs presence_penalty frequency_penalty repetition_penalty"
                " penalty_context_size penalize_generated_only logit_bias rows_per_prompt"
                " json_schema grammar"
            ).split()
        },
    ),
    sweeps.SweepRequest: of(
        experiments.RunSweepRequest,
        expanded=("limits",),
        added={"criterion": "judges the texts"},
        values={"method": {"auto", "plain", "layers", "layers_and_positions"}},
    ),
    sweeps.SweepResponse: of(
        experiments.SweepPlan,
        experiments.SweepEnd,
        left_out={
            "cell_count": _IN_ARRAYS,
            "edited_run": "the request has it",
            "patch_count": _IN_ARRAYS,
            "seconds": "an estimate",
            "batch_bytes": _CALLS,
            "pairs": _IN_PROMPTS,
            "warnings": _NOT_SERVED,
            "patches_done": _IN_ARRAYS,
            "forward_passes": _NOT_SERVED,
            "most_rows": _CALLS,
        },
        added={
            "metric": "of the request",
            "clean": "PairBaseline",
            "corrupted": "PairBaseline",
            "clean_texts": "PairBaseline",
            "corrupted_texts": "PairBaseline",
        },
    ),
    attribution_schemas.AttributionRequest: of(
        experiments.AttributeRequest,
        expanded=("nodes", "edges", "inputs"),
        renamed={"nodes.gradient_times_activation": "method"},
        left_out={"batch_bytes": _NOT_SERVED},
        types={"method": "string"},
    ),
    attribution_schemas.PairCompleteness: of(experiments.Completeness),
    attribution_schemas.AttributionResponse: of(
        experiments.AttributionPlan,
        experiments.AttributionEnd,
        renamed={"tensors": "scores"},
        left_out={
            "edited_run": "the request has it",
            "layers": _IN_ARRAYS,
            "senders": _IN_ARRAYS,
            "receivers": _IN_ARRAYS,
            "forward_count": _CALLS,
            "gradient_count": _CALLS,
            "most_rows": _CALLS,
            "pairs": _IN_PROMPTS,
            "warnings": _NOT_SERVED,
        },
        added={
            "metric": "of the request",
            "method": "of the request",
            "clean": "PairBaseline",
            "corrupted": "PairBaseline",
            "completeness": "Completeness",
        },
    ),
    edge_graph.EdgeReceiver: of(
        experiments.EdgeReceiver, renamed={"site": "name"}, left_out={"head": "part of the name"}
    ),
    edge_graph.EdgeGraph: of(experiments.GetEdgeGraphResponse),
    vocabulary.VocabularyRequest: of(
        experiments.ProjectToVocabularyRequest,
        renamed={"without_norm": "norm", "reference_row": "reference", "reference_vector": "reference"},
        types={"reference": "[any]|object|integer"},
    ),
    # Weights and dictionaries
    weight_schemas.WeightSummary: of(weights.WeightSummary, left_out={"plan_index": _IN_ARRAYS}),
    weight_schemas.WeightInfo: of(
        weights.Weight,
        tensors.TensorSpec,
        renamed={"hook_id": "name", "site": "layer", "layer_name": "module"},
        left_out={"plan_index": "the name", "reduced": "weights are whole", "dictionary_id": "no dictionary"},
        added={"measures": "WeightSummary"},
        types={"layer": "integer"},
    ),
    weight_schemas.WeightLayerInfo: of(weights.WeightsLayer),
    weight_schemas.WeightList: of(
        weights.WeightsPlan,
        renamed={"weights": "data"},
        left_out={
            "tensors": "in `data`",
            "norms": _NOT_SERVED,
            "length_bytes": _NOT_SERVED,
            "layer_count": _NOT_SERVED,
            "head_count": _NOT_SERVED,
            "key_value_head_count": _NOT_SERVED,
            "expert_count": _NOT_SERVED,
        },
        types={"missing": "object"},
    ),
    dictionary_schemas.LoadDictionaryRequest: of(
        dictionaries.LoadDictionaryRequest,
        left_out={"parts": "an upload, which REST does not have"},
        values={"dtype": {"float32", "float16", "bfloat16"}},
    ),
    dictionary_schemas.Dictionary: of(
        dictionaries.Dictionary, renamed={"dictionary_id": "id", "loaded_at_ms": "created"}
    ),
    dictionary_schemas.DictionaryList: of(dictionaries.ListDictionariesResponse, renamed={"dictionaries": "data"}),
    # Models, hooks and captures
    models.LoadModelRequest: of(
        inference.LoadModelRequest,
        renamed={"model_id": "model_id"},
        added={"max_kv_size": "of mlx-engine's clients, without effect"},
        values={"dtype": {"float32", "float16", "bfloat16"}},
    ),
    models.Quantization: of(inference.Quantization),
    models.Model: of(
        inference.Model,
        renamed={"model_id": "id", "loaded_at_ms": "created"},
        added={"owned_by": "OpenAI's"},
    ),
    models.ModelList: of(
        inference.ListModelsResponse, renamed={"models": "data"}, added={"models": "as mlx-engine's clients read it"}
    ),
    models.HookPoint: of(
        inference.HookPoint,
        expanded=("site",),
        renamed={"site.side": "is_input"},
        types={"is_input": "boolean"},
    ),
    models.IdentityCheck: of(inference.IdentityCheck),
    models.SelfTest: of(inference.SelfTest),
    models.ModelDetail: of(
        inference.GetModelResponse,
        expanded=("model",),
        renamed={"model.model_id": "id", "model.loaded_at_ms": "created", "points": "hook_points"},
        added={"owned_by": "OpenAI's"},
    ),
    hooks.FeatureReduction: of(inference.FeatureReduction),
    hooks.ActivationHook: of(
        inference.HookSpec,
        expanded=("site", "reduction"),
        renamed={"site.side": "capture_input"},
        left_out={
            "site.layer": "`layer_name`",
            "select": _NOT_SERVED,
            "dtype": _NOT_SERVED,
            "reduction.mean": _NOT_SERVED,
            "reduction.norm": _NOT_SERVED,
            "reduction.top_k": _NOT_SERVED,
            "reduction.projection": _NOT_SERVED,
            "reduction.lens": _NOT_SERVED,
        },
        added={"capture_output": "with `capture_input`: one hook for both sides"},
        types={"capture_input": "boolean"},
    ),
    hooks.RegisterHooksBody: of(inference.RegisterHooksRequest),
    hooks.RegisterHooksResponse: of(inference.RegisterHooksResponse, renamed={"hook_ids": "registered_hooks"}),
    hooks.HookList: of(inference.ListHooksResponse),
    hooks.ClearHooksRequest: of(inference.ClearHooksRequest),
    hooks.ClearHooksResponse: of(
        inference.ClearHooksResponse, renamed={"hook_ids": "cleared_hooks"}, added={"status": "mlx-engine's"}
    ),
    captures.CapturedRow: of(
        inference.ManifestEntry,
        left_out={
            "plan_index": "of the tensor",
            "hook_id": "of the tensor",
            "dtype": "of the tensor",
            "xxh3_64": "ETag",
        },
    ),
    captures.CapturedTensor: of(
        tensors.TensorSpec,
        renamed={"plan_index": "tensor", "site": "component"},
        left_out={"shape": "a header of its bytes", "dictionary_id": "in `hook_id`"},
        added={"is_input": "the side of the site", "rows": "ManifestEntry"},
    ),
    captures.Capture: of(
        inference.CaptureRecord,
        expanded=("manifest", "manifest.usage"),
        renamed={"capture_id": "id", "expires_at_ms": "expires_at", "plan": "tensors"},
        left_out={
            "manifest.entries": "in `tensors`",
            "manifest.frame_count": _CALLS,
            "manifest.prefill_ms": _NOT_SERVED,
            "manifest.decode_ms": _NOT_SERVED,
            "manifest.warnings": _NOT_SERVED,
        },
    ),
    captures.CaptureList: of(inference.ListCapturesResponse, renamed={"captures": "data"}),
    health.Workload: of(telemetry.GetWorkloadResponse),
    # Generation
    chat.ActivationCompletionRequest: _GENERATE,
}

WITHOUT_MESSAGE: Mapping[type[BaseModel], str] = {
    **dict.fromkeys(
        (
            chat.ChatMessage,
            chat.Message,
            chat.TokenLogprob,
            chat.GeneratedTokenLogprob,
            chat.Logprobs,
            chat.Choice,
            chat.ChatCompletion,
            completions.TextLogprobs,
            completions.TextChoice,
            completions.TextCompletion,
            responses.InputMessage,
            responses.OutputText,
            responses.OutputMessage,
            responses.InputTokensDetails,
            responses.OutputTokensDetails,
            responses.ResponseUsage,
            responses.IncompleteDetails,
            responses.ResponseObject,
            generation.StreamOptions,
            tools.RequestedFunctionCall,
            tools.RequestedToolCall,
            tools.FunctionDefinition,
            tools.Tool,
            tools.FunctionChoice,
            tools.ToolChoice,
            tools.FunctionCall,
            tools.ToolCall,
            response_format.TextFormat,
            response_format.JsonObjectFormat,
            response_format.JsonSchemaFormat,
            response_format.JsonSchemaDefinition,
            usage.Usage,
            errors.ErrorBody,
            errors.ErrorResponse,
        ),
        "OpenAI's",
    ),
    **dict.fromkeys(
        (
            chat.ChatCompletionRequest,
            completions.CompletionRequest,
            responses.ResponseRequest,
            generation.GenerationRequest,
            generation.ChoicesRequest,
        ),
        "fields of ActivationCompletionRequest, in OpenAI's forms",
    ),
    **dict.fromkeys(
        (
            analysis_request.AnalysisRequest,
            circuit_schemas.CircuitRequest,
            metrics.BaseMetric,
        ),
        "a base class",
    ),
    **dict.fromkeys(
        (
            captures.DeletedCapture,
            models.DeletedModel,
            models.LoadedModel,
            dictionary_schemas.DeletedDictionary,
            hooks.RegisterHooksRequest,
            health.Health,
            presets.UnavailableHook,
            presets.Preset,
            presets.Scenario,
            presets.PresetList,
            circuit_schemas.ExportRequest,
        ),
        "the gateway's own",
    ),
    **dict.fromkeys(
        (
            arrays.NamedArray,
            chat.CapturedActivation,
            chat.ActivationCompletion,
            sweeps.GridValues,
            dictionary_schemas.FeaturesRequest,
            dictionary_schemas.ActiveFeature,
            dictionary_schemas.PositionFeatures,
            dictionary_schemas.FeatureActivations,
            vocabulary.PredictedToken,
            vocabulary.Prediction,
            vocabulary.Vocabulary,
            weight_schemas.WeightValues,
        ),
        "of tensors that frames carry",
    ),
    **dict.fromkeys(
        (sweep_axes.JointIndices, sweep_values.ExpressionValue, sweep_values.TensorValue), "a choice, see PARTS"
    ),
}
"""Schemas that stand for no message, and what they are."""
