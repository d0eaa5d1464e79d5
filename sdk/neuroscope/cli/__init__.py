"""The command `neuroscope`: one file per group of commands, `app` puts them together."""

from __future__ import annotations


def main() -> None:
    """The entry point; exits with 0, with 1 after a mistake or a failed check, with 2 if the command line is wrong."""
    from neuroscope.cli.app import app  # later than the package, so that importing the supervisor stays light

    app(prog_name="neuroscope")
