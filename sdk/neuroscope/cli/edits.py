"""Edits as they are written on a command line and in files.

zero mlp_out.3
zero head_output.2 heads=3,7
scale attn_out.3 0.5 positions=2: steps=0
add resid_post.5 direction.safetensors:name 4.0
clamp_feature sae 7,9 5.0 positions=-1
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from neuroscope.directions import Directions
from neuroscope.errors import InvalidRequestError, MLXIntegrationError, nearest
from neuroscope.interventions import Intervention, add, edit, replace, scale, to_messages, zero
from neuroscope.interventions.expressions import TensorLike, noise
from neuroscope.v1 import intervention_pb2
from neuroscope.wire import safetensors_file

EDIT_HELP = (
    "What to edit; repeat it. ACTION SITE with what the action needs: zero mlp_out.3, scale attn_out.3 0.5,"
    " add resid_post.5 FILE.safetensors:NAME 4.0, replace SITE FILE, project_out SITE FILE, mean SITE FILE,"
    " clamp SITE -1 1, noise SITE 0.1 SEED, clamp_feature DICTIONARY 7,9 5.0 (also scale_feature, add_feature;"
    " ablate_feature DICTIONARY 7; reconstruct DICTIONARY); then heads=3,7 positions=2: steps=0 rows=0. A FILE is"
    " .safetensors or .npy, id:ID an uploaded tensor. Or a JSON object."
)
EDITS_HELP = "A JSON file with a list of interventions, in the REST form or as Intervention.to_json gives them."
_SELECTORS = ("heads", "positions", "steps", "rows")
_UNBOUNDED = ("inf", "-inf", "none")


def parse_edits(values: Sequence[str], file: Path | None = None) -> list[intervention_pb2.Intervention]:
    """The interventions of a file, then those of an option that was given several times.

    Raises:
        InvalidRequestError: one of them is malformed; `field` is its option.
    """
    return [*(_read(file) if file is not None else ()), *(parse_edit(value).message for value in values)]


def parse_edit(text: str) -> Intervention:
    """One edit.

    Raises:
        InvalidRequestError: it is malformed.
        MLXIntegrationError: as `edit`.
    """
    try:
        if text.lstrip().startswith("{"):
            return Intervention.from_json(json.loads(text))
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidRequestError(f"{text}: {error}", field="--edit") from None
    select = dict(word.split("=", 1) for word in words if word.partition("=")[0] in _SELECTORS)
    action, *operands = [word for word in words if word.partition("=")[0] not in _SELECTORS] or [""]
    if action not in _ACTIONS:
        valid = nearest(action, _ACTIONS)
        raise InvalidRequestError(f"no edit is called {action!r}; nearest: {', '.join(valid)}", field="--edit")
    operand_names, build = _ACTIONS[action]
    min_operands = sum(not name.startswith("[") for name in operand_names)
    if not min_operands <= len(operands) <= len(operand_names):
        raise InvalidRequestError(f"{text}: it is `{action} {' '.join(operand_names)}`", field="--edit")
    try:
        return build(*operands, **{name: _parse_selector(name, value) for name, value in select.items()})
    except MLXIntegrationError as error:
        _prefix_message(error, text, "--edit")
        raise


STEER_HELP = (
    "What to steer by; repeat it. FILE[:NAME] COEFFICIENT, FILE as `neuroscope directions find` writes it (without a"
    " name its best direction), then schedule=1,1,0.5,0 (factors of steps 0, 1, ...; the last one stays) or steps=1:,"
    " and positions=2: rows=0."
)


def parse_steering(values: Sequence[str]) -> list[intervention_pb2.Intervention]:
    """The interventions of --steer.

    Raises:
        InvalidRequestError: one of them is malformed.
        MLXIntegrationError: as `Directions.load` and `Direction.steer`.
    """
    return [edit.message for value in values for edit in _steer(value)]


def _steer(text: str) -> list[Intervention]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidRequestError(f"{text}: {error}", field="--steer") from None
    options = dict(word.split("=", 1) for word in words if word.partition("=")[0] in ("schedule", *_SELECTORS))
    operands = [word for word in words if word.partition("=")[0] not in ("schedule", *_SELECTORS)]
    if len(operands) != 2:
        raise InvalidRequestError(f"{text}: it is `FILE[:NAME] COEFFICIENT`", field="--steer")
    path, name = (operands[0], "") if Path(operands[0]).exists() else _split_name(operands[0])
    try:
        found = Directions.load(path)
        schedule = options.pop("schedule", None)
        factors = None if schedule is None else [_number(factor) for factor in schedule.split(",")]
        select = {key: _parse_selector(key, value) for key, value in options.items()}
        direction = found[name] if name else found.best
        return direction.steer(_number(operands[1]), schedule=factors, **select)
    except MLXIntegrationError as error:
        _prefix_message(error, text, "--steer")
        raise


def _prefix_message(error: MLXIntegrationError, text: str, option: str) -> None:
    error.message = f"{text}: {error.message}"
    error.args = (error.message,)
    error.field = option


def load_tensor(text: str) -> TensorLike:
    """The tensor of FILE.safetensors:NAME (NAME may be left out where there is one), of FILE.npy, or of id:ID.

    Raises:
        InvalidRequestError: there is no such file or tensor.
    """
    if text.startswith("id:"):
        return text.removeprefix("id:")
    path, name = (text, "") if Path(text).exists() else _split_name(text)
    try:
        if path.endswith(".npy"):
            return np.load(path, allow_pickle=False)
        arrays, _ = safetensors_file.read(Path(path).read_bytes())
    except OSError as error:
        raise InvalidRequestError(f"{path}: {error.strerror or error}", field="--edit") from None
    except (KeyError, TypeError, ValueError, IndexError):
        raise InvalidRequestError(f"{path} is neither safetensors nor .npy", field="--edit") from None
    if not name and len(arrays) == 1:
        return next(iter(arrays.values()))
    if name not in arrays:
        valid = nearest(name, arrays)
        raise InvalidRequestError(f"{path} has no tensor {name!r}; it has {', '.join(valid)}", field="--edit")
    return arrays[name]


def _split_name(text: str) -> tuple[str, str]:
    path, colon, name = text.rpartition(":")
    return (path, name) if colon else (text, "")


def _read(file: Path) -> list[intervention_pb2.Intervention]:
    try:
        listed: Any = json.loads(file.read_bytes())
    except OSError as error:
        raise InvalidRequestError(f"{file}: {error.strerror or error}", field="--edits") from None
    except ValueError as error:
        raise InvalidRequestError(f"{file} is not JSON: {error}", field="--edits") from None
    if not isinstance(listed, list):
        raise InvalidRequestError(f"{file} holds no list of interventions", field="--edits")
    return to_messages(cast("list[Mapping[str, Any]]", listed), str(file))


def _parse_selector(name: str, text: str) -> Any:
    """`3,7`, `2:`, `:-1` or `0` as the argument of `edit`."""
    try:
        if ":" in text and name in ("positions", "steps"):
            start, stop = (int(bound) if bound else None for bound in text.split(":"))
            return slice(start, stop)
        return int(text) if name == "steps" else [int(number) for number in text.split(",")]
    except ValueError:
        raise InvalidRequestError(f"{name}={text} is no {name} such as 3, 0,-1 or 2:") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidRequestError(f"{text} is no number") from None


def _zero(site: str, **select: Any) -> Intervention:
    return zero(site, **select)


def _scale(site: str, factor: str, **select: Any) -> Intervention:
    return scale(site, None, _number(factor), **select)


def _add(site: str, direction: str, coefficient: str = "1", **select: Any) -> Intervention:
    return add(site, None, load_tensor(direction), _number(coefficient), **select)


def _replace(site: str, value: str, **select: Any) -> Intervention:
    return replace(site, None, load_tensor(value), **select)


def _project_out(site: str, direction: str, **select: Any) -> Intervention:
    tensor = load_tensor(direction)
    return edit(site, lambda act: act.project_out(tensor), **select)


def _mean(site: str, reference: str, **select: Any) -> Intervention:
    tensor = load_tensor(reference)
    return edit(site, lambda act: act.mean(tensor), **select)


def _clamp(site: str, minimum: str, maximum: str, **select: Any) -> Intervention:
    low, high = (None if text in _UNBOUNDED else _number(text) for text in (minimum, maximum))
    return edit(site, lambda act: act.clamp(low, high), **select)


def _noise(site: str, standard_deviation: str, seed: str = "0", **select: Any) -> Intervention:
    drawn = noise(_number(standard_deviation), seed=int(_number(seed)))
    return edit(site, lambda act: act + drawn, **select)


def _features(change: str) -> Callable[..., Intervention]:
    """A change of features of a dictionary."""

    def build(dictionary: str, features: str, number: str = "0", **select: Any) -> Intervention:
        form = {"action": "features", "dictionary_id": dictionary, change: _number(number), **_json_form(select)}
        try:
            form["features"] = [int(feature) for feature in features.split(",")]
        except ValueError:
            raise InvalidRequestError(f"{features} are no features such as 7,9") from None
        return Intervention.from_json(form)

    return build


def _reconstruct(dictionary: str, **select: Any) -> Intervention:
    form = {"action": "features", "dictionary_id": dictionary, "reconstructs": True}
    return Intervention.from_json(form | _json_form(select))


def _json_form(select: Mapping[str, Any]) -> dict[str, Any]:
    """What is selected, as `intervention_forms` has it."""
    return {
        name: {"start": value.start or 0, "stop": value.stop} if type(value) is slice else value
        for name, value in select.items()
    }


_ACTIONS: dict[str, tuple[tuple[str, ...], Callable[..., Intervention]]] = {
    "zero": (("SITE",), _zero),
    "scale": (("SITE", "FACTOR"), _scale),
    "add": (("SITE", "FILE[:NAME]", "[COEFFICIENT]"), _add),
    "replace": (("SITE", "FILE[:NAME]"), _replace),
    "project_out": (("SITE", "FILE[:NAME]"), _project_out),
    "mean": (("SITE", "FILE[:NAME]"), _mean),
    "clamp": (("SITE", "MINIMUM", "MAXIMUM"), _clamp),
    "noise": (("SITE", "STANDARD_DEVIATION", "[SEED]"), _noise),
    "ablate_feature": (("DICTIONARY", "FEATURES"), _features("value")),
    "clamp_feature": (("DICTIONARY", "FEATURES", "VALUE"), _features("value")),
    "scale_feature": (("DICTIONARY", "FEATURES", "FACTOR"), _features("factor")),
    "add_feature": (("DICTIONARY", "FEATURES", "COEFFICIENT"), _features("added")),
    "reconstruct": (("DICTIONARY",), _reconstruct),
}
