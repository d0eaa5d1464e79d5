"""What `import neuroscope` offers: names that are imported when they are first used, and the stub that says them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import neuroscope


def test_the_stub_has_the_same_names_from_the_same_modules():
    tree = ast.parse(Path(neuroscope.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert all(name.name == name.asname for node in imports for name in node.names)
    assert {name.name: node.module for node in imports for name in node.names} == vars(neuroscope)["_MODULES"]


def test_every_name_is_there():
    for name in neuroscope.__all__:
        assert getattr(neuroscope, name) is not None
    assert set(neuroscope.__all__) <= set(dir(neuroscope))
    assert neuroscope.Client.__module__ == "neuroscope.client"


def test_modules_need_no_import_of_their_own():
    code = "import neuroscope; print(neuroscope.errors.UnknownSiteError.code(), neuroscope.experiments.logit_diff)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("unknown_site <function logit_diff")


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'neuroscope' has no attribute 'nothing'"):
        getattr(neuroscope, "nothing")  # noqa: B009
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'neuroscope'"):
        exec("from neuroscope import nothing")
