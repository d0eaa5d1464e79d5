"""nnsight, as its documentation has it: traces, `tracer.cache()`, and assignments within a trace."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from nnsight import TransformersModel
from numpy.typing import NDArray
from transformers import AutoTokenizer

from tests.bench.peers.workers.library import Arrays, Generated, Library, PatchWay
from tests.bench.peers.workers.torch_model import BLOCKS, SECOND_NORM, load, row


class Nnsight(Library):
    """A `TransformersModel` around the model of Hugging Face."""

    def __init__(self, folder: str) -> None:
        inner = load(folder)
        kind = inner.config.model_type
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model: Any = TransformersModel(inner, tokenizer=tokenizer, task="text-generation")
        self._blocks: list[Any] = list(reduce(getattr, BLOCKS[kind].split("."), self._model))
        self._second_norms = [getattr(block, SECOND_NORM[kind]) for block in self._blocks]

    def observe(self, ids: Sequence[int]) -> Arrays:
        with self._model.trace(row(ids)) as tracer:
            streams = tracer.cache(modules=self._blocks, include_inputs=True)
            middles = tracer.cache(modules=self._second_norms, include_output=False, include_inputs=True)
            logits = self._model.output.logits.save()
        found: Arrays = {"logits": logits[0].numpy()}
        for layer, (block, norm) in enumerate(zip(self._blocks, self._second_norms, strict=True)):
            found[f"resid_pre.{layer}"] = streams[block.path].input[0].numpy()
            found[f"resid_mid.{layer}"] = middles[norm.path].input[0].numpy()
            found[f"resid_post.{layer}"] = streams[block.path].output[0].numpy()
        return found

    def generate(self, ids: Sequence[int], tokens: int, captured: bool) -> Generated:
        settings = {"max_new_tokens": tokens, "do_sample": False}
        if not captured:
            with self._model.generate(row(ids), **settings) as tracer:
                drawn = tracer.result.save()
            return Generated(drawn[0, len(ids) :].tolist())
        with self._model.generate(row(ids), **settings) as tracer:
            streams = tracer.cache(modules=self._blocks, include_inputs=True)
            middles = tracer.cache(modules=self._second_norms, include_output=False, include_inputs=True)
            drawn = tracer.result.save()
        kept = [values for path in streams.keys() for values in (streams[path].input, streams[path].output)]
        kept += [middles[path].input for path in middles.keys()]
        nbytes = sum(piece.nbytes for pieces in kept for piece in (pieces if isinstance(pieces, list) else [pieces]))
        return Generated(drawn[0, len(ids) :].tolist(), nbytes)

    def forward(self, ids: Sequence[int], times: int) -> None:
        for _ in range(times):
            with self._model.trace(row(ids)):
                self._model.output.logits.save()

    def patch(
        self,
        clean: Sequence[int],
        corrupted: Sequence[int],
        positions: Sequence[int],
        targets: tuple[int, int],
        way: PatchWay = "",
    ) -> NDArray[np.floating[Any]]:
        with self._model.trace(row(clean)) as tracer:
            cache = tracer.cache(modules=self._blocks, include_output=False, include_inputs=True)
        prompt = row(corrupted)
        scores = np.zeros((len(self._blocks), len(positions)))
        for layer, block in enumerate(self._blocks):
            donor = cache[block.path].input
            for index, position in enumerate(positions):
                with self._model.trace(prompt):
                    block.input[:, position] = donor[:, position]
                    logits = self._model.lm_head.output[0, -1].save()
                scores[layer, index] = float(logits[targets[0]] - logits[targets[1]])
        return scores


open_library = Nnsight
