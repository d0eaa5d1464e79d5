"""The grammar of tool calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from llguidance import LLTokenizer

from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.constraints.json_schema import json_rule
from neuroscope_inference.engine.tool_calls.tool_format import CallSyntax

RULE = "tool_calls"
_NO_PARAMETERS = '{"type": "object", "properties": {}, "additionalProperties": false}'


def tool_call_rules(
    syntax: CallSyntax,
    tools: Sequence[tuple[str, pb.Tool]],
    vocabulary: LLTokenizer,
    special_id: Callable[[str], int | None],
    *,
    single_call: bool,
) -> str:
    """Rules of a Lark grammar, `tool_calls` among them: one or more calls of these tools.

    Args:
        syntax: how calls are written.
        tools: field of the request and tool.
        vocabulary: the model's.
        special_id: the id of a special token, by its text; None if the text is none.
        single_call: there is one call.

    Raises:
        InvalidRequestError: parameters of a tool cannot be enforced; names `parameters` of the field.
    """

    def literal(*texts: str) -> str:
        ids = [(text, special_id(text)) for text in texts]
        return " ".join(json.dumps(text) if token is None else f"<[{token}]>" for text, token in ids)

    rules: list[str] = []
    for index, (field, tool) in enumerate(tools):
        schema = pb.JsonSchema(schema=tool.parameters or _NO_PARAMETERS, lenient=not tool.strict)
        parts = [literal(*syntax.before_name, tool.name, *syntax.before_arguments), f"arguments_{index}"]
        rules.append(f"call_{index}: {' '.join([*parts, literal(*syntax.after_arguments)])}")
        rules.append(f"arguments_{index}: {json_rule(schema, vocabulary, f'{field}.parameters')}")
    rules.append(f"call: {' | '.join(f'call_{index}' for index in range(len(tools)))}")
    more = "" if single_call or syntax.separator is None else f"({literal(*filter(None, [syntax.separator]))} call)*"
    whole = [literal(*syntax.before_calls), "call", more, literal(*syntax.after_calls)]
    rules.append(f"{RULE}: {' '.join(part for part in whole if part)}")
    return "\n".join(rules)
