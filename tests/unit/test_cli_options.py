"""An option means one thing in every command."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from neuroscope.cli.app import app
from neuroscope.cli.arguments import parse_numbers
from neuroscope.cli.connection import chosen_model
from neuroscope.cli.saving import Saver, pictures
from neuroscope.errors import InvalidRequestError

RESULTS = {"sweep", "attribute", "lens", "generate", "capture", "weights"}
WITHOUT_MODEL = {"up", "models list", "models load", "doctor"}


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(app)
    for name, child in getattr(command, "commands", {}).items():
        child = getattr(child, "loaded", child)
        yield " ".join((*path, name)), child
        yield from commands(child, (*path, name))


def test_a_flag_stands_for_one_option_everywhere():
    spellings: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for _, command in commands():
        for parameter in command.params:
            for flag in parameter.opts:
                if flag.startswith("-"):
                    spellings[flag].add(tuple(parameter.opts))
    assert len(spellings) > 60
    assert {flag: found for flag, found in spellings.items() if len(found) > 1} == {}


def test_every_result_is_saved_by_the_same_option():
    saves = {name: flags for name, command in commands() if (flags := _flags(command)) & {"--save"}}
    assert saves.keys() >= RESULTS
    assert not any(_flags(command) & {"--plot"} for _, command in commands())


def test_model_is_an_option_wherever_a_model_is_meant():
    for name, command in commands():
        arguments = {parameter.name for parameter in command.params if not parameter.opts[0].startswith("-")}
        if "--target" in _flags(command) and name not in WITHOUT_MODEL and not name.startswith("dictionaries "):
            assert "-m" in _flags(command), f"{name} {arguments}"


def test_an_ending_that_cannot_be_written_is_refused(tmp_path: Path):
    saver: Saver[str] = Saver({".json": lambda text, path: path.write_text(text), **pictures(lambda text, path: None)})
    saver.check([tmp_path / "a.json", tmp_path / "A.PNG"])
    with pytest.raises(InvalidRequestError, match=r"a\.jpg cannot be written: this command writes \.json, \.png"):
        saver.check([tmp_path / "a.jpg"])
    with pytest.raises(InvalidRequestError, match="there is no folder"):
        saver.check([tmp_path / "nowhere" / "a.json"])
    saver.write("{}", [tmp_path / "a.json"])
    assert (tmp_path / "a.json").read_text() == "{}"
    (tmp_path / "b.json").mkdir()
    with pytest.raises(InvalidRequestError, match=r"b\.json: Is a directory"):
        saver.write("{}", [tmp_path / "b.json"])


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", None), ("3", [3]), ("0,3,-1", [0, 3, -1]), ("4-7", [4, 5, 6, 7]), ("0, 2-3,-2", [0, 2, 3, -2])],
)
def test_lists_of_numbers(text: str, numbers: list[int] | None):
    assert parse_numbers(text, "--layers") == numbers


@pytest.mark.parametrize("text", ["a", "1,,2", "1.5", "2-", "--1", "5-4"])
def test_what_is_no_list_of_numbers_is_refused(text: str):
    with pytest.raises(InvalidRequestError, match="is not a list such as 0,3,-1 or 4-7") as caught:
        parse_numbers(text, "--heads")
    assert caught.value.field == "--heads"


def test_a_model_is_named_once():
    assert (chosen_model("a", ""), chosen_model("", "a"), chosen_model("a", "a"), chosen_model("", "")) == (
        "a",
        "a",
        "a",
        "",
    )
    with pytest.raises(InvalidRequestError, match="two models are named: a and b"):
        chosen_model("a", "b")


def _flags(command: Any) -> set[str]:
    return {flag for parameter in command.params for flag in parameter.opts}
