"""The other libraries' numbers on two small models, for the tests of ours: tests/data/peers/MODEL.safetensors.

    .venv/bin/python -m tests.bench.peers.fixtures        (`make bench-peers` has made the environment)

Tensors, with layers L, heads H, positions T, vocabulary V and width D:

    clean, corrupted        (T,)            token ids of two prompts
    targets                 (2,)            the two tokens whose logits' difference is a metric
    logits                  (T, V)          of the clean prompt, and so are
    resid_pre.0 ...         (T, D)          every residual point
    attention_pattern       (L, H, T, T)
    lens_token_ids          (L, T, 5)       the likeliest tokens by final norm and unembedding of resid_post
    lens_log_probabilities  (L, T, 5)
    head_ablation           (L, H)          metric at the last position with a head's output zeroed, less the plain one
    repeated                (T,)            a prompt whose second half is its first one, and of that
    detector.KIND.MEASURE   (L, H)          head_detector: previous_token, duplicate_token, induction; mul, abs
    patch                   (L, T)          metric of the corrupted prompt with the clean resid_pre at one position
    accumulated_resid       (L + 1, T, D)   the stream before the first layer, then behind each
    decompose_resid         (C, T, D)       what each component writes: embedding (and positions), attention, MLP, ...
    head_norms              (L, H, T)       norms of `stack_head_results`
    component_logit_attrs   (C,)            `logit_attrs` of the two targets' difference at the last position
    head_logit_attrs        (L, H)          the same of heads

TransformerLens computes them; logits and residual points must agree with those of nnsight and Hugging Face, patches
too. The file's metadata have where they come from: versions, command, seed, and a digest of the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from tests.bench.models import BUNDLED, model_folder
from tests.bench.peers import environment
from tests.bench.peers.agreement import TOLERANCE, DisagreementError, require_agreement
from tests.bench.peers.contestants import PEERS, contestants
from tests.bench.peers.weights import small_folder
from tests.bench.peers.workers.library import Arrays
from tests.support.compare import describe_difference

FOLDER = Path(__file__).parents[2] / "data" / "peers"
GPT2 = "gpt2"
SEED = 0
"""Of the random gpt2."""
LENS_TOKENS = 5
_CLEAN = "When Mary and John went to the store, John gave a drink to"
_CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
_TARGETS = (" Mary", " John")


def digest(folder: Path) -> str:
    """SHA-256 of the names and values of a model's weights, whatever file they are in."""
    found = hashlib.sha256()
    for name, array in sorted(load_file(folder / "model.safetensors").items()):
        found.update(name.encode())
        found.update(array.tobytes())
    return found.hexdigest()


def read(model: str) -> tuple[Arrays, dict[str, str]]:
    """A fixture and where it comes from."""
    file = FOLDER / f"{model}.safetensors"
    with safe_open(file, "numpy") as opened:
        return load_file(file), opened.metadata()


def write(model: str, folder: Path, clean: Sequence[int], corrupted: Sequence[int], targets: tuple[int, int]) -> Path:
    """Computes and writes one fixture.

    Raises:
        DisagreementError: the libraries do not agree.
    """
    first, *others = PEERS
    with contestants(folder, [first, *others]) as libraries:
        require_agreement(libraries, clean)
        found = libraries[0].arrays("observe", ids=clean)
        question = {"clean": clean, "corrupted": corrupted, "targets": targets}
        found |= libraries[0].arrays("explain", lens_tokens=LENS_TOKENS, **question)
        repeated = [*clean, *clean[1:]]
        found |= libraries[0].arrays("detect", ids=repeated)
        found |= libraries[0].arrays("attribute", clean=clean, targets=targets)
        for library in libraries[1:]:
            patched = library.ask("patch", positions=list(range(len(clean))), **question)["values"]
            if problem := describe_difference("patch", patched, found["patch"], tolerance=TOLERANCE):
                raise DisagreementError(f"{library.name} is not {first}: {problem}")
    found |= {name: np.array(ids, np.int32) for name, ids in {**question, "repeated": repeated}.items()}
    provenance = {
        "command": "python -m tests.bench.peers.fixtures",
        "computed by": f"{first}; {', '.join(others)} agree within {TOLERANCE:g} of the largest entry",
        "versions": json.dumps(environment.versions()),
        "seed": str(SEED) if model == GPT2 else "trained weights of the repository",
        "weights": digest(folder),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / f"{model}.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in found.items()}, file, metadata=provenance)
    return file


def main() -> None:
    """Writes both."""
    with TemporaryDirectory() as temporary:
        rng = np.random.default_rng(7)
        clean, corrupted = ([0, *rng.integers(5, 500, 15).tolist()] for _ in range(2))
        print(write(GPT2, small_folder(GPT2, Path(temporary) / GPT2), clean, corrupted, (5, 7)))
    with model_folder(BUNDLED) as folder:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        clean, corrupted = (tokenizer.encode(text).ids for text in (_CLEAN, _CORRUPTED))
        right, wrong = (tokenizer.encode(text, add_special_tokens=False).ids[0] for text in _TARGETS)
        print(write("neuroscope-tiny", folder, clean, corrupted, (right, wrong)))


if __name__ == "__main__":
    main()
