"""The spans of a trace, from all processes, as a tree of plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

AttributeValue: TypeAlias = "str | bool | int | float | list[AttributeValue]"
UNKNOWN_SERVICE = "unknown service"
_STATUS_ERROR = 2


@dataclass(slots=True)
class SpanEvent:
    """An event of a span."""

    name: str
    time_ns: int
    attributes: dict[str, AttributeValue]


@dataclass(slots=True)
class SpanNode:
    """A span with its events and children."""

    name: str
    service: str
    trace_id: str  # 32 hexadecimal digits
    span_id: str  # 16 hexadecimal digits
    parent_id: str  # empty at the root of a trace
    start_ns: int  # Unix time
    end_ns: int
    attributes: dict[str, AttributeValue]
    events: list[SpanEvent]
    is_error: bool
    status_message: str
    is_orphan: bool = False  # its parent is missing from the trace
    children: list[SpanNode] = field(default_factory=list)

    @property
    def duration_ns(self) -> int:
        """Duration; never negative."""
        return max(0, self.end_ns - self.start_ns)

    def walk(self) -> Iterator[SpanNode]:
        """This span and its descendants, depth first, in order of start."""
        pending: list[SpanNode] = [self]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(reversed(node.children))


def build_tree(traces: TracesData) -> list[SpanNode]:
    """The roots of all traces and spans without a known parent, in order of start; children likewise."""
    nodes: dict[tuple[str, str], SpanNode] = {}
    for resource_spans in traces.resource_spans:
        resource = {a.key: _value(a.value) for a in resource_spans.resource.attributes}
        service = str(resource.get("service.name", UNKNOWN_SERVICE))
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                node = _node(span, service)
                nodes[node.trace_id, node.span_id] = node
    roots: list[SpanNode] = []
    for node in sorted(nodes.values(), key=lambda n: (n.start_ns, -n.end_ns)):
        parent = nodes.get((node.trace_id, node.parent_id))
        if parent is None or parent is node:
            node.is_orphan = bool(node.parent_id)
            roots.append(node)
        else:
            parent.children.append(node)
    return roots


def orphans(traces: TracesData) -> list[SpanNode]:
    """The spans whose parent is missing. A trace without any is complete."""
    return [root for root in build_tree(traces) if root.is_orphan]


def _node(span: Span, service: str) -> SpanNode:
    return SpanNode(
        name=span.name,
        service=service,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes={a.key: _value(a.value) for a in span.attributes},
        events=[
            SpanEvent(event.name, event.time_unix_nano, {a.key: _value(a.value) for a in event.attributes})
            for event in span.events
        ],
        is_error=span.status.code == _STATUS_ERROR,
        status_message=span.status.message,
    )


def _value(value: AnyValue) -> AttributeValue:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "bytes_value":
            return value.bytes_value.hex()
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case _:
            return str(value).strip()
