"""TransformerLens 4: the bridge with its hooks, and `transformer_lens.patching`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformer_lens import head_detector, patching
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from tests.bench.peers.workers.library import RESIDUAL, Arrays, Generated, Library, PatchWay
from tests.bench.peers.workers.torch_model import load, row

_DETECTORS = {
    "previous_token": head_detector.get_previous_token_head_detection_pattern,
    "duplicate_token": head_detector.get_duplicate_token_head_detection_pattern,
    "induction": head_detector.get_induction_head_detection_pattern,
}


class TransformerLens(Library):
    """A `TransformerBridge` with its compatibility mode and without processing of weights."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        inner = load(folder, attn_implementation="eager")  # patterns are there in no other
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model: Any = TransformerBridge.boot_transformers(folder, hf_model=inner, tokenizer=tokenizer)
        self._model.enable_compatibility_mode(no_processing=True)
        self._layers = range(self._model.cfg.n_layers)
        self._residual = {
            f"blocks.{layer}.hook_{name}": f"{name}.{layer}" for name in RESIDUAL for layer in self._layers
        }

    def observe(self, ids: Sequence[int]) -> Arrays:
        logits, cache = self._model.run_with_cache(row(ids), names_filter=list(self._residual))
        return {
            "logits": logits[0].numpy(),
            **{ours: cache[theirs][0].numpy() for theirs, ours in self._residual.items()},
        }

    def generate(self, ids: Sequence[int], tokens: int, captured: bool) -> Generated:
        kept: list[torch.Tensor] = []

        def keep(activation: torch.Tensor, hook: Any) -> None:
            kept.append(activation)

        with self._model.hooks(fwd_hooks=[(name, keep) for name in self._residual] if captured else []):
            drawn = self._model.generate(
                row(ids), max_new_tokens=tokens, stop_at_eos=False, do_sample=False, return_type="tokens", verbose=False
            )
        return Generated(drawn[0, len(ids) :].tolist(), sum(piece.nbytes for piece in kept))

    def forward(self, ids: Sequence[int], times: int) -> None:
        for _ in range(times):
            self._model(row(ids))

    def patch(
        self,
        clean: Sequence[int],
        corrupted: Sequence[int],
        positions: Sequence[int],
        targets: tuple[int, int],
        way: PatchWay = "",
    ) -> NDArray[np.floating[Any]]:
        _, cache = self._model.run_with_cache(row(clean), names_filter=lambda name: name.endswith("hook_resid_pre"))
        cells = pd.DataFrame(itertools.product(self._layers, positions), columns=["layer", "pos"])
        scores = patching.generic_activation_patch(
            self._model,
            row(corrupted),
            cache,
            lambda logits: logits[0, -1, targets[0]] - logits[0, -1, targets[1]],
            patching.layer_pos_patch_setter,
            "resid_pre",
            index_df=cells,
        )
        return scores.reshape(len(self._layers), len(positions)).numpy()

    def explain(
        self, clean: Sequence[int], corrupted: Sequence[int], targets: tuple[int, int], lens_tokens: int
    ) -> Arrays:
        logits, cache = self._model.run_with_cache(row(clean))
        right, wrong = targets
        own = logits[0, -1, right] - logits[0, -1, wrong]
        stack = torch.stack([cache[f"blocks.{layer}.hook_resid_post"][0] for layer in self._layers])
        lens = torch.stack([self._model.unembed(self._model.ln_final(stream[None]))[0] for stream in stack])
        top = lens.log_softmax(-1).topk(lens_tokens, dim=-1)
        ablated = torch.zeros(len(self._layers), self._model.cfg.n_heads)
        for layer, head in itertools.product(self._layers, range(self._model.cfg.n_heads)):

            def silence(z: torch.Tensor, hook: Any, head: int = head) -> torch.Tensor:
                z[:, :, head] = 0
                return z

            name = f"blocks.{layer}.attn.hook_z"
            out = self._model.run_with_hooks(row(clean), fwd_hooks=[(name, silence)])[0, -1]
            ablated[layer, head] = out[right] - out[wrong] - own
        patterns = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in self._layers])
        return {
            "attention_pattern": patterns.numpy(),
            "lens_token_ids": top.indices.int().numpy(),
            "lens_log_probabilities": top.values.numpy(),
            "head_ablation": ablated.numpy(),
            "patch": self.patch(clean, corrupted, range(len(clean)), targets).astype(np.float32),
        }

    def detect(self, ids: Sequence[int]) -> Arrays:
        _, cache = self._model.run_with_cache(row(ids), names_filter=lambda name: name.endswith("hook_pattern"))
        found: Arrays = {}
        for kind, pattern_of in _DETECTORS.items():
            wanted = pattern_of(row(ids))
            for measure in ("mul", "abs"):
                scores = np.zeros((len(self._layers), self._model.cfg.n_heads), np.float32)
                for layer, head in np.ndindex(scores.shape):
                    scores[layer, head] = head_detector.compute_head_attention_similarity_score(
                        cache[f"blocks.{layer}.attn.hook_pattern"][0, head],
                        wanted,
                        exclude_bos=False,
                        exclude_current_token=False,
                        error_measure=measure,
                    )
                found[f"detector.{kind}.{measure}"] = scores
        return found

    def attribute(self, clean: Sequence[int], targets: tuple[int, int]) -> Arrays:
        """`logit_attrs` knows no gain of the final norm, so it is folded into the unembedding, and nothing else."""
        inner = load(self._folder, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(self._folder)
        folded: Any = TransformerBridge.boot_transformers(self._folder, hf_model=inner, tokenizer=tokenizer)
        folded.enable_compatibility_mode(
            fold_ln=True, center_writing_weights=False, center_unembed=False, fold_value_biases=False
        )
        _, cache = folded.run_with_cache(row(clean))
        right, wrong = targets
        components, heads = cache.decompose_resid(layer=-1), cache.stack_head_results(layer=-1)
        stack = cache.accumulated_resid(layer=-1, incl_mid=False)
        shape = (len(self._layers), self._model.cfg.n_heads)
        found = {
            "accumulated_resid": stack[:, 0],
            "decompose_resid": components[:, 0],
            "head_norms": heads[:, 0].norm(dim=-1).reshape(*shape, -1),
            "component_logit_attrs": cache.logit_attrs(components, tokens=right, incorrect_tokens=wrong)[:, 0, -1],
            "head_logit_attrs": cache.logit_attrs(heads, tokens=right, incorrect_tokens=wrong)[:, 0, -1].reshape(shape),
        }
        return {name: tensor.numpy() for name, tensor in found.items()}


open_library = TransformerLens
