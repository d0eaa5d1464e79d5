"""What the text of a row may be, and what of it is a tool call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.chat import offered_tools
from neuroscope_inference.engine.constraints.constraint import TokenConstraint
from neuroscope_inference.engine.constraints.json_schema import MAX_SCHEMA_BYTES, json_rule
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.tool_calls.grammar import RULE, tool_call_rules
from neuroscope_inference.engine.tool_calls.tool_format import ToolFormat

_SCHEMA = "sampling.json_schema.schema"
_GRAMMAR = "sampling.grammar"


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """The format of a row's text."""

    constraint: TokenConstraint | None = None
    """What the text must be, at its beginning; None: anything."""
    tool_format: ToolFormat | None = None
    """How tool calls are written; None: all is text."""
    single_call: bool = False
    """The row ends with its first call."""

    def copy(self) -> AnswerFormat:
        """The same, for another row."""
        constraint = None if self.constraint is None else self.constraint.copy()
        return AnswerFormat(constraint, self.tool_format, self.single_call)


FREE = AnswerFormat()


def has_formats(request: pb.GenerateRequest) -> bool:
    """Whether the text of some row is not free."""
    return bool(request.sampling.WhichOneof("constraint")) or any(prompt.chat.tools for prompt in request.prompts)


def answer_formats(model: LoadedModel, request: pb.GenerateRequest) -> list[AnswerFormat]:
    """The format of each prompt's rows. Compiling takes up to a second: not for an event loop.

    Raises:
        InvalidRequestError: a constraint cannot be enforced; names the field.
    """
    compiled: dict[str, TokenConstraint] = {}

    def compile_once(grammar: str, field: str) -> TokenConstraint:
        if grammar not in compiled:
            compiled[grammar] = TokenConstraint.compile(grammar, model.constraint_vocabulary(field), field)
        return compiled[grammar]

    return [
        _answer_format(model, prompt.chat, request.sampling, f"prompts[{index}].chat", compile_once)
        for index, prompt in enumerate(request.prompts)
    ]


def _answer_format(
    model: LoadedModel,
    chat: pb.Chat,
    sampling: pb.Sampling,
    field: str,
    compile_once: Callable[[str, str], TokenConstraint],
) -> AnswerFormat:
    kind = sampling.WhichOneof("constraint")
    tools = offered_tools(chat, field)
    is_required = bool(tools) and chat.tool_choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED
    if tools and kind and (is_required or kind == "grammar"):
        what = "a required tool call" if is_required else "tools"
        raise InvalidRequestError(f"{what} and this constraint exclude each other", field=f"sampling.{kind}")
    if not tools:
        return AnswerFormat(_constraint(model, sampling, compile_once))
    tool_format, single_call = model.tool_format, chat.tool_choice.single_call
    if not is_required and not kind:
        return AnswerFormat(None, tool_format, single_call)
    cause = f"{field}.tool_choice.mode" if is_required else "sampling.json_schema"
    called = [(at, tool) for at, tool in tools if chat.tool_choice.name in ("", tool.name)]
    calls = _call_rules(model, called, cause, single_call=single_call)
    if is_required:
        return AnswerFormat(compile_once(f"start: {RULE}\n{calls}", cause), tool_format, single_call)
    answer = json_rule(sampling.json_schema, model.constraint_vocabulary(_SCHEMA), _SCHEMA)
    grammar = f"start: {RULE} | answer\nanswer: {answer}\n{calls}"
    return AnswerFormat(compile_once(grammar, cause), tool_format, single_call)


def _constraint(
    model: LoadedModel, sampling: pb.Sampling, compile_once: Callable[[str, str], TokenConstraint]
) -> TokenConstraint | None:
    match sampling.WhichOneof("constraint"):
        case "json_schema":
            rule = json_rule(sampling.json_schema, model.constraint_vocabulary(_SCHEMA), _SCHEMA)
            return compile_once(f"start: {rule}", _SCHEMA)
        case "grammar":
            if len(sampling.grammar.encode()) > MAX_SCHEMA_BYTES:
                raise InvalidRequestError(f"the grammar has more than {MAX_SCHEMA_BYTES} bytes", field=_GRAMMAR)
            return compile_once(sampling.grammar, _GRAMMAR)
        case _:
            return None


def _call_rules(model: LoadedModel, tools: Sequence[tuple[str, pb.Tool]], field: str, *, single_call: bool) -> str:
    tool_format = model.tool_format
    if tool_format is None or tool_format.syntax is None:
        raise InvalidRequestError(
            f"calls of {model.description.model_id} cannot be enforced: the format of its chat template is not JSON of "
            "Hermes, Qwen, Mistral or Llama 3",
            field=field,
        )
    vocabulary = model.constraint_vocabulary(field)
    return tool_call_rules(tool_format.syntax, tools, vocabulary, model.special_token_id, single_call=single_call)
