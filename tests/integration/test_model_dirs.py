"""What callers may load: folders of an allow-list, and no Python of a model's own.

python -m pytest tests/integration/test_model_dirs.py
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from neuroscope import Client
from neuroscope.errors import ModelCorruptError, ModelUnsupportedError, PermissionDeniedError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import inference_pb2_grpc
from tests.support.services import Service, inference_service


@pytest.fixture(scope="module")
def places(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """inside/good, outside/secret, and links from one to the other."""
    root = tmp_path_factory.mktemp("places")
    shutil.copytree(llama_dir, root / "inside" / "good")
    shutil.copytree(llama_dir, root / "outside" / "secret")
    (root / "inside" / "link").symlink_to(root / "outside" / "secret")
    (root / "inside" / "inner-link").symlink_to(root / "inside" / "good")
    (root / "inside-not").mkdir()
    shutil.copytree(llama_dir, root / "inside-not" / "model")
    return root


@pytest.fixture(scope="module")
def service(places: Path, gpt2_dir: Path) -> Iterator[Service]:
    with inference_service(gpt2_dir, arguments=("--model-dirs", str(places / "inside"))) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.target) as opened:
        yield opened


def test_models_inside_are_loaded_and_those_of_the_settings_too(client: Client, places: Path, gpt2_dir: Path) -> None:
    assert client.load_model(places / "inside" / "good").num_layers
    assert client.load_model(f"{places}/outside/../inside/good", model_id="good").model_id == "good"
    assert client.load_model(places / "inside" / "inner-link", model_id="linked").num_layers
    assert client.load_model(gpt2_dir).model_id == "gpt2"  # loaded at the start, from elsewhere
    client.unload_model("gpt2")
    assert client.load_model(gpt2_dir).model_id == "gpt2"


@pytest.mark.parametrize(
    "path",
    [
        "{root}/outside/secret",
        "{root}/inside/../outside/secret",
        "{root}/inside/link",
        "{root}/inside-not/model",
        "{root}/outside/absent",
        "{root}",
        "/",
        "/etc/passwd",
        "~",
        ".",
        "..",
        "some/repository",
        "x" * 5000,
    ],
)
def test_paths_outside_are_denied_whether_they_exist_or_not(client: Client, places: Path, path: str) -> None:
    asked = path.format(root=places)
    with pytest.raises(PermissionDeniedError) as caught:
        client.load_model(asked)
    assert caught.value.field == "model_path"
    assert "model_dirs" in caught.value.message or len(asked) > 1000
    assert "secret'" not in caught.value.message.replace(asked, "")


def test_adapters_are_held_to_the_same(client: Client, places: Path) -> None:
    for adapter in ("/etc", f"{places}/inside/link", f"{places}/inside/../outside"):
        with pytest.raises(PermissionDeniedError) as caught:
            client.load_model(places / "inside" / "good", model_id="adapted", adapter_path=adapter)
        assert caught.value.field == "adapter_path"
    (places / "inside" / "adapter").mkdir(exist_ok=True)
    with pytest.raises(ModelCorruptError, match="adapter_config"):
        client.load_model(places / "inside" / "good", model_id="adapted", adapter_path=places / "inside" / "adapter")


def test_its_status_is_permission_denied(service: Service) -> None:
    with grpc.insecure_channel(service.target) as channel, pytest.raises(grpc.RpcError) as caught:
        list(inference_pb2_grpc.ModelServiceStub(channel).LoadModel(pb.LoadModelRequest(model_path="/etc")))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def with_code(llama_dir: Path, folder: Path, config: dict, tokenizer: dict) -> Path:
    """A model whose files name Python files, which leave a mark when they are run."""
    shutil.copytree(llama_dir, folder)
    mark = f"open({str(folder.parent / 'ran')!r}, 'w').close()\n"
    for name in ("evil.py", "tokenization_evil.py", "modeling_evil.py"):
        (folder / name).write_text(mark)
    for file, entries in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        path = folder / file
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **entries}))
    return folder


@pytest.mark.parametrize("trust", ["", "1"])
def test_no_python_of_a_models_own_is_run(llama_dir: Path, tmp_path: Path, trust: str) -> None:
    by_model = with_code(llama_dir, tmp_path / "by-model", {"model_file": "evil.py", "trust_remote_code": True}, {})
    tokenizer = {
        "tokenizer_class": "EvilTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_evil.EvilTokenizer", None]},
        "trust_remote_code": True,
    }
    by_tokenizer = with_code(llama_dir, tmp_path / "by-tokenizer", {"model_type": "llama"}, tokenizer)
    unasked = with_code(llama_dir, tmp_path / "unasked", {"auto_map": {"AutoModel": "modeling_evil.Evil"}}, {})
    environment = {"HF_HUB_TRUST_REMOTE_CODE": trust, "HF_HOME": str(tmp_path / "hf")} if trust else {}
    with inference_service(environment={**os.environ, **environment}) as service, Client(service.target) as client:
        for folder, entry in ((by_model, "model_file: 'evil.py'"), (by_tokenizer, "auto_map")):
            with pytest.raises(ModelUnsupportedError, match="Python code of its own") as caught:
                client.load_model(folder)
            assert entry in caught.value.message
            assert caught.value.field == "model_path"
        assert client.load_model(unasked).num_layers  # transformers would need that file; mlx-lm does not
    assert not (tmp_path / "ran").exists()
