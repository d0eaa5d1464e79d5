"""Trains the bundled dictionaries on the bundled model, with MLX, in a few minutes on two cores.

    python -m scripts.train_dictionaries [NAME ...]

A sparse autoencoder of the residual stream behind layer 2, and a transcoder of layer 1's MLP, both with the BatchTopK
activation (Bussmann et al. 2024, arXiv:2412.06410): in training the k largest features per position on average over a
batch, afterwards a threshold, as SAELens saves them: JumpReLU. Activations are captured through the SDK from documents
of the corpus that the model was trained on, drawn with another seed; the figures of training.json are measured through
the service on documents of a third seed.
"""

# mlx.optimizers, safetensors and the corpus of models/training carry no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from neuroscope import Client, Hook, Intervention, zero
from neuroscope.calls.dictionaries import LoadedDictionary

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "neuroscope-tiny"
OUTPUT = ROOT / "models" / "dictionaries"
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """Everything that, with the corpus and the model, fixes a dictionary."""

    name: str
    hook_name: str
    hook_name_out: str = ""
    """Of a transcoder."""
    features: int = 512
    k: int = 16
    steps: int = 4000
    batch: int = 1024
    learning_rate: float = 1e-3
    documents: int = 2000
    held_out_documents: int = 200
    seed: int = 0


RECIPES = (
    Recipe("resid_post_2", "blocks.2.hook_resid_post"),
    Recipe("mlp_1", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out", steps=2000, documents=1000),
)
_HOOKS = {
    "blocks.2.hook_resid_post": Hook("resid_post", 2),
    "blocks.1.mlp.hook_in": Hook("mlp_out", 1, is_input=True),
    "blocks.1.hook_mlp_out": Hook("mlp_contrib", 1),
}


def documents(seed: int) -> Iterator[str]:
    """Texts of the training corpus, drawn with a seed; those of one exchange in plain text or as a chat."""
    sys.path.insert(0, str(ROOT / "models"))
    from training.corpus import documents as drawn  # type: ignore[import-not-found]

    for segments in drawn(seed):
        yield "".join(segment.text for segment in segments).removeprefix("<|bos|>")  # the tokenizer puts one there


def activations(client: Client, texts: list[str], hooks: list[Hook]) -> list[Matrix]:
    """(positions, width) of each hook, all documents' positions but the first, which is an outlier of its own."""
    found: list[list[Matrix]] = [[] for _ in hooks]
    for first in range(0, len(texts), 32):
        cache = client.capture(texts[first : first + 32], hooks)
        for row in range(len(cache.token_ids)):
            of_row = cache.row(row)
            for held, hook in zip(found, hooks, strict=True):
                name = f"{hook.component}.{hook.layer}{'.input' if hook.is_input else ''}"
                held.append(of_row[name][0, 1:].astype(np.float32))
    return [np.concatenate(held) for held in found]


def trained(recipe: Recipe, inputs: Matrix, targets: Matrix) -> tuple[dict[str, Matrix], float]:
    """The tensors of a dictionary, and the mean squared error of the last steps as a share of the variance."""
    mx.random.seed(recipe.seed)
    draw = np.random.default_rng(recipe.seed)
    d_in, d_out, is_transcoder = inputs.shape[1], targets.shape[1], bool(recipe.hook_name_out)
    decoder = mx.random.normal((recipe.features, d_out))
    decoder = decoder / mx.linalg.norm(decoder, axis=1, keepdims=True)
    encoder = mx.random.normal((d_in, recipe.features)) / d_in**0.5 if is_transcoder else mx.array(decoder.T)
    parameters = {
        "W_enc": encoder,
        "b_enc": mx.zeros(recipe.features),
        "W_dec": decoder,
        "b_dec": mx.array(targets.mean(axis=0)),
    }
    variance = float(targets.var(axis=0).sum())
    scale = float(np.sqrt((inputs**2).sum(axis=1).mean() / d_in))

    def encoded(p: dict[str, mx.array], x: mx.array) -> mx.array:
        centred = x if is_transcoder else x - p["b_dec"]
        return mx.maximum(centred @ p["W_enc"] + p["b_enc"], 0)

    def loss(p: dict[str, mx.array], x: mx.array, y: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        z = encoded(p, x)
        kept = x.shape[0] * recipe.k
        threshold = -mx.partition(-mx.stop_gradient(z).reshape(-1), kept - 1)[kept - 1]
        features = mx.where(z >= threshold, z, 0)
        missed = y - features @ p["W_dec"] - p["b_dec"]
        return mx.square(missed).sum(axis=-1).mean() / variance, threshold, (features > 0).any(axis=0)

    taken: Any = mx.value_and_grad(loss)
    adam = optim.Adam(learning_rate=recipe.learning_rate * min(scale, 1.0))
    threshold, smoothed = 0.0, 1.0
    idle = np.zeros(recipe.features, np.int64)
    for step in range(recipe.steps):
        if step > 0.8 * recipe.steps:
            adam.learning_rate = recipe.learning_rate * min(scale, 1.0) * (recipe.steps - step) / (0.2 * recipe.steps)
        rows = draw.integers(len(inputs), size=recipe.batch)
        x, y = mx.array(inputs[rows]), mx.array(targets[rows])
        (value, chosen, fired), gradients = taken(parameters, x, y)
        parameters = adam.apply_gradients(gradients, parameters)
        norms = mx.linalg.norm(parameters["W_dec"], axis=1, keepdims=True)
        parameters["W_dec"] = parameters["W_dec"] / norms
        mx.eval(parameters, adam.state, value, chosen, fired)
        threshold = float(chosen.item()) if not step else 0.99 * threshold + 0.01 * float(chosen.item())
        smoothed = 0.99 * smoothed + 0.01 * float(value.item())
        idle = np.where(np.array(fired), 0, idle + 1)
        if step % 500 == 499:
            dead = np.flatnonzero(idle >= 400)
            if dead.size and step < 0.7 * recipe.steps:
                missed = y - _decoded(parameters, encoded, x, threshold)
                parameters = _revived(parameters, dead, np.array(x), np.array(missed))
                idle[dead] = 0
            print(f"{recipe.name} step {step + 1:5d}  unexplained {smoothed:.4f}  dead {dead.size}", flush=True)
    tensors = {name: np.array(value, np.float32) for name, value in parameters.items()}
    tensors["threshold"] = np.full(recipe.features, threshold, np.float32)
    return tensors, smoothed


def _decoded(p: dict[str, mx.array], encoded: Any, x: mx.array, threshold: float) -> mx.array:
    z = encoded(p, x)
    return mx.where(z > threshold, z, 0) @ p["W_dec"] + p["b_dec"]


def _revived(p: dict[str, mx.array], dead: NDArray[np.intp], x: Matrix, missed: Matrix) -> dict[str, mx.array]:
    """Features that never fire look for what is missed most."""
    worst = np.argsort(-(missed**2).sum(axis=1))[: dead.size]
    dead = dead[: worst.size]
    tensors = {name: np.array(value) for name, value in p.items()}
    directions = missed[worst] / np.linalg.norm(missed[worst], axis=1, keepdims=True)
    tensors["W_dec"][dead] = directions
    seen = x[worst] - x.mean(axis=0)
    tensors["W_enc"][:, dead] = (seen / np.linalg.norm(seen, axis=1, keepdims=True)).T
    tensors["b_enc"][dead] = 0
    return {name: mx.array(value) for name, value in tensors.items()}


def configuration(recipe: Recipe, tensors: dict[str, Matrix]) -> dict[str, Any]:
    """cfg.json as SAELens 6 writes it."""
    d_in, d_sae = tensors["W_enc"].shape
    is_transcoder = bool(recipe.hook_name_out)
    metadata = {"model_name": MODEL.name, "hook_name": recipe.hook_name, "prepend_bos": True}
    return {
        "architecture": "jumprelu_transcoder" if is_transcoder else "jumprelu",
        "d_in": d_in,
        "d_sae": d_sae,
        **({"d_out": tensors["W_dec"].shape[1]} if is_transcoder else {}),
        "dtype": "float32",
        "apply_b_dec_to_input": not is_transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata | ({"hook_name_out": recipe.hook_name_out} if is_transcoder else {}),
    }


def measured(client: Client, dictionary: LoadedDictionary, texts: list[str]) -> dict[str, Any]:
    """L0, unexplained variance and recovered loss on documents, of all positions but the first.

    Recovered is the share of the loss that zeros in the site's place cost and the reconstruction does not.
    """
    output, where = dictionary.output, slice(1, None)
    hooks = [
        dictionary.hook(all=True, l0=True, error=True, positions=where),
        Hook(output.component, output.layer, is_input=output.is_input, hook_id="target", positions=where),
    ]
    seen: dict[str, list[Any]] = {}
    for text in texts:
        cache = client.capture(text, hooks)
        for name in ("features", "features_l0", "features_squared_error"):
            seen.setdefault(name, []).append(cache[f"{dictionary.point}:{name}"][0].astype(np.float64))
        seen.setdefault("target", []).append(cache["target"][0].astype(np.float64))
    found = {name: np.concatenate(held) for name, held in seen.items()}
    centred = found["target"] - found["target"].mean(axis=0)
    edits = {
        "clean": [],
        "reconstructed": [dictionary.reconstruct(positions=where)],
        "zeroed": [zero(str(output), positions=where)],
    }
    losses = {name: mean_loss(client, texts, of_name) for name, of_name in edits.items()}
    recovered = (losses["zeroed"] - losses["reconstructed"]) / (losses["zeroed"] - losses["clean"])
    return {
        "documents": len(texts),
        "positions": len(found["target"]),
        "l0": round(float(found["features_l0"].mean()), 2),
        "fvu": round(float(found["features_squared_error"].sum() / np.square(centred).sum()), 4),
        "loss_recovered": round(recovered, 4),
        **{f"loss_{name}": round(value, 4) for name, value in losses.items()},
        "features_that_fire": int((found["features"] > 0).any(axis=0).sum()),
    }


def mean_loss(client: Client, texts: list[str], edits: list[Intervention]) -> float:
    """Cross-entropy of next tokens, nats, over all positions of all documents."""
    losses: list[NDArray[np.float64]] = []
    for text in texts:
        cache = client.capture(text, ["logits"], interventions=edits)
        logits, ids = cache["logits"][0].astype(np.float64), np.array(cache.token_ids[0])
        highest = logits.max(axis=-1, keepdims=True)
        logs = logits - highest - np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True))
        losses.append(-logs[np.arange(len(ids) - 1), ids[1:]])
    return float(np.concatenate(losses).mean())


def main() -> None:
    """Trains those that are named, or all, saves them in SAELens' layout, and measures them."""
    names = sys.argv[1:] or [recipe.name for recipe in RECIPES]
    with Client.local(model=[str(MODEL)]) as client:
        for recipe in (recipe for recipe in RECIPES if recipe.name in names):
            started = time.perf_counter()
            texts = list(islice(documents(recipe.seed + 1000), recipe.documents))
            hooks = [_HOOKS[recipe.hook_name]] + ([_HOOKS[recipe.hook_name_out]] if recipe.hook_name_out else [])
            captured = activations(client, texts, hooks)
            tensors, unexplained = trained(recipe, captured[0], captured[-1])
            folder = OUTPUT / recipe.name
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / "sae_weights.safetensors")
            _write(folder / "cfg.json", configuration(recipe, tensors))
            dictionary = client.dictionaries.load(folder)
            held_out = list(islice(documents(recipe.seed + 2000), recipe.held_out_documents))
            record = {
                "recipe": asdict(recipe),
                "positions": len(captured[0]),
                "seconds": round(time.perf_counter() - started, 1),
                "unexplained_in_training": round(unexplained, 4),
                "held_out": measured(client, dictionary, held_out),
            }
            _write(folder / "training.json", record)
            print(json.dumps(record["held_out"]), flush=True)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
