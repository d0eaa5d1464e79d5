"""The command `neuroscope` against the scripted inference service: options, output, errors, exit codes."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from neuroscope.cli.app import app
from neuroscope.cli.commands import COMMANDS, LazyCommand
from neuroscope.cli.connection import Connection
from neuroscope.errors import InvalidRequestError
from neuroscope.tracing import telemetry
from tests.support.fake_inference import Token
from tests.support.running_gateway import RunningGateway, running_gateway


@pytest.fixture(scope="module")
def gateway() -> Generator[RunningGateway]:
    with running_gateway() as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    gateway.fake.reset()
    monkeypatch.setenv("NEUROSCOPE_TARGET", gateway.inference)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.delenv("NEUROSCOPE_DEBUG", raising=False)
    import warnings

    shown = warnings.showwarning
    yield
    warnings.showwarning = shown
    telemetry.shutdown()


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(app, list(arguments), **options)


def test_help_names_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for command in ("up", "doctor", "models", "hooks", "generate", "capture", "circuit", "demo"):
        assert command in result.stdout
        assert run(command, "--help").exit_code == 0


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("neuroscope ")


def test_models_list_load_info_unload(gateway: RunningGateway):
    assert "tiny" in run("models", "list").stdout
    loaded = run("models", "load", "/models/other", "--id", "second")
    assert loaded.exit_code == 0
    assert "second: llama, 8 layers" in loaded.stdout
    assert "a == b" in loaded.stdout
    listed = json.loads(run("models", "list", "--json").stdout)
    assert [model["model_id"] for model in listed] == ["tiny", "second"]
    info = run("models", "info", "second")
    assert "/models/other" in info.stdout
    assert "logits with every point captured == plain logits" in info.stdout


def test_no_model_is_said_with_what_to_do(gateway: RunningGateway):
    gateway.fake.models.clear()
    result = run("models", "list")
    assert result.exit_code == 0
    assert "neuroscope models load" in result.stderr


def test_hooks_shows_points_and_reasons():
    result = run("hooks")
    assert result.exit_code == 0
    assert "resid_post" in result.stdout
    assert "●" in result.stdout
    assert "this model has no experts" in result.stdout
    points = json.loads(run("hooks", "--json").stdout)
    assert {"point": "router_logits.3", "available": False}.items() <= points[1].items()


def test_generate_streams_the_text_alone_to_stdout(gateway: RunningGateway):
    result = run("generate", "hi", "--max-tokens", "3")
    assert result.exit_code == 0
    assert result.stdout == "Hello!\n"
    assert "4 + 3 tokens" in result.stderr
    assert gateway.fake.requests[-1].prompts[0].chat.messages[0].content == "hi"


def test_generate_raw_system_and_sampling(gateway: RunningGateway):
    run("generate", "hi", "--raw", "--temperature", "0.5", "--top-k", "3", "--seed", "9", "--stop", "x")
    request = gateway.fake.requests[-1]
    assert request.prompts[0].text == "hi"
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.seed) == (0.5, 3, 9)
    assert list(request.sampling.stop) == ["x"]
    run("generate", "hi", "--system", "be brief")
    assert [m.role for m in gateway.fake.requests[-1].prompts[0].chat.messages] == ["system", "user"]


def test_generate_several_texts_with_penalties(gateway: RunningGateway):
    options = ("-n", "2", "--presence-penalty", "0.5", "--repetition-penalty", "1.2", "--penalty-context-size", "9")
    result = run("generate", "hi", *options, "--logit-bias", "5:-100", "--logit-bias", "7:1.5")
    assert result.stdout == "Hello!\nHello!\n"
    assert "seed 7\n" in result.stderr
    assert "seed 8\n" in result.stderr
    sampling = gateway.fake.requests[-1].sampling
    assert (sampling.rows_per_prompt, sampling.presence_penalty, sampling.repetition_penalty) == (2, 0.5, 1.2)
    assert (sampling.penalty_context_size, dict(sampling.logit_bias)) == (9, {5: -100.0, 7: 1.5})
    hooked = run("generate", "hi", "-n", "2", "--hook", "resid_post.0")
    assert hooked.stdout.count("text 1") == 3
    as_json = run("generate", "hi", "-n", "2", "--json").stdout.splitlines()
    assert [json.loads(line)["row"] for line in as_json[:-1]] == [0, 1] * 3
    assert json.loads(as_json[-1])["texts"] == ["Hello!", "Hello!"]
    assert run("generate", "hi", "--logit-bias", "five").exit_code != 0


def test_generate_with_hooks_shows_what_arrived_with_each_token(tmp_path: Path):
    file = tmp_path / "cache.safetensors"
    result = run("generate", "hi", "--hook", "resid_post,attention_pattern.2", "-o", str(file))
    assert result.exit_code == 0
    assert result.stdout.count("9 tensors") == 4  # three tokens, and the table of the cache
    assert "resid_post × 8, attention_pattern" in result.stdout
    assert "'Hel'" in result.stdout
    assert file.stat().st_size > 1000


def test_generate_json_is_one_object_a_line():
    result = run("generate", "hi", "--hook", "resid_post.1", "--json")
    *tokens, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert [token["text"] for token in tokens] == ["Hel", "lo", "!"]
    (piece,) = tokens[0]["activations"]["resid_post.1"]
    assert piece["component"] == "resid_post"
    assert piece["shape"] == [1, 4, 6]
    assert len(piece["xxh3_64"]) == 16
    assert summary["text"] == "Hello!"
    assert summary["usage"]["completion_tokens"] == 3


def test_generate_with_edits_sends_them_and_says_them(gateway: RunningGateway, tmp_path: Path):
    file = tmp_path / "edits.json"
    file.write_text('[{"layer_name": "transformer.h.5", "component": "attention", "heads": [1], "action": "zero"}]')
    result = run("generate", "hi", "--edits", str(file), "--edit", "scale mlp_out.3 0.5", "--edit", "zero ln1.2")
    assert result.exit_code == 0
    assert result.stdout == "Hello!\n"
    assert "edit: head_output.5[heads 1] := 0\nedit: mlp_out.3 := act·0.5\nedit: ln1.2 := 0\n" in result.stderr
    assert len(gateway.fake.requests[-1].interventions) == 3


def test_text_is_not_read_as_markup(gateway: RunningGateway):
    gateway.fake.script.tokens = [Token("[bold]"), Token("[/nothing]", 21)]
    assert run("generate", "hi").stdout == "[bold][/nothing]\n"
    hooked = run("generate", "hi", "--hook", "resid_post.0")
    assert hooked.exit_code == 0
    assert "[bold][/nothing]" in hooked.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "hi", "--hook", "resid_pots"], "nearest: resid_post"),
        (["generate", "hi", "--hook", "resid_post.99"], "the model has layers 0 to 7"),
        (["generate", "hi", "--hook", "{"], "is not JSON"),
        (["generate", "hi", "--edit", "zeros mlp_out.3"], "nearest: zero"),
        (["generate", "hi", "--edit", "zero mlp_out.99"], "the model has layers 0 to 7"),
        (["generate", "hi", "--edits", "/missing.json"], "No such file"),
        (["generate", "hi", "-m", "nope"], "tiny"),
        (["generate", ""], "the prompt is empty"),
        (["models", "load", "/missing"], "there is no model at /missing"),
        (["capture", "hi", "-s", "resid_post", "--target", "127.0.0.1:1"], "neuroscope up"),
        (["--local", "hooks", "--target", "127.0.0.1:1"], "exclude each other"),
    ],
)
def test_a_mistake_is_one_red_line_and_exit_code_1(arguments: list[str], message: str):
    if arguments[0] == "--local":
        arguments = ["hooks", "--local", "--target", "127.0.0.1:1"]
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


def test_a_wrong_command_line_is_exit_code_2():
    assert run("generate").exit_code == 2
    assert run("generat", "x").exit_code == 2
    assert run("generate", "x", "--top-p", "3").exit_code == 2


def test_options_before_and_after_the_command_and_the_environment(gateway: RunningGateway):
    class Context:
        obj: Any = None

    context: Any = Context()
    assert Connection.of(context).target == gateway.inference
    context.obj = Connection("a:1", trace=Path("t.json"))
    assert Connection.of(context) == Connection("a:1", trace=Path("t.json"))
    assert Connection.of(context, "b:2").target == "b:2"
    context.obj = Connection(local=True)
    assert Connection.of(context).local
    assert not Connection.of(context, "b:2").local
    with pytest.raises(InvalidRequestError):
        Connection.of(context, "b:2", local=True)


@pytest.mark.parametrize("before", [True, False])
def test_a_trace_is_written_for_any_command(tmp_path: Path, before: bool):
    file = tmp_path / "t.json"
    option = ["--trace", str(file)]
    result = run(*option, "models", "list") if before else run("models", "list", *option)
    assert result.exit_code == 0
    spans = [event for event in json.loads(file.read_text())["traceEvents"] if event["ph"] == "X"]
    assert [span["name"] for span in spans] == ["neuroscope models list", "neuroscope.models"]
    assert file.with_suffix(".html").is_file()
    assert str(file) in result.stderr.replace("\n", "")


def test_a_failing_command_leaves_a_trace_too(tmp_path: Path):
    file = tmp_path / "t.json"
    assert run("generate", "hi", "--hook", "nonsense", "--trace", str(file)).exit_code == 1
    spans = {e["name"]: e for e in json.loads(file.read_text())["traceEvents"] if e["ph"] == "X"}
    assert spans["neuroscope.generate"]["cat"] == "error"


def test_what_the_server_finds_strange_is_a_yellow_line():
    import warnings

    from neuroscope.cli.console import show_warnings_as_lines

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show_warnings_as_lines()
        with pytest.MonkeyPatch.context() as patch:
            import io
            import sys

            stream = io.StringIO()
            patch.setattr(sys, "stderr", stream)
            warnings.warn("two BOS tokens", UserWarning, stacklevel=1)
    assert stream.getvalue() == "warning: two BOS tokens\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_line_of_a_command_is_the_first_of_its_own_help(command: LazyCommand):
    assert command.loaded.name == command.name
    assert command.loaded.help.split("\n\n")[0].replace("\n", " ") == command.help
