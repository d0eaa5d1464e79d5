"""Settings, ports and addresses.  Run: .venv/bin/python -m pytest tests/unit/test_gateway_server.py"""

import socket

import pytest

from neuroscope_gateway import server
from neuroscope_gateway.__main__ import main
from neuroscope_gateway.settings import LOOPBACK_HOSTS, LOOPBACK_ORIGINS, GatewaySettings


def test_the_defaults_are_loopback_only() -> None:
    settings = GatewaySettings()
    assert (settings.host, settings.port, settings.inference) == ("127.0.0.1", 8080, "127.0.0.1:50051")
    assert settings.allowed_hosts == LOOPBACK_HOSTS
    assert settings.allowed_origins == LOOPBACK_ORIGINS


def test_flags_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROSCOPE_GATEWAY_PORT", "9000")
    monkeypatch.setenv("NEUROSCOPE_GATEWAY_ALLOWED_ORIGINS", "http://a, http://b:*")
    settings = GatewaySettings.parse(["--allowed-hosts", "x,y", "--allowed-hosts", "z", "--max-body-bytes", "5"])
    assert (settings.port, settings.max_body_bytes) == (9000, 5)
    assert settings.allowed_origins == ("http://a", "http://b:*")
    assert settings.allowed_hosts == ("x", "y", "z")
    assert GatewaySettings.parse(["--port", "9001"]).port == 9001


def test_every_setting_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for name in GatewaySettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "x"], "port"),
        (["--port", "70000"], "port"),
        (["--inference", "nowhere"], "inference"),
        (["--max-body-bytes", "0"], "max_body_bytes"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"neuroscope-gateway: {told}: ")


def test_the_address_it_listens_on_is_a_name_of_its_own() -> None:
    assert "192.168.1.5" in GatewaySettings(host="192.168.1.5").hosts()
    assert "[fe80::1]" in GatewaySettings(host="fe80::1").hosts()
    assert GatewaySettings(host="0.0.0.0").hosts() == frozenset(LOOPBACK_HOSTS)


def test_a_taken_port_gives_the_next_free_one(caplog: pytest.LogCaptureFixture) -> None:
    with server.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with server.listen("127.0.0.1", port) as second:
            assert port < second.getsockname()[1] < port + server.PORTS_TRIED
    assert f"port {port} is taken" in caplog.text


def test_addresses_as_urls() -> None:
    with server.listen("127.0.0.1", 0) as listener:
        assert server.url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    if socket.has_ipv6:
        try:
            listener = server.listen("::1", 0)
        except OSError:
            return
        with listener:
            assert server.url(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_an_address_of_another_machine_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "192.0.2.1", "--port", "0"]) == 1
    assert "cannot listen on 192.0.2.1:0" in capsys.readouterr().err
