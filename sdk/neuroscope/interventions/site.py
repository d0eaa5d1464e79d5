"""Where an edit applies."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import SupportsIndex

from neuroscope.v1 import site_pb2
from neuroscope.vocabulary import sites


def to_site(
    component: str,
    layer: SupportsIndex | None = None,
    layer_name: str = "",
    *,
    is_input: bool = False,
    heads: Sequence[int] = (),
) -> site_pb2.Site:
    """The site of an edit. `attention` with heads is `head_output`: the module's output has none any more."""
    site = sites.parse(component)
    if layer is not None:
        site.layer = operator.index(layer)
    if layer_name:
        site.layer_name = layer_name
    if is_input:
        site.side = site_pb2.SIDE_INPUT
    if heads and site.component == "attention" and site.side != site_pb2.SIDE_INPUT:
        site.component = "head_output"
    return site
