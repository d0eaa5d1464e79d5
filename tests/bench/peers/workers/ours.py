"""NeuroScope as its users have it: the SDK's client of a service, over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope import Client, Hook
from neuroscope.experiments import logit_diff
from tests.bench.peers.workers.library import RESIDUAL, Arrays, Generated, Library, PatchWay


class Ours(Library):
    """A client of a service that has one model."""

    def __init__(self, target: str) -> None:
        self._client = Client(target)

    def observe(self, ids: Sequence[int]) -> Arrays:
        cache = self._client.capture(list(ids), [*RESIDUAL, "logits"])
        found: Arrays = {"logits": cache["logits"][0]}
        for layer in range(self._client.model().model.num_layers):
            found |= {f"{name}.{layer}": cache[name, layer][0] for name in RESIDUAL}
        return found

    def generate(self, ids: Sequence[int], tokens: int, captured: bool) -> Generated:
        hooks = RESIDUAL if captured else ()
        generated = Generated()
        for token in self._client.generate(list(ids), hooks=hooks, max_tokens=tokens, ignore_eos=True, keep=False):
            generated.ids.append(token.token_id)
            generated.bytes += sum(piece.array.nbytes for pieces in token.activations.values() for piece in pieces)
        return generated

    def forward(self, ids: Sequence[int], times: int) -> None:
        for _ in range(times):
            self._client.capture(list(ids), [Hook("logits", reduce={"top_k": 1})])  # all are computed, few are sent

    def patch(
        self,
        clean: Sequence[int],
        corrupted: Sequence[int],
        positions: Sequence[int],
        targets: tuple[int, int],
        way: PatchWay = "",
    ) -> NDArray[np.floating[Any]]:
        sweep = self._client.patch(list(clean), list(corrupted)).residual(positions=list(positions))
        return sweep.run(logit_diff(*targets)).values.reshape(-1, len(positions))


open_library = Ours
