"""``python -m training``: trains the bundled model, exports it, measures the export and writes its card."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .card import write_card
from .evaluate import evaluate
from .export import export, write_json
from .tokenizer import build_tokenizer
from .train import Recipe, train

BUNDLED = Path(__file__).resolve().parent.parent / "neuroscope-tiny"


def train_and_export(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The record of the training, for ``evaluation.json``."""
    tokenizer = build_tokenizer()
    trained = train(tokenizer, recipe)
    export(trained.network, tokenizer, folder)
    return asdict(recipe) | {
        "seconds": round(trained.seconds, 1),
        "final_loss": round(trained.final_loss, 4),
        "torch_version": torch.__version__.partition("+")[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--output", type=Path, default=BUNDLED, help="model folder to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="training steps")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--measure-only", action="store_true", help="measure the folder as it is, without training")
    arguments = parser.parse_args()

    results = arguments.output / "evaluation.json"
    if arguments.measure_only:
        training = json.loads(results.read_text(encoding="utf-8"))["training"]
    else:
        training = train_and_export(Recipe(steps=arguments.steps, seed=arguments.seed), arguments.output)
    evaluation = evaluate(arguments.output)
    write_json(results, {"training": training} | evaluation)
    write_card(arguments.output)


if __name__ == "__main__":
    main()
