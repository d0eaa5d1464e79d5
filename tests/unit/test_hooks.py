"""neuroscope.vocabulary.hooks: the forms in which users write what to capture."""

import numpy as np
import pytest

from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.v1 import site_pb2, tensor_pb2
from neuroscope.v1.inference_pb2 import HookSpec
from neuroscope.v1.site_pb2 import Site
from neuroscope.vocabulary.hooks import Hook, from_rest, to_messages


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("resid_post", Site(component="resid_post")),
        ("attention_pattern.3", Site(component="attention_pattern", layer=3)),
        ("blocks.5.hook_resid_post", Site(component="blocks.5.hook_resid_post")),
        (("head_output", 3), Site(component="head_output", layer=3)),
        (("head_output", np.int64(3)), Site(component="head_output", layer=3)),
        (["head_output", -1], Site(component="head_output", layer=-1)),
        (Hook("mlp", 2, is_input=True), Site(component="mlp", layer=2, side=site_pb2.SIDE_INPUT)),
        (Hook("residual", layer_name="transformer.h.5"), Site(component="residual", layer_name="transformer.h.5")),
        ("mlp_out.3.input", Site(component="mlp_out", layer=3, side=site_pb2.SIDE_INPUT)),
    ],
)
def test_short_forms(hook, site):
    (message,) = to_messages([hook])
    assert message.site == site


def test_a_message_is_taken_as_it_is():
    message = HookSpec(hook_id="x")
    assert to_messages([message])[0] is message


def test_everything_a_hook_says_is_in_its_message():
    hook = Hook("attention_pattern", 3, hook_id="p", heads=[0, 7], positions=slice(-1, None), steps=2, dtype="float16")
    message = hook.to_message()
    assert message.hook_id == "p"
    assert list(message.select.heads) == [0, 7]
    assert message.select.positions.range.start == -1
    assert not message.select.positions.range.HasField("stop")
    assert (message.select.steps.start, message.select.steps.stop) == (2, 3)
    assert message.dtype == tensor_pb2.DATA_TYPE_FLOAT16


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (3, [3]),
        (-1, [-1]),
        ([5, 2], [5, 2]),
        (range(3), [0, 1, 2]),
        (np.array([1, 2]), [1, 2]),
    ],
)
def test_positions_one_by_one(positions, expected):
    message = Hook("resid_post", positions=positions).to_message()
    assert list(message.select.positions.list.positions) == expected


@pytest.mark.parametrize(
    ("positions", "start", "stop"),
    [(slice(2, 5), 2, 5), (slice(None, 0), 0, 0), (slice(-3, -1), -3, -1), (slice(None), 0, None)],
)
def test_ranges_of_positions(positions, start, stop):
    selected = Hook("resid_post", positions=positions).to_message().select.positions.range
    assert selected.start == start
    assert (selected.stop if selected.HasField("stop") else None) == stop


def test_all_positions_and_steps_are_no_selector():
    select = Hook("resid_post").to_message().select
    assert not select.HasField("positions")
    assert not select.HasField("steps")


@pytest.mark.parametrize(("steps", "start", "stop"), [(0, 0, 1), (slice(1, None), 1, None), (slice(None, 4), 0, 4)])
def test_steps(steps, start, stop):
    selected = Hook("resid_post", steps=steps).to_message().select.steps
    assert selected.start == start
    assert (selected.stop if selected.HasField("stop") else None) == stop


def test_a_rest_hook():
    (message,) = to_messages([{"layer_name": "transformer.h.5", "component": "attention", "hook_id": "h5"}])
    site = Site(component="attention", layer_name="transformer.h.5", side=site_pb2.SIDE_OUTPUT)
    assert message == HookSpec(hook_id="h5", site=site)


def test_a_rest_hook_of_both_sides_is_two():
    messages = from_rest({"component": "mlp", "capture_input": True, "hook_id": "m"})
    assert [message.site.side for message in messages] == [site_pb2.SIDE_INPUT, site_pb2.SIDE_OUTPUT]
    assert {message.hook_id for message in messages} == {"m"}


@pytest.mark.parametrize(
    ("hook", "field"),
    [
        ({"component": "mlp", "capture_output": False}, "hook.capture_output"),
        ({"component": "mlp", "layer": 3}, "hook.layer"),
        ({"component": 3}, "hook.component"),
        ({"component": "mlp", "layer_name": 3}, "hook.layer_name"),
        ({"component": "mlp", "hook_id": ["a"]}, "hook.hook_id"),
    ],
)
def test_rest_hooks_that_are_wrong_name_the_field(hook, field):
    with pytest.raises(InvalidRequestError) as caught:
        from_rest(hook)
    assert caught.value.field == field


@pytest.mark.parametrize("hook", [3, None, ("resid_post",), ("resid_post", "x"), (3, "resid_post"), object()])
def test_other_things_are_no_hooks(hook):
    with pytest.raises(InvalidRequestError, match="a hook is a name") as caught:
        to_messages(["resid_post", hook])
    assert caught.value.field == "hooks[1]"


@pytest.mark.parametrize(
    "hook",
    [
        Hook("resid_post", 2**40),
        Hook("resid_post", steps=-1),
        Hook("resid_post", heads=["a"]),  # pyright: ignore[reportArgumentType]
        Hook("resid_post", positions="x"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_values_that_the_contract_cannot_carry_are_mistakes_of_the_request(hook):
    with pytest.raises(InvalidRequestError) as caught:
        to_messages([hook])
    assert caught.value.field == "hooks[0]"


def test_a_name_alone_is_not_a_list():
    with pytest.raises(InvalidRequestError, match="put the name in brackets"):
        to_messages("resid_post")


def test_a_range_has_no_step():
    with pytest.raises(InvalidRequestError, match="no step"):
        Hook("resid_post", positions=slice(0, 9, 2)).to_message()


def test_unknown_dtypes_list_the_nearest():
    with pytest.raises(DataConversionError, match="bfloat16"):
        Hook("resid_post", dtype="bf16").to_message()
