"""neuroscope.trace_file, span_tree and waterfall: traces as a tree, as Chrome trace events and as an HTML page."""

import json
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from neuroscope.tracing import span_tree, telemetry, trace_file, waterfall
from tests.support import traces


@pytest.fixture
def generation() -> TracesData:
    return telemetry.merge(traces.generation(steps=100))


def test_the_tree_joins_services_and_orders_children(generation: TracesData):
    (root,) = span_tree.build_tree(generation)
    assert (root.name, root.service) == ("neuroscope.generate", "neuroscope-client")
    assert [child.service for child in root.children] == ["neuroscope-gateway"]
    (inference,) = root.children[0].children
    assert inference.attributes == {"neuroscope.tokens": 101}
    starts = [child.start_ns for child in inference.children]
    assert starts == sorted(starts)
    assert sum(1 for _ in root.walk()) == 1 + 1 + 1 + 1 + 200
    assert span_tree.orphans(generation) == []


def test_a_span_whose_parent_is_missing_is_a_root_and_an_orphan():
    client, _, inference = traces.generation(steps=1)
    merged = telemetry.merge([client, inference])
    assert [root.name for root in span_tree.build_tree(merged)] == ["neuroscope.generate", "Generate"]
    assert [orphan.name for orphan in span_tree.orphans(merged)] == ["Generate"]


def test_chrome_events_have_a_process_per_service_and_times_in_microseconds(generation: TracesData):
    events = trace_file.chrome_events(span_tree.build_tree(generation))["traceEvents"]
    names = {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"}
    assert list(names) == ["neuroscope-client", "neuroscope-gateway", "neuroscope-inference"]
    (prefill,) = [e for e in events if e["name"] == "prefill"]
    assert (prefill["ts"], prefill["dur"], prefill["pid"]) == (3000.0, 5500.0, names["neuroscope-inference"])
    assert prefill["args"]["neuroscope.bytes"] == 1_234_567
    calls = [e for e in events if e["ph"] in "sf"]
    assert [(e["ph"], e["id"]) for e in calls] == [(p, f"{n:016x}") for n in (2, 3) for p in "sf"]


def test_spans_of_one_chrome_thread_nest_or_do_not_overlap():
    overlapping = traces.service(
        "s",
        traces.span("root", 1, 0, 0, 100),
        traces.span("a", 2, 1, 10, 60),
        traces.span("b", 3, 1, 30, 90),
        traces.span("c", 4, 1, 65, 95),
        traces.span("outlives its parent", 5, 4, 80, 200),
    )
    events = trace_file.chrome_events(span_tree.build_tree(overlapping))["traceEvents"]
    threads: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            threads[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(threads) == 3
    for spans in threads.values():
        for a_start, a_end in spans:
            for b_start, b_end in spans:
                nested = (a_start <= b_start and b_end <= a_end) or (b_start <= a_start and a_end <= b_end)
                assert nested or a_end <= b_start or b_end <= a_start


class _Page(HTMLParser):
    """Counts tags, checks that they nest, and collects what a browser would fetch."""

    void = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = defaultdict(int)
        self.classes: dict[str, int] = defaultdict(int)
        self.fetched: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] += 1
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data"):
                self.fetched.append(value or "")
            if name == "class":
                for css_class in (value or "").split():
                    self.classes[css_class] += 1
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_complete_by_itself_and_has_a_row_per_span(generation: TracesData):
    html = waterfall.render(span_tree.build_tree(generation))
    page = _Page(html)
    folded_rows = 2  # decode, serialise
    assert page.classes["row"] == 204 + folded_rows
    assert page.counts["details"] == folded_rows
    assert page.counts["script"] == 0
    assert page.fetched == []
    assert "url(" not in html
    assert "http" not in html.replace("http-equiv", "")
    text = "".join(page.text)
    for expected in (
        "neuroscope-gateway",
        "× 100",
        "median",
        "1.23 MB",
        "12 tokens",
        "step 100",
        traces.TRACE_ID.hex(),
    ):
        assert expected in text


def test_several_traces_unfold_one_by_one():
    one = traces.service("a", traces.span("first", 1, 0, 0, 5))
    other = traces.service("a", traces.span("second", 2, 0, 900, 905))
    other.resource_spans[0].scope_spans[0].spans[0].trace_id = b"\xff" * 16
    page = _Page(waterfall.render(span_tree.build_tree(telemetry.merge([m.SerializeToString() for m in (one, other)]))))
    assert page.classes["trace"] == page.counts["details"] == page.classes["axis"] == 2
    text = "".join(page.text)
    assert "2 traces" in text
    assert "began at 900 µs" in text


def test_few_siblings_are_not_folded():
    page = _Page(waterfall.render(span_tree.build_tree(telemetry.merge(traces.generation(steps=waterfall.FOLD_ABOVE)))))
    assert page.counts["details"] == 0


def test_names_and_attributes_cannot_break_the_page():
    hostile = traces.service("<b>", traces.span("</div><script>x", 1, 9, 0, 5, {'"><i>': "<img src=x>"}, error="<u>no"))
    html = waterfall.render(span_tree.build_tree(hostile))
    page = _Page(html)
    assert page.counts["script"] == page.counts["img"] == page.counts["u"] == 0
    assert "</div><script>x" in "".join(page.text)
    assert page.classes["error"] == 1
    assert page.classes["mark"] == 2  # an error, and its parent is missing


@pytest.mark.parametrize(("given", "json_name"), [("run.json", "run.json"), ("run.html", "run.json"), ("run", "run")])
def test_write_makes_both_files(tmp_path: Path, generation: TracesData, given: str, json_name: str):
    json_path, html_path = trace_file.write(tmp_path / "new folder" / given, generation)
    assert (json_path.name, html_path.name) == (json_name, "run.html")
    assert json.loads(json_path.read_text())["displayTimeUnit"] == "ms"
    assert html_path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_an_empty_trace_is_written_too(tmp_path: Path):
    json_path, html_path = trace_file.write(tmp_path / "t.json", TracesData())
    assert json.loads(json_path.read_text())["traceEvents"] == []
    assert "no spans" in html_path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [(0, "0 ns"), (740, "740 ns"), (12_345, "12.3 µs"), (123_456_789, "123 ms"), (1_500_000_000, "1.5 s")],
)
def test_durations_have_three_digits(duration_ns: int, text: str):
    assert waterfall.format_duration(duration_ns) == text


@pytest.mark.parametrize(
    ("count", "text"), [(512, "512 B"), (48_128, "48.1 kB"), (2_000_000, "2 MB"), (3.2e9, "3.2 GB")]
)
def test_bytes_have_three_digits(count: float, text: str):
    assert waterfall.format_bytes(count) == text
