"""The commands: where each is, and its line in `neuroscope --help`, which imports none of them."""

from __future__ import annotations

import importlib
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand

SERVICES, INSPECTION = "Services", "Inspection"


class LazyCommand(TyperCommand):
    """A command, or a group of commands, whose module is imported when it is called.

    Args:
        panel: its box in the help.
        name: on the command line.
        line: of a command the first line of its function's docstring, of a group its whole help.
        place: `module:function`, or `module:app` of a group, in `neuroscope.cli`; empty: both have the command's name.
    """

    def __init__(self, panel: str, name: str, line: str, place: str = "") -> None:
        super().__init__(name, help=line, rich_help_panel=panel)
        self.place = place or f"{name}:{name}"

    @cached_property
    def loaded(self) -> Any:
        """The command itself."""
        module, _, name = self.place.partition(":")
        found = getattr(importlib.import_module(f"neuroscope.cli.{module}"), name)
        parent = typer.Typer()
        if isinstance(found, typer.Typer):
            parent.add_typer(found, name=self.name, help=self.help)
        else:
            parent.command(self.name)(found)
        return typer.main.get_group(parent).commands[self.name or ""]

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.loaded.make_context(info_name, args, parent, **extra)


COMMANDS = (
    LazyCommand(
        SERVICES,
        "up",
        "Starts inference, analysis and the gateway, restarts what dies, and stops all of them on Ctrl-C.",
    ),
    LazyCommand(
        SERVICES,
        "doctor",
        "Checks this machine, the installation and the services; exit code 1 if something essential is broken.",
    ),
    LazyCommand(SERVICES, "models", "Fetches, lists, loads and frees models.", "models:app"),
    LazyCommand(INSPECTION, "hooks", "Shows a model's hook points by layer, and why the others are not there."),
    LazyCommand(
        INSPECTION,
        "generate",
        "Generates text; with hooks, shows for each token what was captured while it was computed; with edits, edited.",
    ),
    LazyCommand(INSPECTION, "capture", "Runs a prompt once and shows, or saves, what was captured."),
    LazyCommand(INSPECTION, "lens", "Shows what each layer would predict if it were the last one (the logit lens)."),
    LazyCommand(
        INSPECTION, "sweep", "Patches or ablates every layer, head and position, and shows what each does to a metric."
    ),
    LazyCommand(
        INSPECTION,
        "attribute",
        "Scores heads, MLPs, edges or inputs by the gradient of a metric, in the time of a few forward passes.",
    ),
    LazyCommand(INSPECTION, "weights", "Shows the model's weights by name, oriented as x @ W, and saves them."),
    LazyCommand(
        INSPECTION,
        "project",
        "Shows which tokens vectors of a file predict, through the model's own final norm and unembedding.",
        "weights:project",
    ),
    LazyCommand(
        INSPECTION,
        "demo",
        "Starts the services, answers a question over gRPC and REST with every layer captured, and compares both.",
        "demo.demo:demo",
    ),
    LazyCommand(
        INSPECTION, "directions", "Directions between two sets of prompts: finds them, shows them.", "directions:app"
    ),
    LazyCommand(
        INSPECTION,
        "dictionaries",
        "Sparse autoencoders and transcoders in SAELens' layout: loads them, shows which features are active and why.",
        "dictionaries:app",
    ),
    LazyCommand(
        INSPECTION, "analyze", "Interprets a model: attention heads, circuits, the residual stream.", "analyze:app"
    ),
    LazyCommand(
        INSPECTION,
        "circuit",
        "Circuits in files: shows, exports and compares them; and the graph that they are parts of.",
        "circuits:app",
    ),
)
