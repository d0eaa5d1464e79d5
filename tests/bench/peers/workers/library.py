"""What is asked of every library, in words that each of them has its own for.

numpy and the standard library alone: this is read in both environments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
RESIDUAL = ("resid_pre", "resid_mid", "resid_post")

PatchWay = Literal["", "all logits", "last logits"]
"""How a sweep is run by a library that has several ways; the empty one is its own."""


@dataclass
class Generated:
    """What came of a generation."""

    ids: list[int] = field(default_factory=list[int])
    """The tokens, without the prompt's."""
    bytes: int = 0
    """Of everything that was captured."""


class Library(ABC):
    """A model in the hands of one library. What a library cannot do it leaves as it is here."""

    @abstractmethod
    def observe(self, ids: Sequence[int]) -> Arrays:
        """`logits` (position, vocabulary) of one forward pass, and `resid_pre.0` ... (position, d_model)."""

    @abstractmethod
    def generate(self, ids: Sequence[int], tokens: int, captured: bool) -> Generated:
        """As many likeliest tokens as are asked for, end of text or not, with all residual points or with none."""

    def forward(self, ids: Sequence[int], times: int) -> None:
        """So many forward passes, logits of every position."""
        raise NotImplementedError

    def patch(
        self,
        clean: Sequence[int],
        corrupted: Sequence[int],
        positions: Sequence[int],
        targets: tuple[int, int],
        way: PatchWay = "",
    ) -> NDArray[np.floating[Any]]:
        """The clean prompt's resid_pre put into the corrupted run, a layer and position at a time.

        Returns:
            (layer, position): logit of the first target less that of the second, at the last position.
        """
        raise NotImplementedError

    def explain(
        self, clean: Sequence[int], corrupted: Sequence[int], targets: tuple[int, int], lens_tokens: int
    ) -> Arrays:
        """What a fixture holds besides `observe`: `tests.bench.peers.fixtures` has the names and shapes."""
        raise NotImplementedError

    def detect(self, ids: Sequence[int]) -> Arrays:
        """`detector.previous_token.mul` ... (layer, head): how like three patterns heads are, in two ways."""
        raise NotImplementedError

    def attribute(self, clean: Sequence[int], targets: tuple[int, int]) -> Arrays:
        """What a fixture holds of the residual stream and of direct logit attribution."""
        raise NotImplementedError

    def answer(self, task: str, file: str = "", **arguments: Any) -> dict[str, Any]:
        """What a method of this class returns, as JSON; arrays with names go into an .npz file."""
        found = getattr(self, task)(**arguments)
        if isinstance(found, Generated):
            return {"ids": found.ids, "bytes": found.bytes}
        if isinstance(found, np.ndarray):
            return {"values": found.tolist()}
        if found is not None:
            np.savez(file, **found)
        return {}
