"""The grammar of a request's constraint."""

from __future__ import annotations

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.constraints.constraint import TokenConstraint
from neuroscope_inference.engine.constraints.json_schema import MAX_SCHEMA_BYTES, json_rule
from neuroscope_inference.engine.model import LoadedModel

_SCHEMA = "sampling.json_schema.schema"
_GRAMMAR = "sampling.grammar"


def compile_constraint(model: LoadedModel, sampling: pb.Sampling) -> TokenConstraint | None:
    """The compiled constraint of a request; None where there is none. Takes up to a second: not for an event loop.

    Raises:
        InvalidRequestError: it cannot be enforced; names the field.
    """
    match sampling.WhichOneof("constraint"):
        case "json_schema":
            vocabulary = model.constraint_vocabulary(_SCHEMA)
            grammar, field = f"start: {json_rule(sampling.json_schema, vocabulary, _SCHEMA)}", _SCHEMA
        case "grammar":
            grammar, field, vocabulary = sampling.grammar, _GRAMMAR, model.constraint_vocabulary(_GRAMMAR)
            if len(grammar.encode()) > MAX_SCHEMA_BYTES:
                raise InvalidRequestError(f"the grammar has more than {MAX_SCHEMA_BYTES} bytes", field=field)
        case _:
            return None
    return TokenConstraint.compile(grammar, vocabulary, field)
