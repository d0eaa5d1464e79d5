"""Stop texts, against a search of the whole text.

python -m pytest tests/unit/test_engine_stopping.py
"""

from hypothesis import given
from hypothesis import strategies as st

from neuroscope_inference.engine.stop_matcher import StopMatcher

# Few letters, so that beginnings of stop texts are everywhere; one of them takes more than one byte.
_TEXT = st.text("ab\né", max_size=12)
_STOPS = st.lists(st.text("ab\né", min_size=1, max_size=4), max_size=3)


def naive(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the first stop text that is completed, and whether there is one."""
    for end in range(len(text) + 1):
        found = [len(text[:end]) - len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: min(found)], True
    return text, False


@given(st.lists(_TEXT, max_size=8), _STOPS)
def test_segments_give_what_the_whole_text_gives(segments: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    output = ""
    for number, segment in enumerate(segments):
        final, stopped = matcher.feed(segment)
        output += final
        read = "".join(segments[: number + 1])
        assert read.startswith(output), "text came out that was not there"
        if stopped:
            assert any(read[len(output) :].startswith(stop) for stop in stops)
            assert not any(stop in output for stop in stops)
            assert not any(stop in "".join(segments[:number]) for stop in stops), "it stopped late"
            return
        assert not any(stop in read for stop in stops), "it did not stop"
        held = read[len(output) :]
        assert held == "" or any(stop.startswith(held) for stop in stops), "more was held back than may become a stop"
    assert output + matcher.flush() == "".join(segments)


@given(_TEXT, _STOPS)
def test_letter_by_letter_is_the_naive_search(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    output, stopped = "", False
    for letter in text:
        final, stopped = matcher.feed(letter)
        output += final
        if stopped:
            break
    assert (output if stopped else output + matcher.flush(), stopped) == naive(text, stops)


def test_nothing_is_held_back_without_stop_texts() -> None:
    matcher = StopMatcher([])
    assert matcher.feed("anything") == ("anything", False)
    assert matcher.flush() == ""
