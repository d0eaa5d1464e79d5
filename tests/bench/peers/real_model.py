"""The other libraries' numbers on SmolLM2-135M-Instruct, for tests of ours: tests/data/peers/smollm2.safetensors.

    .venv/bin/python -m tests.bench.peers.real_model      (`make bench-peers` has made the environment)

Tensors, with layers L, heads H, positions T:

    clean, corrupted, targets, repeated      token ids, as in `tests.bench.peers.fixtures`
    logits                                   (T, 1 + 32), a summary
    point.NAME                               (L, T, 1 + 4), summaries of what TransformerLens has at blocks.N.NAME
    lens_token_ids, lens_log_probabilities, head_ablation, patch, detector.KIND.MEASURE,
    component_logit_attrs, head_logit_attrs  as in `tests.bench.peers.fixtures`
    head_attribution                         (L, H) attribution patching, gradients of the corrupted run
    asked, greedy                            token ids of a chat, and the 64 likeliest ones that follow

A summary (`workers.summary`) has, for each position, the norm of all entries and some of them. Hugging Face dequantises
the GGUF file, TransformerLens computes all but the greedy text. The metadata say of which file, with which versions.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import save_file

from neuroscope.named_models.catalogue import named_model
from neuroscope.named_models.fetching import fetch
from tests.bench.peers import environment
from tests.bench.peers.fixtures import FOLDER

NAME = "smollm2"
_WORKER = "tests.bench.peers.workers.real_model"


def main() -> None:
    """Writes the fixture."""
    model = named_model(NAME)
    with TemporaryDirectory() as folder:
        numbers = Path(folder) / "numbers.npz"
        command = [environment.python(), "-m", _WORKER, str(fetch(model)), str(numbers)]
        subprocess.run(command, check=True, env={**os.environ, **environment.SETTINGS})
        with np.load(numbers) as found:
            tensors = {name: np.ascontiguousarray(array) for name, array in found.items()}
    provenance = {
        "command": "python -m tests.bench.peers.real_model",
        "computed by": "TransformerLens in float32, of the weights as Hugging Face dequantises them; nothing is drawn",
        "versions": json.dumps(environment.versions()),
        "weights": model.file_sha256,
        "file": f"{model.member} of {model.requirement}",
    }
    file = FOLDER / f"{NAME}.safetensors"
    save_file(tensors, file, metadata=provenance)
    print(file)


if __name__ == "__main__":
    main()
