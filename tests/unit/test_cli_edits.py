"""neuroscope.cli.edits: edits as they are typed and as files hold them."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from neuroscope.cli.edits import load_tensor, parse_edit, parse_edits
from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.interventions import add, edit, zero


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "direction.safetensors"
    save_file({"name": np.arange(4, dtype=np.float32), "half": np.ones(4, ml_dtypes.bfloat16)}, path)
    return str(path)


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("zero mlp_out.3", "mlp_out.3 := 0"),
        ("zero mlp_out", "mlp_out := 0"),
        ("zero blocks.3.hook_resid_post steps=0", "resid_post.3[steps 0] := 0"),
        ("zero head_output.2 heads=3,7 rows=0", "head_output.2[heads 3, 7; rows 0] := 0"),
        ("scale attn_out.3 0.5 positions=2: steps=1:", "attn_out.3[positions 2:; steps 1:] := act·0.5"),
        ("scale attn_out.3 -2 positions=0,-1", "attn_out.3[positions 0, -1] := act·-2".replace("·-2", "·(-2)")),
        ("positions=:-1 scale attn_out.3 2", "attn_out.3[positions :-1] := act·2"),
        ("clamp mlp_neurons.3 -1 1", "mlp_neurons.3 := clamp(act, -1, 1)"),
        ("clamp mlp_neurons.3 none 1", "mlp_neurons.3 := clamp(act, -∞, 1)"),
        ("noise embedding 0.1", "embedding := act + noise(0.1, seed=0)"),
        ("noise embedding 0.1 7", "embedding := act + noise(0.1, seed=7)"),
        ("add resid_post.5 id:abc 4.0", "resid_post.5 := act + 4·tensor(abc)"),
        ("replace resid_post.5 id:abc", "resid_post.5 := tensor(abc)"),
        ("project_out resid_post.5 id:abc", "resid_post.5 := project_out(act, tensor(abc))"),
        ("mean resid_post.5 id:abc", "resid_post.5 := mean(tensor(abc))"),
        ('{"component": "mlp", "layer_name": "blocks.3", "action": "zero"}', "mlp_out.3 := 0"),
    ],
)
def test_what_is_typed(text: str, detail: str) -> None:
    assert repr(parse_edit(text)) == detail


def test_tensors_of_files(file: str, tmp_path: Path) -> None:
    made = parse_edit(f"add resid_post.5 {file}:name 4.0")
    assert made == add("resid_post", 5, np.arange(4, dtype=np.float32), 4.0)
    half = load_tensor(f"{file}:half")
    assert isinstance(half, np.ndarray)
    assert half.dtype == ml_dtypes.bfloat16
    np.save(tmp_path / "a b.npy", np.ones(3, np.float32))
    assert parse_edit(f"add resid_post.5 '{tmp_path}/a b.npy'") == add("resid_post", 5, np.ones(3, np.float32))
    save_file({"only": np.ones(2, np.float32)}, tmp_path / "one.safetensors")
    assert np.array_equal(load_tensor(f"{tmp_path}/one.safetensors"), [1, 1])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nearest: "),
        ("zeros mlp_out.3", "nearest: zero"),
        ("zero", "it is `zero SITE`"),
        ("zero mlp_out.3 4", "it is `zero SITE`"),
        ("scale mlp_out.3", "it is `scale SITE FACTOR`"),
        ("scale mlp_out.3 half", "half is no number"),
        ("scale mlp_out.3 nan", "nan"),
        ("zero mlp_outs.3", "nearest: mlp_out"),
        ("zero mlp_out.3 heads=1", "mlp_out has no heads"),
        ("zero mlp_out.3 positions=x", "positions=x is no positions"),
        ("zero mlp_out.3 steps=0,1", "steps=0,1 is no steps"),
        ("zero mlp_out.3 positions=1:2:3", "positions=1:2:3"),
        ("clamp mlp_out.3 2 1", "above the maximum"),
        ("noise mlp_out.3 1 -1", "noise"),
        ("add resid_post.5 /nowhere.safetensors:d", "No such file"),
        ("add resid_post.5 /nowhere", "No such file"),
        ("zero 'mlp", "quotation"),
        ("{oops", "oops"),
        ('{"component": "mlp", "action": "nothing"}', "An edit has an action"),
    ],
)
def test_what_is_no_edit(text: str, message: str) -> None:
    with pytest.raises(MLXIntegrationError, match=message) as caught:
        parse_edit(text)
    assert caught.value.http_status == 400


def test_what_is_no_tensor(file: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="has no tensor 'nam'; it has name"):
        load_tensor(f"{file}:nam")
    with pytest.raises(InvalidRequestError, match="has no tensor ''; it has"):
        load_tensor(file)
    for name in ("x.npy", "x.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(InvalidRequestError, match="neither safetensors nor"):
            load_tensor(str(tmp_path / name))


def test_files_of_edits_come_first(tmp_path: Path) -> None:
    first = edit("resid_post", 5, lambda act: act / 3)
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([first.to_json(), {"component": "mlp", "action": "zero"}]))
    assert parse_edits(["zero ln1.2"], path) == [first.message, zero("mlp").message, zero("ln1", 2).message]


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No such file"), ("{", "is not JSON"), ("{}", "no list"), ('[{"component": "mlp"}]', r"\[0\].action")],
)
def test_files_that_hold_no_edits(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidRequestError, match=message):
        parse_edits([], path)
