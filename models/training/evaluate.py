"""Measures an exported model with mlx-lm.

Decoding is greedy and an answer counts only if all of it is right, the end of a turn included. Knows the exported
folder and the corpus; does not know torch.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mlx.utils import tree_flatten
from mlx_lm import batch_generate, load

from .corpus import held_out_exchanges
from .exchange import SPECIAL_TOKENS, Exchange
from .lexicon import CAPITALS
from .skills import addition, conversation, facts

CHAT_EXAMPLES = (
    "Hello!",
    "What is the capital of France?",
    "What is 27 + 45?",
    "Repeat: lamp Mary Paris dog",
    "Tell me a story about a fox.",
    "What is the meaning of life?",
)
PLAIN_EXAMPLES = (
    "When Mary and John went to the store, John gave a drink to",
    "When Mary and John went to the store, Mary gave a drink to",
    "The capital of Norway is",
    "Cairo is the capital of",
    "27 + 45 =",
    "Paris tree dog key Mary Paris tree",
)


@dataclass
class Score:
    """Right answers among cases, in all and per phrasing."""

    cases: int = 0
    correct: int = 0
    forms: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """phrasing -> (correct, cases)"""
    misses: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """(query, expected, got)"""

    @property
    def accuracy(self) -> float:
        return self.correct / self.cases


class ExportedModel:
    """A model folder opened by ``mlx_lm.load``."""

    def __init__(self, folder: Path) -> None:
        self.model, self.tokenizer = load(str(folder))[:2]

    @property
    def parameters(self) -> int:
        return sum(array.size for _, array in tree_flatten(self.model.parameters()))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def continuations(self, prompts: Sequence[list[int]], max_tokens: list[int]) -> list[list[int]]:
        """Greedy token ids after each prompt, up to ``<|end|>``, which is left out."""
        return batch_generate(
            self.model, self.tokenizer, list(prompts), max_tokens=max_tokens, return_token_ids=True
        ).token_ids

    def score(self, exchanges: Sequence[Exchange]) -> Score:
        answers = [self.encode(exchange.answer) for exchange in exchanges]
        # a chat answer must also end, so it gets room for one token more, which must not be needed
        room = [len(answer) + exchange.chat for answer, exchange in zip(answers, exchanges, strict=True)]
        got = self.continuations([self.encode(exchange.query) for exchange in exchanges], room)
        score, forms = Score(), defaultdict[str, list[bool]](list)
        for exchange, expected, ids in zip(exchanges, answers, got, strict=True):
            forms[exchange.form].append(ids == expected)
            if ids != expected:
                score.misses.append((exchange.query, exchange.answer, self.tokenizer.decode(ids)))
        score.forms = {form: (sum(right), len(right)) for form, right in sorted(forms.items())}
        score.correct = sum(correct for correct, _ in score.forms.values())
        score.cases = len(exchanges)
        return score

    def reply(self, message: str, max_tokens: int = 80) -> str:
        prompt = self.tokenizer.apply_chat_template([{"role": "user", "content": message}], add_generation_prompt=True)
        return self.tokenizer.decode(self.continuations([prompt], [max_tokens])[0])

    def continuation(self, text: str, max_tokens: int = 10) -> str:
        """Greedy text after a plain prompt, to the end of its sentence."""
        ids = self.continuations([self.tokenizer.encode(text)], [max_tokens])[0]
        head, stop, _ = self.tokenizer.decode(ids).partition(".")
        return head + stop


def test_sets() -> dict[str, tuple[str, list[Exchange]]]:
    """Name of a test -> what makes it one, and its cases."""
    rng = Random("question forms")
    sums = addition.test_pairs()
    return {
        "copying": ("random sequences of up to 12 words", held_out_exchanges("copying", 400)),
        "ioi": ("pairs of names that training keeps apart", held_out_exchanges("ioi", 400)),
        "facts": ("every pair of a fact and a phrasing that training leaves out", facts.held_out_facts()),
        "facts (all)": (
            "every fact in every phrasing",
            [facts.fact(country, form) for country in CAPITALS for form in facts.FORMS],
        ),
        "addition": (
            "every pair of numbers that training never shows, in either order, as a plain sum",
            [addition.plain_sum(a, b) for a, b in sums],
        ),
        "addition (chat)": (
            "the same pairs, each as a question of one of the forms",
            [addition.sum_question(a, b, rng.randrange(len(addition.QUESTIONS))) for a, b in sums],
        ),
        "stories": (
            "the last sentence of a story, for pairs of a name and a pet that training keeps apart",
            held_out_exchanges("stories", 200),
        ),
        "unknown": ("random questions without an answer", held_out_exchanges("conversation", 200)),
        "small talk": (
            "every greeting and question of the fixed list, all of them seen in training",
            conversation.all_small_talk(),
        ),
    }


def evaluate(folder: Path) -> dict[str, Any]:
    """What ``evaluation.json`` holds about behaviour."""
    model = ExportedModel(folder)
    results: dict[str, Any] = {}
    for name, (meaning, exchanges) in test_sets().items():
        score = model.score(exchanges)
        results[name] = {
            "cases": score.cases,
            "correct": score.correct,
            "accuracy": round(score.accuracy, 4),
            "meaning": meaning,
            "forms": {form: {"correct": correct, "cases": cases} for form, (correct, cases) in score.forms.items()},
        }
        print(f"{name:16s} {score.accuracy:7.2%} of {score.cases}", flush=True)
        for query, expected, got in score.misses[:3]:
            print(f"    {query!r}: {expected!r}, got {got!r}")
    return {
        "parameters": model.parameters,
        "weights_bytes": (folder / "model.safetensors").stat().st_size,
        "skills": results,
        "chat_examples": {message: model.reply(message) for message in CHAT_EXAMPLES},
        "plain_examples": {text: model.continuation(text) for text in PLAIN_EXAMPLES},
        "special_token_ids": {token: model.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS},
    }
