"""Plain Hugging Face, with the forward hooks of torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.bench.peers.workers.library import Arrays, Generated, Library, PatchWay
from tests.bench.peers.workers.torch_model import BLOCKS, SECOND_NORM, load, row

ROWS = 16  # of a batch of patches


class HuggingFace(Library):
    """A model of `AutoModelForCausalLM`."""

    def __init__(self, folder: str) -> None:
        self._model = load(folder)
        kind = self._model.config.model_type
        self._blocks = self._model.get_submodule(BLOCKS[kind])
        self._second_norm = SECOND_NORM[kind]

    def observe(self, ids: Sequence[int]) -> Arrays:
        with self._capturing() as captured:
            logits = self._model(row(ids)).logits
        return {"logits": logits[0].numpy(), **{name: pieces[0][0].numpy() for name, pieces in captured.items()}}

    def generate(self, ids: Sequence[int], tokens: int, captured: bool) -> Generated:
        prompt = row(ids)
        settings = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": tokens, "do_sample": False}
        if not captured:
            return Generated(self._model.generate(prompt, **settings)[0, len(ids) :].tolist())
        with self._capturing() as kept:
            drawn = self._model.generate(prompt, **settings)[0, len(ids) :].tolist()
        return Generated(drawn, sum(piece.nbytes for pieces in kept.values() for piece in pieces))

    def forward(self, ids: Sequence[int], times: int) -> None:
        for _ in range(times):
            self._model(row(ids))

    def patch(
        self,
        clean: Sequence[int],
        corrupted: Sequence[int],
        positions: Sequence[int],
        targets: tuple[int, int],
        way: PatchWay = "last logits",
    ) -> NDArray[np.floating[Any]]:
        with self._capturing() as captured:
            self._model(row(clean))
        what: dict[str, Any] = {"logits_to_keep": 1} if way == "last logits" else {}
        scores = torch.zeros(len(self._blocks), len(positions))
        for layer, block in enumerate(self._blocks):
            (donor,) = captured[f"resid_pre.{layer}"]
            for start in range(0, len(positions), ROWS):
                chosen = list(positions[start : start + ROWS])
                handle = block.register_forward_pre_hook(partial(_put, chosen, donor))
                logits = self._model(row(corrupted).expand(len(chosen), -1), **what).logits[:, -1]
                handle.remove()
                scores[layer, start : start + ROWS] = logits[:, targets[0]] - logits[:, targets[1]]
        return scores.numpy()

    @contextmanager
    def _capturing(self) -> Generator[dict[str, list[torch.Tensor]]]:
        """Every residual point, a piece for each forward pass."""
        kept: dict[str, list[torch.Tensor]] = defaultdict(list)
        with ExitStack() as stack:
            for layer, block in enumerate(self._blocks):
                second_norm = getattr(block, self._second_norm)
                for handle in (
                    block.register_forward_pre_hook(partial(_keep_input, kept[f"resid_pre.{layer}"])),
                    second_norm.register_forward_pre_hook(partial(_keep_input, kept[f"resid_mid.{layer}"])),
                    block.register_forward_hook(partial(_keep_output, kept[f"resid_post.{layer}"])),
                ):
                    stack.callback(handle.remove)
            yield kept


def _keep_input(pieces: list[torch.Tensor], _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    pieces.append(inputs[0])


def _keep_output(pieces: list[torch.Tensor], _: Any, __: Any, output: torch.Tensor) -> None:
    pieces.append(output)


def _put(positions: list[int], donor: torch.Tensor, _: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
    """Row i gets the donor's stream at position i of the list."""
    stream = inputs[0].clone()
    stream[range(len(positions)), positions] = donor[0, positions]
    return (stream, *inputs[1:])


open_library = HuggingFace
