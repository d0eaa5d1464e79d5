"""Tables of residual stream analyses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from neuroscope.viz.text_table import TextTable
from neuroscope.vocabulary.counts import counted
from neuroscope.vocabulary.token_text import visible

if TYPE_CHECKING:
    from neuroscope.results.flow import InformationFlow
    from neuroscope.results.residual import ResidualResult
    from neuroscope.results.tuned_training import TunedLensResult

_ABLATED = {"a": "ablated_attention", "m": "ablated_mlp"}


def residual_table(result: ResidualResult) -> Table:
    """A row for each component at the answer's position of the first prompt; other findings are the caption."""
    table = _titled(f"{result!r}")
    if result.plan is None:
        return table
    position = result.plan.prompts[0].position
    arrays = {name: result.array(name) for name in ("norm", "share", "cosine", "direct") if name in result.names}
    ablated = {kind: result.array(name).values for kind, name in _ABLATED.items() if name in result.names}
    if not arrays and not ablated:
        return result.flows[0].table() if result.flows else _routes(result)
    columns = [*arrays, *(["ablated"] if ablated else [])]
    for column in ("component", *columns):
        table.add_column(column, justify="left" if column == "component" else "right", no_wrap=True)
    for index, name in enumerate(result.components):
        numbers = [
            array.values[index, position] if array.values.ndim == 2 else array.values[index]
            for array in arrays.values()
        ]
        effects = ablated.get(name[0]) if name[1:].isdigit() else None
        cells = [f"{number:.3f}" for number in numbers]
        if ablated:
            cells.append("" if effects is None else f"{effects[int(name[1:])]:+.3f}")
        table.add_row(name, *cells)
    table.caption = "; ".join(_found(result))
    return table


def lens_table(result: ResidualResult, prompt: int, position: int | None, lens: str) -> Table:
    """Likeliest tokens, the answer's rank, KL divergence and entropy at every point, last layer first."""
    plan = result.plan
    assert plan is not None
    at = plan.prompts[prompt].position if position is None else position
    texts = result.lenses[prompt].texts
    answer = visible(texts[result.lenses[prompt].answer_id])
    table = _titled(
        f"{'Logit' if lens == 'lens' else 'Tuned'} lens of {plan.model_id}, position {at}, answer {answer!r}"
    )
    for column in ("point", "likeliest", "rank", "probability", "KL", "entropy"):
        table.add_column(column, justify="left" if column in ("point", "likeliest") else "right")
    arrays = {
        name: result.array(f"{lens}_{name}", prompt).values[:, at]
        for name in ("tokens", "probability", "answer_rank", "answer_probability", "kl", "entropy")
    }
    for point in reversed(range(plan.layer_count + 1)):
        likeliest = ", ".join(
            f"{visible(texts[int(token)])} {probability:.2f}"
            for token, probability in zip(arrays["tokens"][point], arrays["probability"][point], strict=True)
        )
        table.add_row(
            "embedding" if point == 0 else f"layer {point - 1}",
            likeliest,
            f"{int(arrays['answer_rank'][point])}",
            *(f"{arrays[name][point]:.3f}" for name in ("answer_probability", "kl", "entropy")),
        )
    return table


def flow_table(flow: InformationFlow) -> Table:
    """A row for each edge; skip edges are marked."""
    table = _titled(f"Flow of information: the metric is {flow.clean:.3f}, corrupted {flow.corrupted:.3f}")
    for column in ("writer", "reader", "effect", "layers between", "read between", "survival", "skip"):
        table.add_column(column, justify="left" if column in ("writer", "reader") else "right", no_wrap=True)
    for edge in flow.edges:
        between = f"{edge.read_between:.2f} {edge.reader_between}".strip()
        skip = Text("skip", "green") if edge.is_skip else Text("")
        numbers = (f"{edge.effect:+.3f}", f"{edge.layers_between}", between, f"{edge.survival:.2f}")
        table.add_row(edge.writer, edge.reader, *numbers, skip)
    return table


def training_table(result: TunedLensResult) -> Table:
    """A row for each translator."""
    table = _titled(f"{result!r}")
    for column in ("point", "KL before", "ridge", "after", "steps"):
        table.add_column(column, justify="left" if column == "point" else "right")
    for each in result.layers:
        numbers = (each.held_out_kl_before, each.held_out_kl_ridge, each.held_out_kl_after)
        point = "embedding" if each.point == 0 else f"layer {each.point - 1}"
        table.add_row(point, *(f"{number:.4f}" for number in numbers), f"{each.iterations}")
    return table


def _routes(result: ResidualResult) -> Table:
    """The strongest routes."""
    table = _titled(f"{result!r}")
    for column in ("layer", "from", "to", "norm"):
        table.add_column(column, justify="right")
    tokens = result.tokens[0]
    for layer, query, key, norm in result.routes(0.0)[:20]:
        places = (f"{visible(tokens[place])} ({place})" for place in (key, query))
        table.add_row(f"{layer}", *places, f"{norm:.3f}")
    return table


def _found(result: ResidualResult) -> list[str]:
    found = [f"largest error of the sum {error.components:.1e}" for error in list(result.errors.values())[:1]]
    if 0 in result.attributions:
        attribution = result.attributions[0]
        other = "" if attribution.other is None else f" less {visible(attribution.other.text)!r}"
        found.append(f"direct: logit of {visible(attribution.answer.text)!r}{other}, sum {attribution.sum:.3f}")
        if attribution.softcap is not None:
            found.append(f"before the softcap of {attribution.softcap:g}")
    if 0 in result.lenses:
        emergence = result.lenses[0].emergence
        place = "nowhere" if emergence is None else "the embedding" if emergence == 0 else f"layer {emergence - 1}"
        found.append(f"the answer is the likeliest from {place} on")
    if 0 in result.flows:
        found.append(f"{counted(len(result.flows[0].edges), 'edge')}, {counted(len(result.flows[0].skips), 'skip')}")
    if np.size(result.metrics.get(0, ())):
        found.append(f"ablated: of {result.metrics[0]:.3f}")
    return found


def _titled(title: str) -> Table:
    return TextTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, caption_justify="left")
