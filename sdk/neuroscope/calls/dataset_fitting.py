"""Datasets that fit a model's tokenizer, as call flows for both clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from neuroscope.base_client.call import CallFlow
from neuroscope.datasets.dataset import Dataset, read_examples
from neuroscope.datasets.example import Example, Pair, Text
from neuroscope.datasets.fitting import DEFAULT_COUNT, DatasetLike, TokenizerMismatch, answers, pair
from neuroscope.datasets.named import NAMED
from neuroscope.datasets.vocabulary import ExampleGenerator, NamedDataset, Vocabulary
from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary.model_info import Tokens

Tokenizer: TypeAlias = "Callable[[Sequence[Text], bool | None], CallFlow[list[Tokens]]]"
"""Tokenizes several prompts."""
Describe: TypeAlias = "Callable[[], CallFlow[inference_pb2.Model]]"
"""Describes the model."""
_FILES = (".jsonl", ".ndjson", ".json")
_DRAWS = 8
"""Maximum number of drawn examples per requested pair."""


@dataclass(slots=True)
class _Kept:
    pairs: list[Pair] = field(default_factory=list[Pair])
    dropped: Counter[str] = field(default_factory=Counter[str])
    example: str = ""
    """Why the last example was left out."""


def dataset(
    tokenize: Tokenizer,
    describe: Describe,
    wanted: DatasetLike,
    *,
    count: int | None,
    seed: int,
    bos: bool | None,
    drop: bool,
) -> CallFlow[Dataset]:
    """The result of the clients' `dataset`.

    Raises:
        InvalidRequestError: as `named` and `own`, or the file cannot be read.
    """
    if isinstance(wanted, Dataset):
        return wanted if count is None else wanted[:count]
    if isinstance(wanted, str) and wanted not in NAMED and not wanted.endswith(_FILES):
        close = nearest(wanted, NAMED)
        raise InvalidRequestError(
            f"unknown dataset {wanted!r} (files end with .jsonl); nearest: {', '.join(close)}",
            field="dataset",
            valid=close,
        )
    if count is not None and count < 1:
        raise InvalidRequestError(f"a dataset needs at least one pair, not {count}", field="count")
    if isinstance(wanted, str) and wanted in NAMED:
        return (yield from _named(tokenize, describe, NAMED[wanted], count or DEFAULT_COUNT, seed, bos))
    if isinstance(wanted, str | Path):
        examples, name = read_examples(wanted), Path(wanted).stem
    else:
        examples, name = [_example(each, f"dataset[{index}]") for index, each in enumerate(wanted)], ""
    return (yield from _own(tokenize, examples[:count], bos, drop, name))


def _example(value: Example | Mapping[str, Any], field: str) -> Example:
    return value if isinstance(value, Example) else Example.from_json(value, field)


def _named(
    tokenize: Tokenizer, describe: Describe, chosen: NamedDataset, count: int, seed: int, bos: bool | None
) -> CallFlow[Dataset]:
    """A named dataset."""
    vocabulary = yield from _vocabulary(tokenize, describe, chosen)
    kept = _Kept()
    for form in chosen.forms:
        kept = yield from _drawn(tokenize, form, chosen, vocabulary, count, seed, bos)
        if kept.pairs:
            break
    if not kept.pairs:
        raise InvalidRequestError(
            f"no pair of the dataset {chosen.name} fits this model's tokenizer: {_told(kept.dropped)}"
            + (f"; for example {kept.example}" if kept.example else ""),
            field="dataset",
        )
    return Dataset(
        kept.pairs, name=chosen.name, seed=seed, dropped=kept.dropped, bos=bos, description=chosen.description
    )


def _own(
    tokenize: Tokenizer, examples: Sequence[Example], bos: bool | None, drop: bool, name: str
) -> CallFlow[Dataset]:
    """A dataset of the user's examples. Examples that do not fit are errors, or are left out."""
    if not examples:
        raise InvalidRequestError("the dataset is empty", field="dataset")
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    last = ""
    for index, found in enumerate((yield from _fitted(tokenize, examples, bos))):
        if isinstance(found, Pair):
            pairs.append(found)
        elif not drop:
            raise InvalidRequestError(f"pair {index}: {found.message}", field=f"dataset[{index}].{found.part}")
        else:
            dropped[found.reason] += 1
            last = found.message
    if not pairs:
        raise InvalidRequestError(f"no pair fits this model's tokenizer: {_told(dropped)}; {last}", field="dataset")
    return Dataset(pairs, name=name, dropped=dropped, bos=bos)


def _vocabulary(tokenize: Tokenizer, describe: Describe, chosen: NamedDataset) -> CallFlow[Vocabulary]:
    """The dataset's words that are single tokens, and the model's ids."""
    model = yield from describe()
    texts = [" ".join(words) for words in chosen.words.values()]
    whole: dict[str, list[str]] = {}
    if texts:
        read = yield from tokenize(texts, False)
        for (kind, words), tokens in zip(chosen.words.items(), read, strict=True):
            pieces = {piece.strip() for piece in tokens.tokens}
            whole[kind] = [word for word in words if word in pieces]
            if len(whole[kind]) < chosen.fewest_words:
                raise InvalidRequestError(
                    f"the dataset {chosen.name} needs {chosen.fewest_words} {kind} that are single tokens, and this "
                    f"model's tokenizer has {len(whole[kind])} of its {len(words)}",
                    field="dataset",
                )
    special = {*model.eos_token_ids, *([model.bos_token_id] if model.HasField("bos_token_id") else ())}
    bos_id = model.bos_token_id if model.HasField("bos_token_id") else None
    return Vocabulary(whole, [each for each in range(model.vocab_size) if each not in special], bos_id)


def _drawn(
    tokenize: Tokenizer,
    generator: ExampleGenerator,
    chosen: NamedDataset,
    vocabulary: Vocabulary,
    count: int,
    seed: int,
    bos: bool | None,
) -> CallFlow[_Kept]:
    kept = _Kept()
    drawn = _different(generator(Random(f"{chosen.name} {seed}"), vocabulary), count * _DRAWS)
    while len(kept.pairs) < count:
        batch = [example for example, _ in zip(drawn, range(count - len(kept.pairs)), strict=False)]
        if not batch:
            break
        for found in (yield from _fitted(tokenize, batch, bos, chosen.most_tokens_per_word)):
            if isinstance(found, Pair):
                kept.pairs.append(found)
            else:
                kept.dropped[found.reason] += 1
                kept.example = found.message
    return kept


def _different(examples: Iterator[Example], most: int) -> Iterator[Example]:
    """Distinct examples among the draws."""
    seen: set[Example] = set()
    for example, _ in zip(examples, range(most), strict=False):
        if example not in seen:
            seen.add(example)
            yield example


def _fitted(
    tokenize: Tokenizer, examples: Sequence[Example], bos: bool | None, most_tokens_per_word: float = 0.0
) -> CallFlow[list[Pair | TokenizerMismatch]]:
    """Each example as a pair, or why it does not fit."""
    texts: dict[tuple[Text, str], None] = {}
    for example in examples:
        texts |= dict.fromkeys([(example.clean, ""), (example.corrupted, ""), *answers(example)])
    asked = list(texts)
    joined = [text + answer if isinstance(text, str) else text for text, answer in asked]
    read = yield from tokenize(joined, bos)
    known = dict(zip(asked, read, strict=True))
    found: list[Pair | TokenizerMismatch] = []
    for example in examples:
        try:
            found.append(pair(example, known, most_tokens_per_word))
        except TokenizerMismatch as misfit:
            found.append(misfit)
    return found


def _told(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there are none"
