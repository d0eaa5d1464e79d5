"""What the configuration of a dictionary says: SAELens' cfg.json, of its version 6 and of those before it.

Since version 6 what concerns the language model lies in `metadata`, before that beside the rest; `hook_point` is the
oldest name of `hook_name`, and `activation_fn_str` of `activation_fn`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, cast

from neuroscope.errors import ModelCorruptError, ModelUnsupportedError, nearest
from neuroscope.v1 import dictionary_pb2 as pb
from neuroscope.v1 import site_pb2
from neuroscope.vocabulary import sites

Architecture = pb.DictionaryArchitecture
_PLAIN = {
    "standard": pb.DICTIONARY_ARCHITECTURE_STANDARD,
    "jumprelu": pb.DICTIONARY_ARCHITECTURE_JUMPRELU,
    "batchtopk": pb.DICTIONARY_ARCHITECTURE_JUMPRELU,
    "matryoshka_batchtopk": pb.DICTIONARY_ARCHITECTURE_JUMPRELU,
    "topk": pb.DICTIONARY_ARCHITECTURE_TOPK,
    "gated": pb.DICTIONARY_ARCHITECTURE_GATED,
}
_TRANSCODERS = {
    "transcoder": pb.DICTIONARY_ARCHITECTURE_STANDARD,
    "skip_transcoder": pb.DICTIONARY_ARCHITECTURE_STANDARD,
    "jumprelu_transcoder": pb.DICTIONARY_ARCHITECTURE_JUMPRELU,
    "jumprelu_skip_transcoder": pb.DICTIONARY_ARCHITECTURE_JUMPRELU,
}
ARCHITECTURES = (*_PLAIN, *_TRANSCODERS)
NONE, LAYER_NORM, CONSTANT_NORM = "none", "layer_norm", "constant_norm_rescale"
_MLP_INPUT = re.compile(r"blocks\.([0-9]{1,9})\.mlp\.hook_in")


@dataclass(frozen=True, slots=True)
class DictionaryConfig:
    """A configuration that has been understood.

    Args:
        architecture: how pre-activations become features.
        is_transcoder: whether it writes to another site than it reads.
        k: of a top-k; 0 otherwise.
        input_width: d_in; 0 where it does not say.
        feature_count: d_sae; 0 where it does not say.
        subtracts_bias: whether b_dec is subtracted from what is encoded.
        normalisation: of what is encoded: NONE, LAYER_NORM or CONSTANT_NORM.
        rescales: whether a top-k chooses by features times the norms of their decoder rows.
        has_skip: whether it writes a linear function of its input besides.
        hook_name: where it reads; empty where it does not say.
        hook_name_out: where it writes; likewise.
        trained_on: the language model.
        warnings: what is not used.
    """

    architecture: Architecture.ValueType
    is_transcoder: bool
    k: int
    input_width: int
    feature_count: int
    subtracts_bias: bool
    normalisation: str
    rescales: bool
    has_skip: bool
    hook_name: str
    hook_name_out: str
    trained_on: str
    warnings: tuple[str, ...]


def parse(text: str | bytes, field: str) -> DictionaryConfig:
    """The configuration of a text.

    Args:
        text: a JSON object.
        field: its path in the request, for errors.

    Raises:
        ModelCorruptError: it is no JSON object, or a value is of another type.
        ModelUnsupportedError: it says of something that is not computed here; names it.
    """
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        raise ModelCorruptError(f"the configuration of the dictionary is no JSON: {error}", field=field) from None
    if not isinstance(found, dict):
        raise ModelCorruptError("the configuration of the dictionary is no JSON object", field=field)
    return _ConfigParser(cast("dict[str, Any]", found), field).configuration()


class _ConfigParser:
    """Values by their names of any version."""

    def __init__(self, values: dict[str, Any], field: str) -> None:
        inner = values.get("metadata") or {}
        if not isinstance(inner, dict):
            raise ModelCorruptError("metadata of the configuration is no JSON object", field=field)
        self._values = {**cast("dict[str, Any]", inner), **values}
        self._field = field

    def configuration(self) -> DictionaryConfig:
        name = self._text("architecture") or "standard"
        if name not in ARCHITECTURES:
            raise ModelUnsupportedError(
                f"the dictionary's architecture is {name!r}; there are {', '.join(ARCHITECTURES)}",
                field=self._field,
                valid=nearest(name, ARCHITECTURES),
            )
        hook_name_out = self._text("hook_name_out")
        hook_name = self._text("hook_name", "hook_point")
        is_transcoder = name in _TRANSCODERS or (hook_name_out not in ("", hook_name))
        architecture = _TRANSCODERS.get(name) or _PLAIN[name]
        function = self._text("activation_fn", "activation_fn_str") or "relu"
        if architecture == pb.DICTIONARY_ARCHITECTURE_STANDARD and function == "topk":
            architecture = pb.DICTIONARY_ARCHITECTURE_TOPK
        elif function not in ("relu", "topk"):
            raise ModelUnsupportedError(
                f"the dictionary's activation function is {function!r}; there are relu and topk", field=self._field
            )
        subtracts_bias = self._flag("apply_b_dec_to_input", default=not is_transcoder)
        if is_transcoder and subtracts_bias:
            raise ModelUnsupportedError(
                "a transcoder's decoder bias is of its output: apply_b_dec_to_input does not go with it",
                field=self._field,
            )
        if self._values.get("hook_head_index") is not None:
            raise ModelUnsupportedError(
                f"the dictionary reads head {self._values['hook_head_index']} alone (hook_head_index); those of all "
                "heads together can be loaded",
                field=self._field,
            )
        return DictionaryConfig(
            architecture,
            is_transcoder,
            self._k() if architecture == pb.DICTIONARY_ARCHITECTURE_TOPK else 0,
            self._number("d_in"),
            self._number("d_sae"),
            subtracts_bias,
            self._normalisation(is_transcoder=is_transcoder),
            self._flag("rescale_acts_by_decoder_norm", default=False),
            "skip" in name,
            hook_name,
            hook_name_out,
            self._text("model_name"),
            self._warnings(),
        )

    def _k(self) -> int:
        inner = self._values.get("activation_fn_kwargs") or {}
        k = self._number("k") or (inner.get("k") if isinstance(inner, dict) else 0)
        if not isinstance(k, int) or k < 1:
            raise ModelCorruptError("the configuration of a top-k dictionary has no k", field=self._field)
        return k

    def _normalisation(self, *, is_transcoder: bool) -> str:
        given = self._values.get("normalize_activations") or NONE  # older ones have null and false
        known = (NONE, LAYER_NORM, CONSTANT_NORM) if not is_transcoder else (NONE,)
        if given not in known:
            why = (
                "; its scaling factor is estimated from activations and is not in the file: fold it into the weights"
                if given in (True, "expected_average_only_in")
                else ""
            )
            raise ModelUnsupportedError(
                f"normalize_activations of the dictionary is {given!r}; there are {', '.join(known)}{why}",
                field=self._field,
                valid=known,
            )
        return cast("str", given)

    def _warnings(self) -> tuple[str, ...]:
        options = self._values.get("model_from_pretrained_kwargs") or {}
        if isinstance(options, dict) and options.get("center_writing_weights"):
            return (
                "the dictionary was trained on a model whose writing weights were centred (center_writing_weights); "
                "here they are as they are in its files, so its residual stream differs by its mean over the width",
            )
        return ()

    def _text(self, *names: str) -> str:
        return self._value(names, str, "")

    def _number(self, *names: str) -> int:
        return self._value(names, int, 0)

    def _flag(self, name: str, *, default: bool) -> bool:
        return self._value((name,), bool, default)

    def _value(self, names: tuple[str, ...], kind: type, default: Any) -> Any:
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value < 0)):
                raise ModelCorruptError(f"{name} of the dictionary's configuration is {value!r}", field=self._field)
            return value
        return default


def parse_hook_name(hook_name: str) -> site_pb2.Site:
    """The site of a hook's name: a TransformerLens name, or one of ours."""
    if match := _MLP_INPUT.fullmatch(hook_name):  # what the MLP reads, behind its norm
        return site_pb2.Site(component="mlp_out", layer=int(match[1]), side=site_pb2.SIDE_INPUT)
    return sites.parse(hook_name)
