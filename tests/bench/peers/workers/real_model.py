"""A GGUF file in the hands of Hugging Face and TransformerLens: the numbers of tests.bench.peers.real_model.

    python -m tests.bench.peers.workers.real_model FILE.gguf NUMBERS.npz

Hugging Face dequantises the file to float32 and undoes llama.cpp's order of rows; no code of ours has a part in that.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.bench.peers.workers.library import Arrays
from tests.bench.peers.workers.summary import summarise
from tests.bench.peers.workers.torch_model import row
from tests.bench.peers.workers.transformer_lens_hooks import TransformerLens

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
TARGETS = (" Mary", " John")
QUESTION = "Explain in two sentences why the sky is blue."
GREEDY_TOKENS = 64
LENS_TOKENS = 5
POINTS = (
    "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_q",
    "attn.hook_k", "attn.hook_v", "attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_pattern", "attn.hook_z",
    "mlp.hook_post",
)  # fmt: skip


class RealModel(TransformerLens):
    """The model of a dense folder."""

    def numbers(self) -> Arrays:
        """All of them."""
        tokenizer = AutoTokenizer.from_pretrained(self._folder)
        clean, corrupted = (tokenizer(text).input_ids for text in (CLEAN, CORRUPTED))
        right, wrong = (tokenizer(text, add_special_tokens=False).input_ids[0] for text in TARGETS)
        targets = (right, wrong)
        repeated = [*clean, *clean[1:]]
        logits, cache = self._model.run_with_cache(row(clean))
        found: Arrays = {"logits": summarise(logits[0].numpy(), values=32)}
        for name in POINTS:
            arrays = [cache[f"blocks.{layer}.{name}"][0] for layer in self._layers]
            if name == "attn.hook_pattern":
                arrays = [array.transpose(0, 1) for array in arrays]  # (query, head, key)
            found[f"point.{name}"] = np.stack([summarise(array.numpy()) for array in arrays])
        explained = self.explain(clean, corrupted, targets, LENS_TOKENS)
        explained.pop("attention_pattern")
        found |= explained
        found |= self.detect(repeated)
        attributed = self.attribute(clean, targets)
        found |= {name: attributed[name] for name in ("component_logit_attrs", "head_logit_attrs")}
        found["head_attribution"] = self._attribution(clean, corrupted, targets)
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_dict=False
        )
        model = AutoModelForCausalLM.from_pretrained(self._folder, dtype=torch.float32)
        drawn = model.generate(row(asked), max_new_tokens=GREEDY_TOKENS, do_sample=False)
        ids = {"clean": clean, "corrupted": corrupted, "repeated": repeated, "asked": asked, "targets": targets}
        ids["greedy"] = drawn[0, len(asked) :].tolist()
        return found | {name: np.array(value, np.int32) for name, value in ids.items()}

    def _attribution(self, clean: list[int], corrupted: list[int], targets: tuple[int, int]) -> np.ndarray:
        """(layer, head): attribution patching of head outputs, (clean - corrupted) * gradient of the corrupted run."""
        names = [f"blocks.{layer}.attn.hook_z" for layer in self._layers]
        _, cache = self._model.run_with_cache(row(clean), names_filter=names)
        kept: dict[str, torch.Tensor] = {}

        def keep(z: torch.Tensor, hook: object) -> torch.Tensor:
            z = z.detach().requires_grad_() if not z.requires_grad else z
            z.retain_grad()
            kept[hook.name] = z  # pyright: ignore[reportAttributeAccessIssue]
            return z

        with torch.enable_grad():
            logits = self._model.run_with_hooks(row(corrupted), fwd_hooks=[(name, keep) for name in names])[0, -1]
            (logits[targets[0]] - logits[targets[1]]).backward()
        scores = []
        for name in names:
            z = kept[name]
            assert z.grad is not None
            scores.append(((cache[name] - z.detach()) * z.grad).sum(dim=(0, 1, 3)))
        return torch.stack(scores).numpy()


def write_dense(file: Path, folder: Path) -> None:
    """Writes what Hugging Face reads from a GGUF file as a folder of float32."""
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    del model.config.quantization_config  # else neither it nor its configuration can be saved
    model.config.save_pretrained(folder)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def main(file: str, numbers: str) -> None:
    """Computes and writes the numbers."""
    with TemporaryDirectory(prefix="neuroscope-dense-") as folder:
        write_dense(Path(file), Path(folder))
        np.savez(numbers, **RealModel(folder).numbers())  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main(*sys.argv[1:])
