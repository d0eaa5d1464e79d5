"""Links of the documentation lead somewhere, and its commands have the options that they name.

python -m pytest tests/unit/test_docs.py
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
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


def check_options(arguments: list[str]) -> None:
    """Raises click.UsageError where a command or an option does not exist."""
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command, info_name="neuroscope")
    while True:
        _, rest, _ = command.make_parser(context).parse_args(list(arguments))
        if not isinstance(command, click.Group) or not rest:
            return
        name, command, arguments = command.resolve_command(context, rest)
        context = click.Context(command, info_name=name, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_that_they_name(page: Path) -> None:
    for arguments in commands(page):
        try:
            check_options(arguments)
        except click.UsageError as error:
            pytest.fail(f"neuroscope {shlex.join(arguments)}: {error.format_message()}")
