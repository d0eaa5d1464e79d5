"""What a reader of weights should know, in words: what stands between these matrices and the model's activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from neuroscope.v1 import weights_pb2 as pb
from neuroscope_inference.engine.weights.selection import SelectedWeight


def weight_notes(plan: pb.WeightsPlan, tensors: Sequence[SelectedWeight]) -> Iterator[str]:
    """The notes of a plan whose layers and norms are there.

    Args:
        plan: what was found of the model.
        tensors: what is sent.
    """
    names = {tensor.weight.name for tensor in tensors}
    sources = {tensor.weight.source for tensor in tensors}
    if names & {"W_Q", "W_K"}:
        if rotary := [layer.layer for layer in plan.layers if layer.is_rotary]:
            yield (
                f"rotary embedding turns queries and keys in {_layers(rotary, plan)}: x @ W_Q @ W_K^T @ y is their "
                "score where both are at one position"
            )
        if normed := [layer.layer for layer in plan.layers if layer.has_query_norm]:
            yield f"queries and keys are normed before they meet in {_layers(normed, plan)}: no score is bilinear"
        if capped := [layer.layer for layer in plan.layers if layer.HasField("score_softcap")]:
            yield f"scores go through a softcap in {_layers(capped, plan)}"
    if names & {"W_K", "W_V"} and plan.key_value_head_count < plan.head_count:
        group = plan.head_count // plan.key_value_head_count
        yield (
            f"{group} heads share the keys and values of one key/value head: head h attends with key/value head h // "
            f"{group}"
        )
    if names & {"W_Q", "W_K", "W_V", "W_in", "W_gate", "W_router", "W_U"}:
        yield "norms are not folded in: matrices read what norms give, times ln1.w, ln2.w, final_norm.w"
    if names & {"W_O", "W_out"} and (scaled := [each for each in plan.layers if each.contribution_scale != 1]):
        yield (
            f"what attention and MLP write is multiplied with {scaled[0].contribution_scale:g} before it is added to "
            "the residual stream; W_O and W_out are not"
        )
    if "W_E" in names and plan.embedding_scale not in (0.0, 1.0):
        yield f"token embeddings enter the residual stream multiplied with {plan.embedding_scale:g}; W_E is not"
    if "W_U" in names and plan.logit_scale not in (0.0, 1.0):
        yield f"logits are multiplied with {plan.logit_scale:g}; W_U is not"
    if "W_U" in names and plan.HasField("logit_softcap"):
        yield f"logits go through the softcap {plan.logit_softcap:g}"
    if pb.WEIGHT_SOURCE_DEQUANTIZED in sources:
        yield "the model's matrices are quantised; what is sent is dequantised"
    if pb.WEIGHT_SOURCE_ADAPTED in sources:
        yield "an adapter is added to the matrices that it adapts"
    if pb.WEIGHT_SOURCE_EFFECTIVE in sources:
        yield "norms multiply with something else than their stored weight, such as 1 + weight; what is sent is that"


def _layers(layers: Sequence[int], plan: pb.WeightsPlan) -> str:
    if len(layers) == len(plan.layers):
        return "every layer"
    return ("layer " if len(layers) == 1 else "layers ") + ", ".join(map(str, layers))
