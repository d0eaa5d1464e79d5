"""A trace as one HTML page: a row per span, coloured by service, indented below its parent.

Many siblings of one name, such as the decode steps of a generation, share a row that unfolds on a click. The page has
no scripts and no external resources.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from neuroscope.tracing import telemetry
from neuroscope.tracing.span_tree import AttributeValue, SpanNode

FOLD_ABOVE = 6
"""More siblings of one name than this share a row."""
_INDENT_REM = 1.0
_COLOURS = ("#5b6cf0", "#0fa394", "#e8930c", "#d6457b", "#2e9bd6", "#7aa116", "#9b5de5", "#c2683a")
_TICKS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps times to horizontal positions."""

    origin_ns: int
    span_ns: int
    colours: dict[str, str]

    @classmethod
    def of(cls, roots: list[SpanNode], colours: dict[str, str]) -> _Scale:
        """The width of the page is the time from the first start to the last end."""
        spans = [span for root in roots for span in root.walk()]
        origin_ns = min((span.start_ns for span in spans), default=0)
        end_ns = max((span.end_ns for span in spans), default=0)
        return cls(origin_ns, max(end_ns - origin_ns, 1), colours)

    def left(self, time_ns: int) -> float:
        return 100 * (time_ns - self.origin_ns) / self.span_ns

    def width(self, duration_ns: float) -> float:
        return 100 * duration_ns / self.span_ns


def render(roots: list[SpanNode]) -> str:
    """The page of one trace, or of several, each of which unfolds and has its own time axis.

    Args:
        roots: as `span_tree.build_tree` gives them.
    """
    spans = [span for root in roots for span in root.walk()]
    services = list(dict.fromkeys(span.service for span in spans))
    colours = {service: _COLOURS[i % len(_COLOURS)] for i, service in enumerate(services)}
    traces: dict[str, list[SpanNode]] = {}
    for root in roots:
        traces.setdefault(root.trace_id, []).append(root)
    whole = _Scale.of(roots, colours)
    title = roots[0].name if len(traces) == 1 else f"{len(traces)} traces" if traces else "an empty trace"
    if len(traces) <= 1:
        body = _waterfall(roots, whole)
    else:
        body = "".join(_folded(trace, _Scale.of(trace, colours), whole) for trace in traces.values())
    style = files("neuroscope.tracing").joinpath("waterfall.css").read_text(encoding="utf-8")
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)} – trace</title><style>{style}</style></head><body>",
            _header(title, spans, whole),
            f"<main>{body}</main>",
            "<footer>Hover over a row for its attributes; a row with ▸ unfolds.</footer></body></html>\n",
        )
    )


def _waterfall(roots: list[SpanNode], scale: _Scale) -> str:
    tick_ns = _tick_ns(scale.span_ns)
    rows = "".join(_siblings(roots, 0, scale))
    return f'<section style="--tick:{scale.width(tick_ns):.4f}%">{_axis(scale, tick_ns)}{rows}</section>'


def _folded(roots: list[SpanNode], scale: _Scale, whole: _Scale) -> str:
    """One of several traces, as a row that unfolds."""
    count = sum(1 for root in roots for _ in root.walk())
    began = format_duration(scale.origin_ns - whole.origin_ns)
    marks = "".join(_mark(span) for span in roots)
    summary = (
        f'<span class="turn"></span>{marks}<b>{escape(roots[0].name)}</b> '
        f"<small>{format_duration(scale.span_ns)} · {_count(count, 'span')} · began at {began} · "
        f"<code>{roots[0].trace_id}</code></small>"
    )
    return f'<details class="trace"><summary>{summary}</summary>{_waterfall(roots, scale)}</details>'


def format_duration(duration_ns: float) -> str:
    """A duration with three digits: 740 µs, 12.3 ms, 1.25 s."""
    for unit, size_ns in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if duration_ns >= size_ns:
            value = duration_ns / size_ns
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{duration_ns:.0f} ns"


def format_bytes(count: float) -> str:
    """A number of bytes with three digits: 512 B, 48.1 kB, 1.2 MB (powers of 1000)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{count:.0f} B"


def _header(title: str, spans: list[SpanNode], scale: _Scale) -> str:
    trace_ids = list(dict.fromkeys(span.trace_id for span in spans))
    errors = sum(span.is_error for span in spans)
    facts = [
        f"<b>{format_duration(scale.span_ns)}</b>" if spans else "no spans",
        _count(len(spans), "span"),
        _count(len(scale.colours), "service"),
        *([f'<b style="color:var(--error)">{errors}</b> with an error'] if errors else []),
        *(f"<code>{trace_id}</code>" for trace_id in trace_ids[:1] if len(trace_ids) == 1),
    ]
    legend = "".join(
        f'<li style="--colour:{colour}"><i></i>{escape(service)} '
        f"<span>{_count(sum(span.service == service for span in spans), 'span')}</span></li>"
        for service, colour in scale.colours.items()
    )
    return (
        f'<header><h1>{escape(title)}</h1><div class="facts">{" · ".join(facts)}</div>'
        f'<ul class="legend">{legend}</ul></header>'
    )


def _axis(scale: _Scale, tick_ns: float) -> str:
    ticks: list[str] = []
    index = 0
    while (left := scale.width(index * tick_ns)) <= 100:
        kind = ' class="end"' if left > 96 else ""
        ticks.append(f'<em{kind} style="left:{left:.3f}%">{format_duration(index * tick_ns) if index else "0"}</em>')
        index += 1
    return f'<div class="axis"><div></div><div>{"".join(ticks)}</div></div>'


def _tick_ns(span_ns: int) -> float:
    """The distance of ticks: about eight, at round numbers."""
    raw = span_ns / 8
    power = 1.0
    while power * 10 <= raw:
        power *= 10
    return next((power * m for m in _TICKS if power * m >= raw), power * 10)


def _siblings(spans: list[SpanNode], depth: int, scale: _Scale) -> Iterator[str]:
    """Rows of spans with one parent: those of a frequent name folded into one row, at the place of the first."""
    by_name: dict[tuple[str, str], list[SpanNode]] = {}
    for span in spans:
        by_name.setdefault((span.name, span.service), []).append(span)
    for span in spans:
        group = by_name[span.name, span.service]
        if len(group) <= FOLD_ABOVE:
            yield from _span(span, depth, scale)
        elif group[0] is span:
            yield f"<details><summary>{_group_row(group, depth, scale)}</summary>"
            for member in group:
                yield from _span(member, depth + 1, scale)
            yield "</details>"


def _span(span: SpanNode, depth: int, scale: _Scale) -> Iterator[str]:
    yield _row(span, depth, scale)
    yield from _siblings(span.children, depth + 1, scale)


def _row(span: SpanNode, depth: int, scale: _Scale) -> str:
    step = span.attributes.get(telemetry.STEP)
    notes = [f"step {step}"] if step is not None else []
    notes += _amounts(span)
    bar = _bar(span, scale, "bar error" if span.is_error else "bar")
    label = _time(span.start_ns, span.end_ns, format_duration(span.duration_ns), scale)
    name = _name(_mark(span), span.name, notes, depth)
    return f'<div class="row">{name}<div class="lane">{bar}{label}</div>{_tip(span, scale)}</div>'


def _group_row(group: list[SpanNode], depth: int, scale: _Scale) -> str:
    durations = [span.duration_ns for span in group]
    bars = "".join(_bar(s, scale, "bar thin error" if s.is_error else "bar thin") for s in group)
    facts: dict[str, AttributeValue] = {
        "count": len(group),
        "together": format_duration(sum(durations)),
        "median": format_duration(statistics.median(durations)),
        "shortest": format_duration(min(durations)),
        "longest": format_duration(max(durations)),
    }
    for key, name in ((telemetry.TOKENS, "tokens"), (telemetry.BYTES, "bytes")):
        total = sum(v for s in group if isinstance(v := s.attributes.get(key, 0), int))
        if total:
            facts[name] = format_bytes(total) if name == "bytes" else total
    notes = [f"× {len(group)}", f"median {format_duration(statistics.median(durations))}"]
    name = _name('<span class="turn"></span>', group[0].name, notes, depth)
    tip = f'<div class="tip"><p>{len(group)} × {escape(group[0].name)}</p>{_table(facts)}</div>'
    return f'<div class="row">{name}<div class="lane">{bars}</div>{tip}</div>'


def _name(mark: str, name: str, notes: list[str], depth: int) -> str:
    small = f"<small>{escape(' · '.join(notes))}</small>" if notes else ""
    return f'<div class="name" style="padding-left:{depth * _INDENT_REM:g}rem">{mark}{escape(name)}{small}</div>'


def _bar(span: SpanNode, scale: _Scale, css_class: str) -> str:
    return (
        f'<div class="{css_class}" style="--colour:{scale.colours[span.service]};'
        f'left:{scale.left(span.start_ns):.4f}%;width:{scale.width(span.duration_ns):.4f}%"></div>'
    )


def _time(start_ns: int, end_ns: int, text: str, scale: _Scale) -> str:
    """The label of a bar: after it, or before or inside it where there is no room."""
    left, right = scale.left(start_ns), scale.left(end_ns)
    label = escape(text)
    if right < 84:
        return f'<div class="time" style="left:{right:.3f}%">{label}</div>'
    if left > 16:
        return f'<div class="time before" style="left:{left:.3f}%">{label}</div>'
    return f'<div class="time inside" style="left:{left:.3f}%">{label}</div>'


def _mark(span: SpanNode) -> str:
    missing = '<span class="mark" title="the parent is not in this trace">?</span>' if span.is_orphan else ""
    failed = '<span class="mark" title="ended with an error">!</span>' if span.is_error else ""
    return missing + failed


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _amounts(span: SpanNode) -> list[str]:
    tokens, length = span.attributes.get(telemetry.TOKENS), span.attributes.get(telemetry.BYTES)
    amounts: list[str] = []
    if isinstance(tokens, int):
        amounts.append(_count(tokens, "token"))
    if isinstance(length, int | float) and length > 0:
        amounts.append(format_bytes(length))
    return amounts


def _tip(span: SpanNode, scale: _Scale) -> str:
    facts: dict[str, AttributeValue] = {
        "service": span.service,
        "began": f"+{format_duration(span.start_ns - scale.origin_ns)}",
        "took": format_duration(span.duration_ns),
    }
    if span.status_message:
        facts["error"] = span.status_message
    facts |= span.attributes
    for event in span.events:
        told = ", ".join(f"{key}={value}" for key, value in event.attributes.items() if key != "exception.stacktrace")
        facts[f"+{format_duration(event.time_ns - span.start_ns)} {event.name}"] = told
    return f'<div class="tip"><p>{escape(span.name)}</p>{_table(facts)}</div>'


def _table(facts: dict[str, AttributeValue]) -> str:
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(str(value))}</td></tr>" for key, value in facts.items())
    return f"<table>{rows}</table>"
