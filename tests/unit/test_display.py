"""neuroscope.display and neuroscope.viz.presenters: every value that shows itself has a function that draws it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys

import numpy as np
import pytest

import neuroscope
from neuroscope.display import Displayable, show
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments import Scores
from neuroscope.experiments.named_scores import NamedScores
from neuroscope.labelled_array import LabelledArray
from neuroscope.viz.presenters import VIEWS, presenter_of


def displayable() -> dict[str, type[Displayable]]:
    """Every class of the SDK that shows itself, by name."""
    classes: dict[str, type[Displayable]] = {}
    for module in pkgutil.walk_packages(neuroscope.__path__, "neuroscope."):
        if not module.name.endswith("__main__"):
            for kind in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(kind) and issubclass(kind, Displayable):
                    assert classes.setdefault(kind.__name__, kind) is kind, f"two classes are called {kind.__name__}"
    return classes


def scores() -> Scores:
    one = np.ones(1, np.float32)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    coords = {"layer": [0, 1], "head": [0, 1, 2]}
    return Scores("head_output", values, ("layer", "head"), coords, "logit_difference", one, one, False, one)


def test_every_view_is_drawn_by_a_function_of_that_class():
    classes = displayable()
    for name, views in VIEWS.items():
        for view in views:
            function = presenter_of(classes[name], view)
            first = next(iter(inspect.signature(function).parameters.values()))
            assert first.annotation == name, (name, view, function)


def test_every_class_that_shows_itself_has_its_views():
    for name, kind in displayable().items():
        if inspect.isabstract(kind) or kind is Displayable:
            continue
        views = {"table", "mimebundle"}
        if hasattr(kind, "plot") and not issubclass(kind, NamedScores):  # which draw the only one of their scores
            views.add("picture")
        for view in views:
            assert callable(presenter_of(kind, view)), (name, view)


def test_a_class_has_the_views_of_its_bases():
    assert presenter_of(Scores, "table") is not presenter_of(LabelledArray, "table")
    assert presenter_of(Scores, "text") is presenter_of(LabelledArray, "text")
    with pytest.raises(LookupError, match="LabelledArray has no picture"):
        show(LabelledArray("a", np.zeros(2, np.float32), ("x",), {"x": [0, 1]}), "picture")


def test_a_notebook_shows_the_table_as_html_and_text():
    bundle = scores()._repr_mimebundle_(include=None, exclude=None)
    assert set(bundle) == {"text/plain", "text/html"}
    assert "head_output: logit_difference" in bundle["text/plain"]
    assert bundle["text/html"].startswith("<pre")


def test_without_matplotlib_a_picture_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith(("neuroscope.viz.", "matplotlib."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidRequestError, match=r"plot needs matplotlib: pip install 'neuroscope-mlx\[viz\]'"):
        scores().plot()
    assert "head_output" in scores()._repr_mimebundle_()["text/plain"]
