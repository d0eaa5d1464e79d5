"""The bundled model: it loads, its text round trip is exact, its card tells the truth, and it still can what it could.

pytest tests/unit/test_bundled_model.py
"""

import json
from pathlib import Path
from typing import Any

import pytest

from models.training.card import render
from models.training.corpus import held_out_exchanges
from models.training.evaluate import ExportedModel
from models.training.exchange import ASSISTANT, BOS, END, SPECIAL_TOKENS, Exchange, chat_document
from models.training.lexicon import CAPITALS, CONTENT_WORDS, COUNTRIES
from models.training.skills import addition, facts

FOLDER = Path(__file__).resolve().parents[2] / "models" / "neuroscope-tiny"
MEGABYTE = 1_000_000
TEXTS = (
    "When Mary and John went to the store, John gave a drink to Mary.",
    " leading, trailing and  double  spaces ",
    "tabs\tand\nnew\r\nlines\n\n\n  indented",
    "27 + 45 = 72. 1234567890 3.14159 -7",
    "\"Quoted\", (brackets) [and] {braces}; it's 100% - don't?!...",
    "Grüße, naïve café, Ελληνικά, Кириллица, 你好，世界, עברית, हिन्दी",
    "emoji 🎉👩‍👩‍👧 and a control \x00\x07 and a BOM \ufeff",
    "def f(x):\n    return x ** 2  # comment\n",
    "xylophoneQuartzMARY mary",
    "",
    " ",
    "\n",
)


@pytest.fixture(scope="module")
def bundled() -> ExportedModel:
    return ExportedModel(FOLDER)


@pytest.fixture(scope="module")
def evaluation() -> dict[str, Any]:
    return json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))


def test_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 4 * MEGABYTE


def test_config_spells_out_the_production_path(config: dict[str, Any]) -> None:
    assert config["model_type"] == "llama"
    assert config["num_hidden_layers"] >= 3
    assert config["num_attention_heads"] > config["num_key_value_heads"] > 1
    assert config["rope_theta"] == 10_000
    assert config["rms_norm_eps"] == 1e-5
    assert config["max_position_embeddings"] == 512


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_unchanged(bundled: ExportedModel, text: str) -> None:
    ids = bundled.encode(text)
    assert bundled.tokenizer.decode(ids) == text


def test_encoding_puts_bos_in_front(bundled: ExportedModel, config: dict[str, Any]) -> None:
    ids = bundled.tokenizer.encode("The capital of France is")
    assert ids == [config["bos_token_id"], *bundled.encode("The capital of France is")]
    assert bundled.tokenizer.decode(ids, skip_special_tokens=True) == "The capital of France is"


def test_special_tokens_are_the_first_ids(bundled: ExportedModel, config: dict[str, Any]) -> None:
    assert [bundled.encode(token) for token in SPECIAL_TOKENS] == [[index] for index in range(len(SPECIAL_TOKENS))]
    assert bundled.tokenizer.bos_token == BOS
    assert bundled.tokenizer.eos_token == END
    assert set(bundled.tokenizer.eos_token_ids) == {config["eos_token_id"]}


def test_known_words_are_one_token(bundled: ExportedModel) -> None:
    split = [word for word in CONTENT_WORDS for text in (word, " " + word) if len(bundled.encode(text)) != 1]
    assert not split


def test_digits_are_tokens_of_their_own(bundled: ExportedModel) -> None:
    assert bundled.tokenizer.convert_ids_to_tokens(bundled.encode("1234")) == ["1", "2", "3", "4"]


def test_chat_template_writes_turns(bundled: ExportedModel) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello! How can I help you?"},
        {"role": "user", "content": "Where is Paris?"},
    ]
    text = bundled.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|bos|><|system|>Be short.<|end|><|user|>Hello!<|end|><|assistant|>Hello! How can I help you?<|end|>"
        "<|user|>Where is Paris?<|end|><|assistant|>"
    )
    ids = bundled.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert ids == bundled.encode(text)


def test_chat_template_is_what_training_wrote(bundled: ExportedModel) -> None:
    exchange = Exchange("facts", "", "Where is Paris?", "Paris is a city in France.", chat=True)
    document = "".join(segment.text for segment in chat_document([exchange], "Be short."))
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": exchange.prompt},
        {"role": "assistant", "content": exchange.answer},
    ]
    assert bundled.tokenizer.apply_chat_template(messages, tokenize=False) == document


def test_chat_template_refuses_unknown_roles(bundled: ExportedModel) -> None:
    with pytest.raises(Exception, match="Unknown role tool"):
        bundled.tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_world_is_large_enough() -> None:
    assert len(COUNTRIES) >= 40
    assert len(set(CAPITALS.values())) == len(CAPITALS)


def test_sums_for_testing_are_unseen_in_either_order() -> None:
    pairs = set(addition.test_pairs())
    assert {(b, a) for a, b in pairs} == pairs
    assert 0.05 < len(pairs) / 10_000 < 0.15


@pytest.mark.parametrize(
    ("name", "bar"), [("copying", 0.95), ("ioi", 0.95), ("facts", 0.95), ("addition", 0.9), ("addition (chat)", 0.9)]
)
def test_measured_accuracy_meets_the_bar(evaluation: dict[str, Any], name: str, bar: float) -> None:
    skill = evaluation["skills"][name]
    assert skill["accuracy"] == round(skill["correct"] / skill["cases"], 4)
    assert skill["accuracy"] >= bar


def test_card_shows_the_measured_numbers(evaluation: dict[str, Any], config: dict[str, Any]) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert card == render(evaluation, config)
    for skill in evaluation["skills"].values():
        assert f"| {skill['correct']} | {skill['cases']} | {skill['accuracy']:.2%} |" in card


@pytest.mark.parametrize(("skill", "bar"), [("copying", 0.95), ("ioi", 0.95), ("addition", 0.9), ("stories", 0.9)])
def test_skill_measured_again(bundled: ExportedModel, skill: str, bar: float) -> None:
    score = bundled.score(held_out_exchanges(skill, 40, seed=1))
    assert score.accuracy >= bar, score.misses


def test_facts_measured_again(bundled: ExportedModel) -> None:
    score = bundled.score(facts.held_out_facts())
    assert score.accuracy >= 0.95, score.misses


def test_examples_of_the_card_are_reproduced(bundled: ExportedModel, evaluation: dict[str, Any]) -> None:
    assert {message: bundled.reply(message) for message in evaluation["chat_examples"]} == evaluation["chat_examples"]


def test_chat_reads_as_text(bundled: ExportedModel) -> None:
    assert bundled.reply("What is the capital of France?") == "The capital of France is Paris."
    assert bundled.reply("Hello!") == "Hello! How can I help you?"


def test_answer_comes_after_a_chat_without_template_too(bundled: ExportedModel) -> None:
    query = Exchange("facts", "", "Where is Oslo?", "", chat=True).query
    assert query.endswith(ASSISTANT)
    ids = bundled.continuations([bundled.encode(query)], [20])[0]
    assert bundled.tokenizer.decode(ids) == "Oslo is a city in Norway."
