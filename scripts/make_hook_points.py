"""Makes docs/hook_points.md: what the self-test proves, for the named families and for every module of mlx-lm.

python -m scripts.make_hook_points
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")  # read when mlx is imported

from importlib.metadata import version

from mlx_lm.utils import MODEL_REMAPPING

from neuroscope.vocabulary.sites import COMPONENTS
from tests.support.module_sweep import Proved, prove
from tests.support.tiny_configs import modules

PAGE = Path(__file__).resolve().parents[1] / "docs" / "hook_points.md"

FAMILIES = (
    "llama mistral qwen2 qwen3 qwen3_moe gemma2 gemma3_text gpt2 gpt_neox phi3 mixtral gpt_oss olmo2 cohere2 "
    "llama4 granitemoe"
).split()

_HEAD = """# Hook points

Made by `python -m scripts.make_hook_points` from what the self-test proves on tiny random models, with mlx-lm
{version}; a test holds this page to it.

On your own model the same self-test runs at load, on the loaded weights: `neuroscope hooks` prints its verdict. A point
is published only if an identity proves it, and logits with every point read are those without hooks, bit for bit.

## Families

Families with an entry of their own in `engine/family.py`. ● in every layer, ◐ in some layers, · in none.

"""

_IDENTITIES = """
What is missing, and why:

{reasons}

## Identities

A point is withdrawn where an identity that it must fulfil fails, and where there is none that proves it.

{identities}

## Every module of mlx-lm

Any other model is read by names that architectures share. Of {total} modules, {complete} have the residual stream,
attention and the MLP proved. ● stands for proved, in a layer at least: `resid_pre` and `resid_post`; `attn_out`, of
attention or of what a layer has in its place; `mlp_out`; patterns and outputs of heads. The number counts components
of {components}.

| module | residual | attention | MLP | patterns | components | not proved |
|---|---|---|---|---|---|---|
"""


def page(proved: list[Proved], families: list[Proved]) -> str:
    """The page's text."""
    lines = [_HEAD.format(version=version("mlx-lm"))]
    lines.append("| component | " + " | ".join(FAMILIES) + " |\n|---" + "|:-:" * len(FAMILIES) + "|\n")
    lines.extend(f"| `{name}` | " + " | ".join(_extent(p, name) for p in families) + " |\n" for name in COMPONENTS)
    identities = sorted(set[str]().union(*(p.identities for p in proved)))
    complete = [p for p in proved if p.is_complete]
    lines.append(
        _IDENTITIES.format(
            reasons="\n".join(f"* {name}: {_reasons(p)}" for name, p in zip(FAMILIES, families, strict=True)),
            identities="\n".join(f"* `{name}`" for name in identities),
            total=len(proved),
            complete=len(complete),
            components=len(COMPONENTS),
        )
    )
    lines.extend(_row(p) for p in proved)
    return "".join(lines)


def make() -> str:
    """Runs the self-test on every module and returns the page's text."""
    families = [prove(MODEL_REMAPPING.get(family, family), family) for family in FAMILIES]
    return page([prove(module) for module in modules()], families)


def _extent(proved: Proved, component: str) -> str:
    layers = len(proved.components.get(component, ()))
    return "·" if not layers else "●" if layers == (proved.layers if COMPONENTS[component].has_layer else 1) else "◐"


def _row(proved: Proved) -> str:
    if proved.failure:
        return f"| {proved.module} | · | · | · | · | 0 | {proved.failure} |\n"
    groups = (("resid_pre", "resid_post"), ("attn_out",), ("mlp_out",), ("attention_pattern", "head_output"))
    cells = " | ".join("●" if proved.has(group) else "·" for group in groups)
    count = sum(component in proved.components for component in COMPONENTS)
    return f"| {proved.module} | {cells} | {count} | {_reasons(proved)} |\n"


def _reasons(proved: Proved) -> str:
    reasons = {reason: sorted(names) for reason, names in sorted(proved.reasons.items())}
    dense = "the layer is not a mixture of experts"
    if all("router" in p or "expert" in p for p in reasons.get(dense, ())):
        reasons.pop(dense, None)  # goes without saying
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items()) or "nothing"


def main() -> int:
    """Writes the page."""
    PAGE.write_text(make())
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
