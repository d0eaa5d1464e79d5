"""The JSON of every route, as pydantic models: the single definition of what is accepted and of what OpenAPI shows.

Requests are strict: no string passes for a number, NaN is refused, an unknown field is an error. A parameter of
OpenAI's that would change the answer and that the engine does not have is accepted only at its neutral value (`Only`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    RootModel,
    Tag,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_INT32 = 2**31 - 1
UNSUPPORTED = "unsupported_parameter"
INVALID = "invalid_value"


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError(INVALID, "Text must be valid Unicode, without lone surrogates") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Only:
    """A parameter without effect here, accepted only at one of its neutral values or null.

    n: Annotated[Any, Only(1)] = None
    """

    def __init__(self, *neutral: Any) -> None:
        self.neutral = (*neutral, None)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """What pydantic calls."""
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """What OpenAPI shows."""
        return {"enum": list(self.neutral), "description": "Not supported: accepted at these values only."}

    def _check(self, value: Any) -> Any:
        if value in self.neutral:
            return value
        accepted = " or ".join("null" if neutral is None else repr(neutral) for neutral in self.neutral)
        raise PydanticCustomError(
            UNSUPPORTED, "This parameter is not supported; leave it out (accepted: {accepted})", {"accepted": accepted}
        )


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _content(value: Any) -> Any:
    """Text parts as one text."""
    if not isinstance(value, list):
        return value
    texts: list[str] = []
    for part in cast("list[Any]", value):
        fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        if fields.get("type") != "text" or not isinstance(fields.get("text"), str):
            raise PydanticCustomError(INVALID, "Content parts must be {{'type': 'text', 'text': '...'}}")
        texts.append(fields["text"])
    return "".join(texts)


def _form_of_hook(value: Any) -> str:
    return "<id>" if isinstance(value, str) else "<hook>"


def _form_of_registration(value: Any) -> str:
    if isinstance(value, list):
        return "<list>"
    return "<hooks>" if isinstance(value, dict) and "hooks" in value else "<hook>"


class Strict(BaseModel):
    """What every part of a request has in common."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


# ---------------------------------------------------------------------------------------------------------- hooks


class ActivationHook(Strict):
    """What to capture."""

    layer_name: Text | None = Field(None, examples=["transformer.h.5"])
    """The layer in any common spelling: transformer.h.5, model.layers.5, blocks.5; absent: every layer."""
    component: Text = Field(examples=["attention"])
    """residual, attention, mlp, embedding, layernorm, attention_scores, attention_pattern, key, query, value, or a
    finer name: resid_pre, head_output, mlp_neurons, logits, ...; or a whole TransformerLens name."""
    hook_id: Text | None = None
    """Name in the answer; absent: made from the site."""
    capture_input: bool | None = False
    """Captures what the component reads."""
    capture_output: bool | None = True
    """Captures what the component writes."""


HookOrId = Annotated[
    Annotated[ActivationHook, Tag("<hook>")] | Annotated[Text, Tag("<id>")], Discriminator(_form_of_hook)
]


class HookList(Strict):
    """Hooks to register."""

    hooks: list[ActivationHook] = Field(min_length=1)
    model: Text | None = None
    """A loaded model to check the hooks against; absent: only the names are checked."""


class RegisterHooksRequest(
    RootModel[
        Annotated[
            Annotated[HookList, Tag("<hooks>")]
            | Annotated[list[ActivationHook], Field(min_length=1), Tag("<list>")]
            | Annotated[ActivationHook, Tag("<hook>")],
            Discriminator(_form_of_registration),
        ]
    ]
):
    """`{"hooks": [...]}`, a list of hooks, or one hook."""


class ClearHooksRequest(Strict):
    """Hooks to remove."""

    hook_ids: list[Text] | None = None
    """The ids; absent: all."""


class RegisteredHooks(BaseModel):
    """Ids of the hooks, in the order of the request."""

    registered_hooks: list[str]


class HookListing(BaseModel):
    """The registered hooks."""

    object: Literal["list"] = "list"
    hooks: list[ActivationHook]


class ClearedHooks(BaseModel):
    """What was removed."""

    status: Literal["hooks cleared"] = "hooks cleared"
    cleared_hooks: list[str]


# ----------------------------------------------------------------------------------------------------------- chat


class ChatMessage(Strict):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks; developer is read as system."""
    content: Annotated[Text, BeforeValidator(_content, json_schema_input_type=str | list[dict[str, str]])]
    """The text, or a list of text parts."""
    name: Annotated[Any, Only()] = None
    refusal: Annotated[Any, Only()] = None
    audio: Annotated[Any, Only()] = None
    annotations: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only()] = None
    tool_calls: Annotated[Any, Only([])] = None


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = False
    """Sends the token counts in a last chunk."""
    include_obfuscation: bool | None = None
    """Accepted; nothing is padded."""


class ChatCompletionRequest(Strict):
    """A chat completion as OpenAI's clients ask for it, with top_k and min_p besides."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: Text | None = None
    """A loaded model; absent: the one that was loaded first."""
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_INT32)
    """Most tokens to generate; absent: the server's default."""
    max_tokens: int | None = Field(None, ge=1, le=MAX_INT32)
    """The older name of max_completion_tokens."""
    temperature: float | None = Field(None, ge=0, le=2)
    """0, the default: always the likeliest token, so that captures can be repeated."""
    top_p: float | None = Field(None, ge=0, le=1)
    """Keeps the smallest set of tokens whose probability reaches this."""
    top_k: int | None = Field(None, ge=0, le=MAX_INT32)
    """Keeps this many likeliest tokens; 0: all."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Keeps tokens with at least this share of the likeliest token's probability."""
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    """Seed of the draws; a negative one is read modulo 2^64."""
    stop: Annotated[
        list[Annotated[Text, Field(min_length=1)]] | None,
        BeforeValidator(_texts, json_schema_input_type=str | list[str] | None),
    ] = None
    """Texts that end the generation; they are not part of the answer."""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """Likeliest alternatives per token; needs logprobs."""

    # Without effect on the answer.
    user: Text | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None
    service_tier: Text | None = None
    prediction: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    # With an effect that the engine does not have.
    n: Annotated[Any, Only(1)] = None
    store: Annotated[Any, Only(False)] = None
    presence_penalty: Annotated[Any, Only(0)] = None
    frequency_penalty: Annotated[Any, Only(0)] = None
    logit_bias: Annotated[Any, Only({})] = None
    response_format: Annotated[Any, Only({"type": "text"})] = None
    modalities: Annotated[Any, Only(["text"])] = None
    tools: Annotated[Any, Only([])] = None
    tool_choice: Annotated[Any, Only("none", "auto")] = None
    functions: Annotated[Any, Only([])] = None
    function_call: Annotated[Any, Only("none", "auto")] = None
    audio: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only()] = None
    verbosity: Annotated[Any, Only("medium")] = None
    web_search_options: Annotated[Any, Only()] = None
    moderation: Annotated[Any, Only()] = None


class ActivationCompletionRequest(ChatCompletionRequest):
    """A chat completion that captures activations on its way."""

    activation_hooks: list[HookOrId] | None = None
    """What to capture: hook objects, and ids of registered hooks."""


class Message(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class TokenLogprob(BaseModel):
    """A token and the natural logarithm of its probability, before temperature and filters."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChosenLogprob(TokenLogprob):
    """A generated token."""

    top_logprobs: list[TokenLogprob]


class Logprobs(BaseModel):
    """Log-probabilities of the generated tokens."""

    content: list[ChosenLogprob]
    refusal: None = None


class Choice(BaseModel):
    """A finished answer."""

    index: Literal[0] = 0
    message: Message
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class CapturedActivation(BaseModel):
    """One tensor of one step, or one piece of it where a prefill ran in chunks."""

    hook_id: str
    layer_name: str
    component: str
    shape: list[int]
    dtype: str
    """The type that was captured; bfloat16 and float16 stand in `data` as the float32 numbers of the same value."""
    is_input: bool
    data: list[Any]
    """Nested list of `shape`."""


class ActivationCompletion(ChatCompletion):
    """A chat completion and what its hooks saw, in step order."""

    activations: dict[str, list[CapturedActivation]]


# --------------------------------------------------------------------------------------------------------- models


class LoadModelRequest(Strict):
    """A model to load."""

    model_path: Text = Field(min_length=1)
    """A folder as the inference service sees it, or a Hugging Face id."""
    model_id: Text | None = None
    """Name in later requests; absent: the last part of the path."""
    revision: Text | None = None
    adapter_path: Text | None = None


class Architecture(BaseModel):
    """Shape of a model."""

    architecture: str
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    d_head: int
    vocab_size: int
    context_length: int
    dtype: str
    parameter_count: int
    weights_bytes: int
    has_chat_template: bool
    bos_token_id: int | None
    eos_token_ids: list[int]
    model_path: str


class Model(Architecture):
    """A loaded model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When it was loaded, Unix time in seconds."""
    owned_by: str = "neuroscope"


class ModelList(BaseModel):
    """The loaded models."""

    object: Literal["list"] = "list"
    data: list[Model]


class HookPoint(BaseModel):
    """A point of the vocabulary in a model."""

    component: str
    layer: int | None
    layer_name: str
    is_input: bool
    available: bool
    reason: str
    axes: list[str]
    dtype: str


class SelfTest(BaseModel):
    """What the self-test at load proved."""

    logits_identical: bool
    token_count: int
    duration_ms: float
    identities: list[dict[str, Any]]


class ModelDetail(Model):
    """A loaded model and its points."""

    hook_points: list[HookPoint]
    self_test: SelfTest


class LoadedModel(Model):
    """The model that was loaded."""

    model_id: str
    status: Literal["loaded"] = "loaded"
    supports_activations: bool = True


# --------------------------------------------------------------------------------------------------------- errors


class Health(BaseModel):
    """State of the gateway and of the inference service behind it."""

    status: Literal["healthy", "unavailable"]
    service: Literal["neuroscope-gateway"] = "neuroscope-gateway"
    version: str
    inference: str
    models: list[str]


class ErrorBody(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every error."""

    error: ErrorBody
