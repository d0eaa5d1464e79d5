"""Writes a trace as files that can be viewed without a collector.

    json_path, html_path = trace_file.write("trace.json", telemetry.merge(parts))

The JSON is in Chrome's trace event format, which ui.perfetto.dev and speedscope read. The HTML page is a waterfall
(`neuroscope.tracing.waterfall`): one file without scripts or external resources.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.tracing import span_tree, waterfall
from neuroscope.tracing.span_tree import SpanNode

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData


def write(path: str | os.PathLike[str], traces: TracesData) -> tuple[Path, Path]:
    """Writes a trace as JSON and, beside it, as an HTML waterfall.

    Args:
        path: where the JSON goes; the HTML has the same name with the ending .html. A path that ends in .html names the
            waterfall, and the JSON goes beside it.
        traces: spans, such as `telemetry.merge` gives.

    Returns:
        The paths of the JSON and of the HTML.
    """
    target = Path(path)
    json_path = target.with_suffix(".json") if target.suffix == ".html" else target
    html_path = target.with_suffix(".html")
    roots = span_tree.build_tree(traces)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    _put(html_path, waterfall.render(roots))
    _put(json_path, json.dumps(chrome_events(roots), separators=(",", ":"), allow_nan=False))
    return json_path, html_path


def _put(path: Path, text: str) -> None:
    """Writes a file atomically: concurrent readers see the old or the new content."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def chrome_events(roots: list[SpanNode]) -> dict[str, Any]:
    """A trace as Chrome trace events: a process per service, a thread per overlapping span, arrows between services.

    Times are microseconds since the first span began.
    """
    spans = [span for root in roots for span in root.walk()]
    origin_ns = min((span.start_ns for span in spans), default=0)
    process_of = {service: i + 1 for i, service in enumerate(dict.fromkeys(span.service for span in spans))}
    lane_of = _lanes(roots)
    events: list[dict[str, Any]] = []
    for service, pid in process_of.items():
        events.append({"ph": "M", "pid": pid, "name": "process_name", "args": {"name": service}})
        events.append({"ph": "M", "pid": pid, "name": "process_sort_index", "args": {"sort_index": pid}})
    for span in spans:
        arguments: dict[str, Any] = {**span.attributes, "span_id": span.span_id, "trace_id": span.trace_id}
        if span.status_message:
            arguments["status"] = span.status_message
        place = {"pid": process_of[span.service], "tid": lane_of[id(span)]}
        events.append(
            place
            | {
                "ph": "X",
                "cat": "error" if span.is_error else span.service,
                "name": span.name,
                "ts": (span.start_ns - origin_ns) / 1e3,
                "dur": span.duration_ns / 1e3,
                "args": arguments,
            }
        )
        events.extend(
            place
            | {
                "ph": "i",
                "s": "t",
                "cat": "event",
                "name": event.name,
                "ts": (event.time_ns - origin_ns) / 1e3,
                "args": event.attributes,
            }
            for event in span.events
        )
        for child in span.children:
            if child.service == span.service:
                continue
            start = {"ph": "s", "pid": place["pid"], "tid": place["tid"], "ts": (span.start_ns - origin_ns) / 1e3}
            finish = {
                "ph": "f",
                "bp": "e",
                "pid": process_of[child.service],
                "tid": lane_of[id(child)],
                "ts": (child.start_ns - origin_ns) / 1e3,
            }
            call = {"cat": "call", "name": child.name, "id": child.span_id}
            events.extend((start | call, finish | call))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _lanes(roots: list[SpanNode]) -> dict[int, int]:
    """A thread number for every span, by id(): spans of one number either nest or do not overlap."""
    lanes: dict[int, int] = {}
    open_spans: dict[tuple[str, int], list[SpanNode]] = {}  # by (service, lane), outermost first
    for span in sorted((s for root in roots for s in root.walk()), key=lambda s: (s.start_ns, -s.end_ns)):
        lane = 1
        while True:
            stack = open_spans.setdefault((span.service, lane), [])
            while stack and stack[-1].end_ns <= span.start_ns:
                stack.pop()
            if not stack or span.end_ns <= stack[-1].end_ns:
                stack.append(span)
                lanes[id(span)] = lane
                break
            lane += 1
    return lanes
