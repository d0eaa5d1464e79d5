"""Counts in texts for people: singular and plural."""

from neuroscope.vocabulary.counts import counted


def test_one_is_singular_and_every_other_count_plural() -> None:
    assert [counted(count, "prompt") for count in (0, 1, 2)] == ["0 prompts", "1 prompt", "2 prompts"]
