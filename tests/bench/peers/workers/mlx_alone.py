"""mlx-lm as its users call it, in process and without hooks: what the same kernels do with nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuroscope_inference import blas
from tests.bench.peers.workers.library import Arrays, Generated, Library


class MlxAlone(Library):
    """A model of `mlx_lm.load`, on the BLAS that the service uses."""

    def __init__(self, folder: str) -> None:
        blas.load()  # before mlx is imported
        import mlx_lm

        self._model, self._tokenizer, *_ = mlx_lm.load(folder)
        self._tokenizer.eos_token_ids = set()  # never stops early

    def observe(self, ids: Sequence[int]) -> Arrays:
        from tests.support.plain_mlx import plain_logits

        return {"logits": np.array(plain_logits(self._model, ids)[0])}

    def generate(self, ids: Sequence[int], tokens: int, captured: bool) -> Generated:
        import mlx_lm

        if captured:
            raise NotImplementedError("mlx-lm has no hooks")
        drawn = mlx_lm.stream_generate(self._model, self._tokenizer, list(ids), max_tokens=tokens)
        return Generated([step.token for step in drawn])


open_library = MlxAlone
