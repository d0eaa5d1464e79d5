"""What a server says about a model, and about the tokens of a prompt, in a form to work with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from neuroscope.display import Displayable, show
from neuroscope.errors import UnavailableSiteError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import site_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.counts import counted
from neuroscope.vocabulary.sites import Point

if TYPE_CHECKING:
    from rich.table import Table

_TOKENS_SHOWN = 12
"""Tokens in the text form of a prompt."""


@dataclass(frozen=True, slots=True)
class Tokens(Sequence[int]):
    """Token ids of a prompt: a sequence of the ids, which the clients take as a prompt again."""

    ids: list[int]
    """The ids, as the model reads them."""
    tokens: list[str]
    """The text of each id by itself."""
    warnings: tuple[str, ...] = ()
    """What looked wrong to the server, such as a doubled beginning-of-sequence token."""

    def __repr__(self) -> str:
        more = f", ... {len(self.tokens)} in all" if len(self.tokens) > _TOKENS_SHOWN else ""
        pairs = zip(self.ids[:_TOKENS_SHOWN], self.tokens[:_TOKENS_SHOWN], strict=True)
        return f"Tokens({', '.join(f'{token_id} {text!r}' for token_id, text in pairs)}{more})"

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        return self.ids[index]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)


class ModelInfo(Displayable):
    """A loaded model: its shape, every hookable point, and why the others are not there.

    Attributes:
        model: layers, widths, vocabulary, dtype (`neuroscope.v1.Model`).
        points: every point of the vocabulary for every layer (`neuroscope.v1.HookPoint`).
        self_test: what the self-test at load proved.
    """

    def __init__(self, response: pb.GetModelResponse) -> None:
        self.model = response.model
        self.points = list(response.points)
        self.self_test = response.self_test
        self._by_point = {Point.from_message(point.site): point for point in self.points}

    @property
    def model_id(self) -> str:
        """Name in requests."""
        return self.model.model_id

    def point(self, component: str, layer: int | None = None) -> pb.HookPoint:
        """One point, in any spelling that the clients take.

        Args:
            component: such as resid_post, residual, resid_post.5 or blocks.5.hook_resid_post.
            layer: from 0, negative from the end; None where the name carries it, or for layer 0 of them all.

        Raises:
            UnknownSiteError: the name or the layer resolves to nothing.
            UnavailableSiteError: this model knows nothing of the point.
        """
        site = sites.parse(component)
        if layer is not None:
            site.layer = layer
        resolved = sites.resolve(site, self.model.num_layers)[0]
        if resolved not in self._by_point:
            raise UnavailableSiteError(f"{self.model.model_id} says nothing of {resolved}")
        return self._by_point[resolved]

    def available(self, component: str, layer: int | None = None) -> bool:
        """Whether a point can be captured; without a layer: in any layer. Arguments and errors are those of `point`."""
        site = sites.parse(component)
        if layer is not None:
            site.layer = layer
        points = sites.resolve(site, self.model.num_layers)
        return any(point in self._by_point and self._by_point[point].available for point in points)

    def why_not(self, site: site_pb2.Site) -> str:
        """Why not all points of a site can be captured; empty where they can.

        Raises:
            UnknownSiteError: a name or the layer resolves to nothing.
        """
        for point in sites.resolve(site, self.model.num_layers):
            described = self._by_point.get(point)
            if described is None:
                return f"this model has no {point}"
            if not described.available:
                return described.reason
        return ""

    def table(self) -> Table:
        """The points by component: layers, axes, dtype, module, and why the others are not available."""
        return show(self, "table")

    def __repr__(self) -> str:
        available = sum(point.available for point in self.points)
        return (
            f"ModelInfo({self.model.model_id}: {self.model.architecture}, {counted(self.model.num_layers, 'layer')}, "
            f"{available} of {len(self.points)} points available; table() shows them)"
        )
