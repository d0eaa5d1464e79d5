"""What the files of deploy/ promise.  Run: python -m pytest tests/unit/test_deploy_files.py"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
METAL: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.metal.yaml").read_text())
OURS = ("inference", "analysis", "gateway", "traces")


def stages() -> dict[str, str]:
    """The instructions of each stage of the Dockerfile, by name."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_linters_have_nothing_to_say() -> None:
    lint = subprocess.run([BIN / "hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (lint.returncode, lint.stdout) == (0, "")
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    command += [DEPLOY / "compose.yaml", DEPLOY / "compose.metal.yaml"]
    schema = subprocess.run(command, capture_output=True, text=True, check=False)
    assert schema.returncode == 0, schema.stdout


def test_the_schema_finds_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("read_only: true", "readonly: true"))
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_every_image_is_pinned_to_a_version() -> None:
    base = re.search(r"^ARG NEUROSCOPE_BASE_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert base
    images = [base[1], COMPOSE["services"]["jaeger"]["image"]]
    for image in images:
        assert re.search(r":\d+\.\d+\.\d+", image), image
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {
        "${NEUROSCOPE_BASE_IMAGE}",
        "base",
        "gateway-packages",
    }
    assert base[1] in (ROOT / "docs" / "deployment.md").read_text()


def test_packages_come_from_the_locks_with_their_hashes() -> None:
    installs = re.findall(r"pip install[^&\n]*", DOCKERFILE)
    assert len(installs) == 7
    for install in installs:
        assert "--require-hashes" in install or "--no-deps --no-index" in install
    locks = set(re.findall(r"requirements/(\w+)\.txt", DOCKERFILE))
    assert locks == {"build", "inference", "analysis", "gateway"}
    for lock in locks:
        assert (ROOT / "requirements" / f"{lock}.txt").is_file()


@pytest.mark.parametrize("service", OURS)
def test_a_service_is_not_root_and_tells_its_health(service: str) -> None:
    stage = stages()[service]
    assert re.search(r"^USER 10001:10001$", stage, re.MULTILINE)
    assert "HEALTHCHECK" in stage
    assert re.search(r"^ENTRYPOINT \[", stage, re.MULTILINE), "a shell would not pass SIGTERM on"
    entry = COMPOSE["services"][service]
    assert entry["init"]
    assert entry["read_only"]
    assert entry["cap_drop"] == ["ALL"]
    assert entry["security_opt"] == ["no-new-privileges:true"]


def test_nothing_is_published_beyond_loopback() -> None:
    for service in COMPOSE["services"].values():
        assert service["ports"]
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), port


def test_there_is_no_secret() -> None:
    text = DOCKERFILE + (DEPLOY / "compose.yaml").read_text() + (DEPLOY / "compose.metal.yaml").read_text()
    assert not re.search(r"(?i)secret|password|token|api_?key", text)


def test_jaeger_is_asked_for_by_name_and_the_metal_layout_leaves_inference_out() -> None:
    assert [name for name, entry in COMPOSE["services"].items() if "profiles" in entry] == ["jaeger"]
    assert METAL["services"]["inference"]["profiles"]
    assert METAL["services"]["gateway"]["environment"]["NEUROSCOPE_GATEWAY_INFERENCE"] == "host.docker.internal:50051"
    for entry in COMPOSE["services"].values():
        assert "inference" not in entry.get("depends_on", ()), "it would start in the Metal layout too"


def test_every_variable_is_documented() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    text = (DEPLOY / "compose.yaml").read_text()
    for variable, default in re.findall(r"\$\{(\w+):-([^}]*)\}", text):
        assert f"`{variable}`" in page
        if default and not default.startswith(".."):
            assert default in page, default


def test_the_context_holds_what_the_images_copy() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert any(source == name or source.startswith(f"{name}/") for name in allowed), source
        assert (ROOT / source).exists()
