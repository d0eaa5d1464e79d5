"""A loaded model: weights, tokenizer, hooked points, and what is said of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import mlx.nn as nn
from llguidance import LLTokenizer
from mlx_lm.tokenizer_utils import StreamingDetokenizer, TokenizerWrapper

from neuroscope.errors import ContextLengthError, InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import experiment_pb2
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.sites import COMPONENTS, Point
from neuroscope_inference.engine import caches, module_hooks
from neuroscope_inference.engine.arrays import wire_dtype
from neuroscope_inference.engine.caches import CacheQuantization
from neuroscope_inference.engine.capabilities import ModelCapabilities
from neuroscope_inference.engine.chat import ChatRenderer
from neuroscope_inference.engine.constraints.vocabulary import constraint_vocabulary
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary
from neuroscope_inference.engine.dictionaries.registry import DictionaryRegistry
from neuroscope_inference.engine.layout import Layout, PointState
from neuroscope_inference.engine.prompt_cache import PromptCache
from neuroscope_inference.engine.sweeps.method import SweepMethod
from neuroscope_inference.engine.tool_calls.tool_format import ToolFormat
from neuroscope_inference.engine.unembedding import Unembedding
from neuroscope_inference.engine.weights.catalogue import WeightCatalogue


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """Token ids as the model reads them, and what looks wrong with them."""

    ids: list[int]
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready to run."""

    network: nn.Module
    tokenizer: TokenizerWrapper
    layout: Layout
    description: pb.Model
    self_test: pb.SelfTest
    capabilities: ModelCapabilities
    folder: Path
    adapter_path: str
    was_dequantized: bool = False
    """Whether quantised weights became plain ones as it was loaded."""
    prompt_cache: PromptCache = field(default_factory=lambda: PromptCache(0))
    dictionaries: DictionaryRegistry = field(default_factory=DictionaryRegistry)
    """Dictionaries, those of other models among them."""
    used_at_s: float = 0.0
    """When something last ran on it, or asked for it, by the monotonic clock."""
    sweep_method: SweepMethod | None = None
    """The fastest way to run sweeps on it, once it has been proven."""
    why_no_gradients: str | None = None
    """Why no gradient is taken on it; empty if it is, None until that has been proven."""
    cuts_last_mlp: bool = False
    """Whether gradients are the same where the last MLP is computed for the metric's positions alone; likewise."""
    why_no_edges: str | None = None
    """Why its edges have no scores; likewise."""
    weights: WeightCatalogue | None = None
    """Its weights by name, once they have been asked for."""
    why_no_paths: str | None = None
    """Why no path of it can be patched; likewise."""
    _constraint_vocabulary: LLTokenizer | None = None
    _why_not_quantised: dict[CacheQuantization, str] = field(default_factory=dict[CacheQuantization, str])
    _tokenizer_lock: threading.Lock = field(default_factory=threading.Lock)  # Rust tokenizers refuse concurrent borrows

    @property
    def unembedding(self) -> Unembedding:
        """The final norm and the unembedding."""
        return Unembedding(self.network, self.layout)

    @property
    def held_bytes(self) -> int:
        """Bytes of its weights and of its dictionaries."""
        return self.description.weights_bytes + self.dictionaries.held_bytes(self.description.model_id)

    def require_dictionary(self, dictionary_id: str, field: str) -> Dictionary:
        """A loaded dictionary of this model.

        Raises:
            UnknownIdError: there is none of that name.
            InvalidRequestError: it is of another model.
        """
        return self.dictionaries.get(dictionary_id, field, self.description.model_id)

    def why_not_quantised(self, quantization: CacheQuantization) -> str:
        """Why keys and values cannot be quantised like that; empty if they can. Proven by a probe the first time."""
        if quantization not in self._why_not_quantised:
            self._why_not_quantised[quantization] = caches.why_not_quantised(self.network, quantization)
        return self._why_not_quantised[quantization]

    @property
    def has_rotating_cache(self) -> bool:
        """Whether some layer keeps its keys in a ring."""
        return caches.has_rotating_cache(caches.new_cache(self.network))

    def release(self) -> None:
        """Says that nothing will run on it any more, so that its weights go with the last reference to it."""
        module_hooks.release(self.network)
        self.weights = None

    def describe(self) -> pb.GetModelResponse:
        """The model, every point of the vocabulary, and the self-test's self_test_result."""
        points = [_hook_point(state) for state in self.layout.states]
        return pb.GetModelResponse(model=self.description, points=points, self_test=self.self_test)

    def require_point(self, point: Point, field: str) -> PointState:
        """The state of a point that can be captured.

        Raises:
            UnavailableSiteError: this model does not have it; says why, and names the points of the layer that it has.
        """
        state = self.layout.state(point)
        if state.reason:
            there = (s.point for s in self.layout.states if not s.reason and s.point.layer == point.layer)
            valid = list(dict.fromkeys(p.component for p in there))  # both sides of a module have one name
            raise UnavailableSiteError(
                f"{self.description.model_id} has no {point}: {state.reason}; it has {', '.join(valid)}",
                field=field,
                valid=valid,
            )
        return state

    def tokenize(self, prompt: pb.Prompt, field: str) -> TokenizedPrompt:
        """Token ids of a prompt.

        Raises:
            InvalidRequestError: it is empty, a role is unknown, an id is outside the vocabulary.
            ContextLengthError: it is longer than the context.
        """
        if prompt.bos not in pb.BosPolicy.values():
            raise InvalidRequestError(f"the contract has no policy {prompt.bos}", field=f"{field}.bos")
        with self._tokenizer_lock:
            ids = self._ids(prompt, field)
        bos = self.description.bos_token_id if self.description.HasField("bos_token_id") else None
        if prompt.bos == pb.BOS_POLICY_ADD:
            if bos is None:
                raise InvalidRequestError("this tokenizer has no beginning-of-sequence token", field=f"{field}.bos")
            ids = ids if ids[:1] == [bos] else [bos, *ids]
        elif prompt.bos == pb.BOS_POLICY_OMIT and bos is not None and prompt.WhichOneof("content") != "token_ids":
            ids = ids[1:] if ids[:1] == [bos] else ids
        if not ids:
            raise InvalidRequestError("the prompt has no tokens", field=field)
        context = self.description.context_length
        if context and len(ids) > context:
            raise ContextLengthError(
                f"the prompt has {len(ids)} tokens, the context of {self.description.model_id} holds {context}",
                field=field,
            )
        doubled = bos is not None and ids[:2] == [bos, bos]
        warnings = [f"{field}: the prompt begins with two beginning-of-sequence tokens"] if doubled else []
        return TokenizedPrompt(ids, warnings)

    def token_text(self, token_id: int) -> str:
        """The text of one token by itself."""
        with self._tokenizer_lock:
            return self.tokenizer.decode([token_id])

    def single_token(self, text: str, field: str) -> int:
        """The token that a text is.

        Raises:
            InvalidRequestError: it is none or several; says which.
        """
        with self._tokenizer_lock:
            ids: list[int] = list(self.tokenizer.encode(text, add_special_tokens=False))
            texts = [self.tokenizer.decode([token_id]) for token_id in ids]
        if len(ids) == 1:
            return ids[0]
        if not ids:
            raise InvalidRequestError("the text is empty: a token is wanted", field=field)
        named = ", ".join(f"{part!r} ({token_id})" for part, token_id in zip(texts, ids, strict=True))
        raise InvalidRequestError(
            f"{text!r} is {len(ids)} tokens, not one: {named}; name one of them by its id, or another text", field=field
        )

    def resolve_token(self, choice: experiment_pb2.TokenChoice, field: str) -> int:
        """The id of a token that a request names.

        Raises:
            InvalidRequestError: it is missing, outside the vocabulary, or a text of none or several.
        """
        match choice.WhichOneof("token"):
            case "id":
                vocabulary = self.description.vocab_size
                if choice.id >= vocabulary:
                    raise InvalidRequestError(
                        f"token id {choice.id} is outside the vocabulary of {vocabulary}", field=f"{field}.id"
                    )
                return choice.id
            case "text":
                return self.single_token(choice.text, f"{field}.text")
            case _:
                raise InvalidRequestError("the token is missing: its id, or its text", field=field)

    def detokenize(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """The text of token ids."""
        self._check_ids(ids, "token_ids")
        with self._tokenizer_lock:
            return self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def constraint_vocabulary(self, field: str) -> LLTokenizer:
        """The vocabulary for constraints, built when it is first asked for. Any thread may ask.

        Args:
            field: of the request, named in errors.

        Raises:
            InvalidRequestError: constraints do not work with this tokenizer.
        """
        with self._tokenizer_lock:
            if self._constraint_vocabulary is None:
                self._constraint_vocabulary = constraint_vocabulary(self.tokenizer, self.description.vocab_size, field)
            return self._constraint_vocabulary

    @property
    def tool_format(self) -> ToolFormat | None:
        """How its chat template writes tool calls; None if that is not known."""
        return ToolFormat.of(self.tokenizer)

    def special_token_id(self, text: str) -> int | None:
        """The id of a special token by its text; None where the text is no special token."""
        with self._tokenizer_lock:
            added = self.tokenizer.added_tokens_decoder
        return next((token_id for token_id, token in added.items() if token.special and token.content == text), None)

    def detokenizer(self) -> StreamingDetokenizer:
        """A new streaming detokenizer."""
        return self.tokenizer.detokenizer

    def _ids(self, prompt: pb.Prompt, field: str) -> list[int]:
        match prompt.WhichOneof("content"):
            case "text":
                if not prompt.text:
                    raise InvalidRequestError("the prompt is empty", field=f"{field}.text")
                return list(self.tokenizer.encode(prompt.text))
            case "token_ids":
                ids = list(prompt.token_ids.ids)
                self._check_ids(ids, f"{field}.token_ids.ids")
                return ids
            case "chat":
                renderer = ChatRenderer(self.tokenizer, self.description.model_id)
                return renderer.token_ids(prompt.chat, f"{field}.chat")
            case _:
                raise InvalidRequestError("the prompt has no content: text, token_ids or chat", field=field)

    def _check_ids(self, ids: list[int], field: str) -> None:
        vocabulary = self.description.vocab_size
        for index, token_id in enumerate(ids):
            if vocabulary and token_id >= vocabulary:
                raise InvalidRequestError(
                    f"token id {token_id} is outside the vocabulary of {vocabulary}", field=f"{field}[{index}]"
                )


def _hook_point(state: PointState) -> pb.HookPoint:
    return pb.HookPoint(
        site=state.point.to_message(),
        available=not state.reason,
        reason=state.reason,
        axes=COMPONENTS[state.point.component].axes,
        dtype=wire_dtype(state.dtype),
        module_path=state.module_path,
    )
