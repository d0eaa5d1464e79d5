"""Links and paths of the documentation lead somewhere, and its commands have the options that they name.

python -m pytest tests/unit/test_docs.py
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from neuroscope.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
_FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:\.venv/bin/)?neuroscope .+")


def anchors(page: Path) -> set[str]:
    """What `#...` can name in a page, by GitHub's rules."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", page.read_text()))
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of `neuroscope` in a page's shell blocks and in its text, as far as they name options."""
    text = page.read_text()
    fenced = [line for kind, body in _FENCED.findall(text) if kind in ("bash", "sh") for line in body.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", _FENCED.sub("", text))
    for line in (*fenced, *inline):
        if _COMMAND.fullmatch(line) and " -" in line and "..." not in line:
            yield shlex.split(line, comments=True)[1:]


def unknown_options(arguments: list[str]) -> list[str]:
    """Options that the command does not have."""
    command: Any = typer.main.get_command(app)
    unknown: list[str] = []
    for word in arguments:
        if word.startswith("-"):
            flags = (flag for option in command.params for flag in (*option.opts, *option.secondary_opts))
            unknown += [word] if word not in {"--help", *flags} else []
        else:
            command = getattr(command, "commands", {}).get(word, command)
            command = getattr(command, "loaded", command)
    return unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_that_they_name(page: Path) -> None:
    for arguments in commands(page):
        assert unknown_options(arguments) == [], arguments


def test_paths_of_the_contributors_page_exist() -> None:
    paths = re.findall(r"`((?:\w+/)+[\w./]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
