"""TLS, mutual TLS and tokens, against real services; certificates are made here.

python -m pytest tests/integration/test_secured.py
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from neuroscope import AsyncClient, Client, Tls
from neuroscope.errors import InvalidRequestError, NeuroScopeIntegrationError, UnauthenticatedError
from neuroscope.wire.endpoint import Endpoint
from neuroscope_inference.__main__ import main
from tests.support import services
from tests.support.services import Service, inference_service, running
from tests.support.shell import neuroscope

TOKEN = "correct-horse_battery.staple"


@dataclass(frozen=True)
class Files:
    """PEM files of an authority, a service and a client."""

    ca: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path
    other_ca: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = trustme.CA(), trustme.CA()
    service, client = authority.issue_cert("127.0.0.1", "inference.test"), authority.issue_cert("client.test")
    found = Files(*(folder / name for name in ("ca", "cert", "key", "client-cert", "client-key", "other-ca")))
    authority.cert_pem.write_to_path(str(found.ca))
    other.cert_pem.write_to_path(str(found.other_ca))
    for issued, certificate, key in (
        (service, found.certificate, found.key),
        (client, found.client_certificate, found.client_key),
    ):
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
    return found


@pytest.fixture(scope="module")
def secured(llama_dir: Path, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """TLS on the port, a token everywhere, and a socket."""
    socket = tmp_path_factory.mktemp("socket") / "s"
    arguments = ("--tls-certificate", str(files.certificate), "--tls-key", str(files.key), "--unix-socket", str(socket))
    with inference_service(
        llama_dir, arguments=arguments, environment={"NEUROSCOPE_INFERENCE_TOKEN": TOKEN}
    ) as service:
        assert TOKEN not in service.log
        yield service


@pytest.fixture(scope="module")
def mutual(files: Files) -> Iterator[Service]:
    """Asks for a certificate in place of a token."""
    pair = ("--tls-certificate", str(files.certificate), "--tls-key", str(files.key))
    with inference_service(arguments=(*pair, "--tls-client-ca", str(files.ca))) as service:
        yield service


def test_everything_works_over_tls_with_the_token(secured: Service, files: Files) -> None:
    tls = Tls(files.ca)
    with Client(secured.target, tls=tls, token=TOKEN) as client:
        cache = client.capture([1, 2, 3], ["resid_post"], resumable=True, capture_id="a")
        assert client.resume_capture("a").checksums() == cache.checksums()
        assert client.generate([1, 2, 3], max_tokens=2).wait().usage.completion_tokens == 2
        assert client.put_tensor(np.ones(4))

    async def run() -> int:
        async with AsyncClient(secured.target, tls=tls, token=TOKEN) as client:
            return len(await client.models())

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize(
    ("token", "says"), [("", "wants a token"), ("wrong", "not this service's"), (f"{TOKEN}x", "not")]
)
def test_without_the_token_nothing_is_answered(secured: Service, files: Files, token: str, says: str) -> None:
    with Client(secured.target, tls=Tls(files.ca), token=token) as client:
        for call in (
            client.models,
            lambda: client.capture([1], ["resid_post"]),
            lambda: client.generate([1]).wait(),
            lambda: client.put_tensor(np.ones(4)),
            client.workload,
        ):
            with pytest.raises(UnauthenticatedError, match=says) as caught:
                call()
            assert caught.value.field == "authorization"
            assert caught.value.http_status == 401
            assert TOKEN not in caught.value.message


def test_a_socket_wants_the_token_too(secured: Service) -> None:
    socket = secured.log.split("listens on ")[1].split()[0]
    with Client(socket, token=TOKEN) as client:
        assert client.models()
    with Client(socket) as client, pytest.raises(UnauthenticatedError):
        client.models()


def test_health_is_open_and_reflection_is_not(secured: Service, files: Files) -> None:
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
    with grpc.secure_channel(secured.target, credentials) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflect: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.RpcError) as caught:
            next(reflect.ServerReflectionInfo(iter([request]), timeout=10))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_service_whose_certificate_does_not_convince_is_not_talked_to(secured: Service, files: Files) -> None:
    for tls in (Tls(files.other_ca), Tls(files.ca, server_name="other.test"), True):
        with (
            Client(secured.target, tls=tls, token=TOKEN) as client,
            pytest.raises(NeuroScopeIntegrationError, match="with these TLS settings"),
        ):
            client.generate([1]).wait()
    with Client(secured.target, tls=Tls(files.ca, server_name="inference.test"), token=TOKEN) as client:
        assert client.models()


def test_a_client_without_tls_is_told_of_it(secured: Service) -> None:
    with Client(secured.target) as client, pytest.raises(NeuroScopeIntegrationError, match="needs tls="):
        client.generate([1]).wait()


def test_mutual_tls_lets_in_who_has_a_certificate(mutual: Service, files: Files) -> None:
    with Client(mutual.target, tls=Tls(files.ca, files.client_certificate, files.client_key)) as client:
        assert client.models() == []
    with Client(mutual.target, tls=Tls(files.ca)) as client, pytest.raises(NeuroScopeIntegrationError):
        client.generate([1]).wait()


def test_a_token_is_not_sent_in_the_open() -> None:
    with pytest.raises(InvalidRequestError, match=r"to gpu-box\.test:50051 unencrypted") as caught:
        Client("gpu-box.test:50051", token=TOKEN)
    assert caught.value.field == "token"
    Client("gpu-box.test:50051", token=TOKEN, tls=True).close()
    Client("localhost:50051", token=TOKEN).close()
    assert TOKEN not in repr(Endpoint("localhost:1", token=TOKEN))


@pytest.mark.parametrize("token", ["a b", "ä", "a\n", "a\0"])
def test_a_token_that_no_header_carries_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequestError, match="ASCII"):
        Client("localhost:1", token=token)


def test_files_that_are_no_certificates_are_named(files: Files, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for tls, field in (
        (Tls(tmp_path / "absent"), "tls.authority"),
        (Tls(tmp_path / "text"), "tls.authority"),
        (Tls(files.ca, files.client_certificate), "tls.key"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            Client("localhost:1", tls=tls)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tls-certificate", "{ca}"], "tls_certificate and tls_key need each other"),
        (["--tls-client-ca", "{ca}"], "tls_client_ca needs tls_certificate"),
        (["--tls-certificate", "{ca}", "--tls-key", "/absent"], "/absent cannot be read"),
        (["--token-file", "/absent"], "cannot read the token file /absent"),
        (["--token-file", "{ca}", "--token", "x"], "token and token_file exclude each other"),
        (["--token", "a b"], "printable ASCII"),
    ],
)
def test_settings_that_do_not_fit_keep_the_service_from_starting(
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    """In this process: a service reads all of them before it does anything else."""
    filled = [argument.format(ca=files.ca) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["neuroscope_inference", "--port", "0", *filled])
    assert main() == 1
    assert says in capsys.readouterr().err


def test_an_address_that_others_reach_is_warned_about(files: Files, tmp_path: Path) -> None:
    with inference_service(arguments=("--host", "0.0.0.0")) as service:
        assert "anyone who can reach 0.0.0.0 can use this service" in service.log
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with inference_service(arguments=("--host", "0.0.0.0", "--token-file", str(tmp_path / "token"))) as service:
        assert "travel unencrypted" in service.log
        with Client(f"127.0.0.1:{service.port}", token=TOKEN) as client:
            assert client.models() == []


def test_the_gateway_has_a_token_and_certificates_of_its_own(secured: Service, files: Files, tmp_path: Path) -> None:
    arguments = ("--port", "0", "--inference", secured.target, "--inference-tls-ca", str(files.ca))
    (tmp_path / "token").write_text(TOKEN)
    with (
        running("neuroscope_gateway", *arguments, "--inference-token-file", str(tmp_path / "token")) as gateway,
        httpx.Client(base_url=gateway.target, timeout=60) as http,
    ):
        assert http.get("/v1/models").status_code == 200
    with running("neuroscope_gateway", *arguments) as gateway, httpx.Client(base_url=gateway.target) as http:
        answer = http.get("/v1/models")
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "inference_unauthenticated"
    started = services.spawn(
        "neuroscope_gateway", "--inference", "gpu-box:1", "--inference-token", "x", log_file=tmp_path / "log"
    )
    assert started.process.wait(60) == 2
    assert "token: the token would cross the network to gpu-box:1 unencrypted" in started.log


def test_the_command_line_takes_them_from_options_and_variables(secured: Service, files: Files) -> None:
    target = {"NEUROSCOPE_TARGET": secured.target, "COLUMNS": "300"}
    by_option = neuroscope("--token", TOKEN, "--tls-ca", str(files.ca), "models", "list", **target)
    assert by_option.exit_code == 0, by_option.stderr
    variables = {"NEUROSCOPE_TOKEN": TOKEN, "NEUROSCOPE_TLS_CA": str(files.ca), **target}
    assert neuroscope("models", "list", **variables).stdout == by_option.stdout
    refused = neuroscope("--tls-ca", str(files.ca), "models", "list", **target)
    assert refused.exit_code == 1
    assert "wants a token" in refused.stderr
    doctor = neuroscope("--tls-ca", str(files.ca), "doctor", **target)
    assert "wants a token" in doctor.stdout
    assert "--token TOKEN doctor" in doctor.stdout
