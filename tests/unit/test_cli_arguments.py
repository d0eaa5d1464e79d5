"""neuroscope.cli.arguments: hooks and prompts as they are typed."""

import io

import pytest

from neuroscope.cli.arguments import conversation, parse_hooks, read_prompt
from neuroscope.errors import InvalidRequestError
from neuroscope.vocabulary.hooks import Hook, to_messages


def test_names_repeat_and_are_separated_by_commas():
    assert parse_hooks(["resid_post, mlp_out.3", "blocks.5.hook_resid_post"]) == [
        "resid_post",
        "mlp_out.3",
        "blocks.5.hook_resid_post",
    ]


def test_json_objects_are_hooks_of_either_kind():
    own, rest = parse_hooks(
        [
            '{"component": "head_output", "layer": 3, "heads": [0, 7], "positions": [-1], "dtype": "float16"}',
            '{"layer_name": "transformer.h.5", "component": "attention", "capture_input": true}',
        ]
    )
    assert own == Hook("head_output", 3, heads=[0, 7], positions=[-1], dtype="float16")
    assert len(to_messages([own, rest])) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [("{oops", "is not JSON"), ('{"layers": 3}', "a hook has no 'layers'"), ('{"layer": 3}', "needs a component")],
)
def test_what_is_no_hook(value: str, message: str):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        parse_hooks([value], "--site")
    assert caught.value.field == "--site"


def test_prompts(monkeypatch: pytest.MonkeyPatch):
    assert read_prompt("hello") == "hello"
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    assert read_prompt("-") == "from a pipe\n"
    with pytest.raises(InvalidRequestError, match="empty"):
        read_prompt("")


def test_conversations():
    assert conversation("hi") == [{"role": "user", "content": "hi"}]
    assert conversation("hi", "be brief")[0] == {"role": "system", "content": "be brief"}
