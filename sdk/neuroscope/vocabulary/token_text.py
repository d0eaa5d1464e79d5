"""The text of a token, for people to look at."""

from __future__ import annotations


def visible(text: str) -> str:
    """The text with what cannot be seen made visible: a leading space ·, a line's end ⏎, a tab ⇥, nothing ∅."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥")
    if shown.startswith(" "):
        shown = "·" + shown[1:]
    return "".join(character if character.isprintable() else "�" for character in shown) or "∅"


def shortened(text: str, width: int) -> str:
    """The text, cut with … if it has more characters than `width`."""
    return text if len(text) <= width else text[: width - 1] + "…"
