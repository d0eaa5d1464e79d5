"""Datasets: what the generators ask, and what is left out or refused.

python -m pytest tests/unit/test_datasets.py
"""

import json
import re
from collections import Counter

import pytest

from neuroscope.analysis import read_pairs
from neuroscope.calls.dataset_fitting import dataset
from neuroscope.datasets import NAMED, Dataset
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary.model_info import Tokens

_WHOLE = re.compile(r"\s?\d\d?|\s?[^\W\d]+|\s?[^\w\s]|\s")
_DIGITS = re.compile(r"\s?[^\W\d]+|\d|\s?[^\w\s]|\s")
GIVEN = {"clean": "one two", "corrupted": "one ten", "answer": " three", "other": " four"}


class Tokenizer:
    """Words are tokens, with the space before them, and so are two digits."""

    def __init__(self, pattern=_WHOLE):
        self.pattern = pattern
        self.ids: dict[str, int] = {"<bos>": 0}

    def tokenize(self, texts, bos):
        return [self.read(text) for text in texts]
        yield

    def read(self, text):
        if not isinstance(text, str):
            return Tokens(list(text), [str(each) for each in text])
        pieces = ["<bos>", *self.pattern.findall(text)]
        return Tokens([self.ids.setdefault(piece, len(self.ids)) for piece in pieces], pieces)

    def describe(self):
        return inference_pb2.Model(vocab_size=100, bos_token_id=0, eos_token_ids=[1])
        yield


def load(wanted, tokenizer=None, count=None, seed=0, drop=False):
    tokenizer = tokenizer or Tokenizer()
    steps = dataset(tokenizer.tokenize, tokenizer.describe, wanted, count=count, seed=seed, bos=None, drop=drop)
    try:
        next(steps)
    except StopIteration as end:
        return end.value
    raise AssertionError("the tokenizer has nothing to ask a service for")


@pytest.mark.parametrize("name", NAMED)
def test_every_pair_is_equally_long_and_tells_two_tokens_apart(name):
    found = load(name, count=24)
    assert len(found) == 24
    assert len({pair.example for pair in found}) == 24
    for pair in found:
        assert len(pair.clean_ids) == len(pair.corrupted_ids)
        assert pair.clean_ids != pair.corrupted_ids
        assert pair.answer_id != pair.other_id
    assert found.content_hash == load(name, count=24).content_hash
    assert found.content_hash != load(name, count=24, seed=1).content_hash
    kept = found.description_message()
    assert (kept.name, kept.pair_count, kept.content_hash) == (name, 24, found.content_hash)


def test_ioi_comes_in_both_orders_and_the_receiver_is_who_does_not_act():
    orders: Counter[str] = Counter()
    for pair in load("ioi", count=64):
        example = pair.example
        acting, receiver = example.other, example.answer
        assert example.clean.count(acting) == 2 + example.corrupted.count(acting) - 1
        assert example.clean.count(receiver) == 1
        orders["ABBA" if example.clean.find(receiver) < example.clean.find(acting) else "BABA"] += 1
    assert min(orders.values()) > 20


def test_greater_than_answers_with_a_later_year():
    for pair in load("greater-than"):
        years = re.findall(r"\d+", pair.example.clean)
        assert int(pair.example.other) < int(years[0][2:]) < int(pair.example.answer)
        assert re.search(r"year \d\d01 ", pair.example.corrupted)


def test_repeated_tokens_end_with_a_cue_whose_follower_is_the_answer():
    for pair in load("induction"):
        block = pair.clean_ids[1:13]
        assert pair.answer_id == block[block.index(pair.clean_ids[-1]) + 1]
        assert pair.other_id == block[block.index(pair.corrupted_ids[-1]) + 1]
        assert pair.clean_ids[:-1] == pair.corrupted_ids[:-1]


def test_sums_are_right_and_where_digits_are_tokens_their_first_digit_is_asked_for():
    for pair in load("arithmetic"):
        a, b = map(int, re.findall(r"\d+", pair.example.clean))
        assert int(pair.example.answer) == a + b
    in_digits = load("arithmetic", Tokenizer(_DIGITS))
    for pair in in_digits:
        a, b = map(int, re.findall(r"\d+", pair.example.clean))
        assert str(a + b)[0] == pair.example.answer
    assert in_digits.dropped["equal answers"] > 0


def test_the_user_s_own_pairs_come_from_a_file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(GIVEN) + "\n\n")
    found = load(str(path))
    assert (found.name, len(found)) == ("mine", 1)
    found.save(tmp_path / "again.jsonl")
    assert load(tmp_path / "again.jsonl").content_hash == found.content_hash


@pytest.mark.parametrize(
    ("wanted", "field", "message"),
    [
        ("iou", "dataset", "nearest: ioi"),
        ([], "dataset", "the dataset is empty"),
        ("nowhere.jsonl", "dataset", "cannot be read"),
        ([GIVEN | {"corrupted": "one ten eleven"}], "dataset[0].corrupted", "has 3 tokens and the corrupted one 4"),
        ([GIVEN, GIVEN | {"answer": " three four"}], "dataset[1].answer", "' three four' is 2 tokens.*three', '·four'"),
        ([GIVEN | {"answer": "three"}], "dataset[0].answer", "begin it with a space"),
        ([GIVEN | {"other": " three"}], "dataset[0].other", "same token"),
        ([GIVEN | {"corrupted": "one two"}], "dataset[0].corrupted", "are the same"),
        ([{"clean": "a"}], "dataset[0].corrupted", "has no 'corrupted'"),
        ([GIVEN | {"answr": "x"}], "dataset[0].answr", "nearest: answer"),
        ([GIVEN | {"answer": 1.5}], "dataset[0].answer", "text or a token id"),
        ([["a"]], "dataset[0]", "is an object"),
    ],
)
def test_a_bad_dataset_is_refused(wanted, field, message):
    with pytest.raises(InvalidRequestError, match=message) as refused:
        load(wanted)
    assert refused.value.field == field


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(InvalidRequestError, match="is empty"):
        load(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("line", "field", "message"),
    [
        ("{", "[1]", "line 2: no JSON"),
        (json.dumps(GIVEN | {"answr": "x"}), "[1].answr", "line 2: a pair has no field 'answr'; nearest: answer"),
        (json.dumps({"clean": "a"}), "[1].corrupted", "line 2: the pair has no 'corrupted'"),
    ],
)
def test_both_readers_of_pairs_name_file_line_and_field(tmp_path, line, field, message):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(GIVEN) + "\n" + line)
    for read, of in ((load, "dataset"), (read_pairs, "pairs")):
        with pytest.raises(InvalidRequestError, match=re.escape(f"{path}, {message}")) as refused:
            read(path)
        assert refused.value.field == of + field


def test_a_line_ends_where_json_says_so(tmp_path):
    odd = GIVEN | {"clean": "one two\u2028three", "corrupted": "one ten\u2028three"}
    load([odd]).save(tmp_path / "odd.jsonl")
    assert load(tmp_path / "odd.jsonl").clean == [odd["clean"]]
    assert read_pairs(tmp_path / "odd.jsonl") == [odd]


def test_what_does_not_fit_can_be_left_out_and_is_counted():
    found = load([GIVEN, GIVEN | {"answer": " three four"}, GIVEN | {"corrupted": "ten"}], drop=True)
    assert len(found) == 1
    assert found.dropped == {"answer of several tokens": 1, "unequal lengths": 1}
    with pytest.raises(InvalidRequestError, match="1 answer of several tokens"):
        load([GIVEN | {"answer": " three four"}], drop=True)


def test_a_dataset_that_no_tokenizer_fits_says_why():
    letters = Tokenizer(re.compile(r"."))
    with pytest.raises(InvalidRequestError, match=r"facts fits this model's tokenizer: .* unequal lengths"):
        load("facts", letters)
    with pytest.raises(InvalidRequestError, match="needs 3 names that are single tokens"):
        load("ioi", letters)
    with pytest.raises(InvalidRequestError, match="needs at least one pair"):
        load("ioi", count=0)


def test_a_dataset_splits_and_keeps_its_name():
    first, second = load("ioi", count=10).split(0.7)
    assert (len(first), len(second), first.name) == (7, 3, "ioi")
    assert isinstance(first, Dataset)
    with pytest.raises(InvalidRequestError, match="leaves a part empty"):
        first.split(0.0)
    metric = second.metric().message.logit_difference
    assert [choice.id for choice in metric.answers] == [pair.answer_id for pair in second]
    assert len(second.messages()) == 3
