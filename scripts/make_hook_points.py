"""Makes docs/hook_points.md: what the self-test proves for the named families and for every module of mlx-lm.

python -m scripts.make_hook_points
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")  # read when mlx is imported

from importlib.metadata import version
from textwrap import fill

from mlx_lm.utils import MODEL_REMAPPING

from neuroscope.vocabulary.sites import COMPONENTS
from scripts.results import grouped
from tests.support.module_sweep import Proved, prove
from tests.support.tiny_configs import modules

PAGE = Path(__file__).resolve().parents[1] / "docs" / "hook_points.md"

FAMILIES = (
    "llama mistral qwen2 qwen3 qwen3_moe gemma2 gemma3_text gpt2 gpt_neox phi3 mixtral gpt_oss olmo2 cohere2 "
    "llama4 granitemoe"
).split()

ATTENTION_INTERNALS = {"query", "key", "value", "attention_scores", "attention_pattern", "head_output"}

REASONS = {
    "the layer is a mixture of experts: its neurons belong to experts": "experts",
    "the architecture has no part of that kind under a name that is known": "no part",
    "the model's code never passes through this point": "not run",
    "self-test: no identity that this model offers proves the point": "no identity",
    "attention and MLP run in parallel on one stream: there is none between them": "parallel",
    "no rule that is known turns the router's logits into the weights of the experts": "no rule",
}
"""Reasons of the engine that many modules share, and what the page calls them."""

_HEAD = """# Hook points

Sites that the self-test proves on tiny random models of every architecture of mlx-lm {version}
(`python -m scripts.make_hook_points`; a test compares this page with the script).

The same self-test runs when you load a model, on its weights; `neuroscope hooks` prints the result. A site is published
only if an identity proves it. Logits are bit-identical with and without reading every site.

## Why a site is missing

| short | reason |
|---|---|
{reasons}

{notes}

## Families

{everywhere}

The others: ● in every layer, ◐ in some, · in none.

"""

_IDENTITIES = """
Missing:

{missing}

## Identities

A site is withdrawn if an identity that it must fulfil fails, or if no identity proves it.

{identities}

## Every module of mlx-lm

Other models are read by the names that architectures share. Of {total} modules, {complete} have residual stream,
attention and MLP proved. ● means proved in at least one layer: `resid_pre` and `resid_post`; `attn_out`, of attention
or what a layer has instead; `mlp_out`; `attention_pattern` and `head_output`. The number counts components, of
{components}.

| modules | residual | attention | MLP | patterns | components | not proved |
|---|---|---|---|---|---|---|
"""

_NOTES = """
`fails ...` names the identity that fails. *Attention internals* are {internals}. A site can be proved in some
layers and missing in others, for example in layers with a state-space model instead of attention. Routers that dense
layers do not have are not listed."""

_EVERYWHERE = """
These have an entry of their own in `neuroscope_inference/engine/module_names.py`. All have these components in
every layer: {components}."""

_FAILED = """
Modules without a model to test:

"""


def page(proved: list[Proved], families: list[Proved]) -> str:
    """The page's text."""
    extents = {component: [_extent(p, component) for p in families] for component in COMPONENTS}
    everywhere = [component for component, found in extents.items() if set(found) == {"●"}]
    reasons = "\n".join(f"| {short} | {reason} |" for reason, short in REASONS.items())
    lines = [
        _HEAD.format(
            version=version("mlx-lm"),
            reasons=reasons,
            notes=_filled(_NOTES.format(internals=_code(c for c in COMPONENTS if c in ATTENTION_INTERNALS))),
            everywhere=_filled(_EVERYWHERE.format(components=_code(everywhere))),
        )
    ]
    lines.append("| component | " + " | ".join(FAMILIES) + " |\n|---" + "|:-:" * len(FAMILIES) + "|\n")
    lines.extend(f"| `{c}` | " + " | ".join(found) + " |\n" for c, found in extents.items() if c not in everywhere)
    missing = _by_size((_reasons(p), family) for family, p in zip(FAMILIES, families, strict=True))
    identities = sorted(set[str]().union(*(p.identities for p in proved)))
    lines.append(
        _IDENTITIES.format(
            missing="\n".join(f"* {', '.join(names)}: {what}" for what, names in missing),
            identities="\n".join(f"* `{name}`" for name in identities),
            total=len(proved),
            complete=sum(p.is_complete for p in proved),
            components=len(COMPONENTS),
        )
    )
    tested = _by_size((_cells(p), p.module) for p in proved if not p.failure)
    lines.extend(f"| {', '.join(names)} | {cells} |\n" for cells, names in tested)
    failed = _by_size((p.failure, p.module) for p in proved if p.failure)
    lines.append(_FAILED)
    lines.extend(f"* {', '.join(names)}: {failure}\n" for failure, names in failed)
    return "".join(lines)


def make() -> str:
    """Runs the self-test on every module and returns the page's text."""
    families = [prove(MODEL_REMAPPING.get(family, family), family) for family in FAMILIES]
    return page([prove(module) for module in modules()], families)


def _extent(proved: Proved, component: str) -> str:
    layers = len(proved.components.get(component, ()))
    return "·" if not layers else "●" if layers == (proved.layers if COMPONENTS[component].has_layer else 1) else "◐"


def _by_size(named: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Every result once with the names that have it, those of most names first."""
    return sorted(grouped(named), key=lambda group: -len(group[1]))


def _cells(proved: Proved) -> str:
    groups = (("resid_pre", "resid_post"), ("attn_out",), ("mlp_out",), ("attention_pattern", "head_output"))
    cells = " | ".join("●" if proved.has(group) else "·" for group in groups)
    count = sum(component in proved.components for component in COMPONENTS)
    return f"{cells} | {count} | {_reasons(proved)}"


def _reasons(proved: Proved) -> str:
    reasons = dict(sorted(proved.reasons.items()))
    dense = "the layer is not a mixture of experts"
    if all("router" in p or "expert" in p for p in reasons.get(dense, ())):
        reasons.pop(dense, None)  # the page says so once
    return "; ".join(f"{_names(names)} ({_short(reason)})" for reason, names in reasons.items()) or "nothing"


def _names(names: set[str]) -> str:
    together = {"attention internals", *names - ATTENTION_INTERNALS} if names >= ATTENTION_INTERNALS else names
    return ", ".join(sorted(together))


def _short(reason: str) -> str:
    failing = re.fullmatch(r"self-test: (.*) fails", reason)
    return REASONS.get(reason) or (f"fails `{failing[1]}`" if failing else reason)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _filled(paragraph: str) -> str:
    return fill(" ".join(paragraph.split()), 120)


def main() -> int:
    """Writes the page."""
    PAGE.write_text(make())
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
