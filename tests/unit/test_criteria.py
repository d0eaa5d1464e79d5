"""Criteria of generated texts."""

import pytest

from neuroscope.errors import InvalidRequestError
from neuroscope.experiments import Criterion, contains, criterion

CALLS = [
    '{"name": "get_weather", "arguments": {"city": "Paris"}}',
    'Sure.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
    '[TOOL_CALLS] [{"name": "f", "arguments": {"x": [1, {"y": 2}]}}]',
    '{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}',
    '<|python_tag|>{"name": "f", "parameters": {"x": 1}}',
    '<function=get_weather>{"city": "Paris"}</function>',
    'broken { then {"name": "f", "arguments": {}}',
]
NO_CALLS = [
    "",
    "I would call get_weather(city='Paris')",
    '{"name": "Mary"}',
    '{"name": "", "arguments": {}}',
    '{"name": "f", "arguments": "Paris"}',
    '{"name": "f", "arguments": {"city": "Par',
    "<function=f>{city}</function>",
    "{" * 2000,
]


@pytest.mark.parametrize("text", CALLS)
def test_calls(text: str) -> None:
    assert criterion("function_call")(text) == 1


@pytest.mark.parametrize("text", NO_CALLS)
def test_no_calls(text: str) -> None:
    assert criterion("function_call")(text) == 0


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("json", ' {"a": [1]}\n', '{"a": 1} and more'),
        ("json", "```json\n[1, 2]\n```", "1"),
        ("contains:Mary", "to Mary.", "to mary"),
        ("contains:a:b", "a:b", "a b"),
        (r"regex:\d{2}", "it is 42", "it is 4"),
        ("refusal", "I\u2019m sorry, but I can't", "Sure, here is how one says: Sure! " * 7 + "I'm sorry"),
    ],
)
def test_named_criteria(name: str, yes: str, no: str) -> None:
    found = criterion(name)
    assert found.name == name
    assert (found(yes), found(no)) == (1, 0)


def test_functions_and_criteria_are_criteria() -> None:
    def length(text: str, tokens: object) -> float:
        return len(text) / 2

    assert criterion(length)("abc") == 1.5
    assert criterion(length).name == "length"
    assert isinstance(criterion(contains("x")), Criterion)


@pytest.mark.parametrize("wrong", ["function_cal", "contains", "contains:", "regex:(", "json:x", 3, None])
def test_what_is_none(wrong: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        criterion(wrong)  # type: ignore[arg-type]
    assert caught.value.field == "criterion"
    if wrong == "function_cal":
        assert "function_call" in str(caught.value)
