"""The services as processes: their commands by module name. The SDK imports none of them."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Mapping, Sequence

from neuroscope.cli.processes.process import Service
from neuroscope.errors import NeuroScopeIntegrationError

INFERENCE = "neuroscope-inference"
ANALYSIS = "neuroscope-analysis"
GATEWAY = "neuroscope-gateway"
_DRAIN_S = 10.0  # the services' default
_LAST_STEPS_S = 5.0


def inference(
    models: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 50051,
    environment: Mapping[str, str] | None = None,
) -> Service:
    """The inference service.

    Args:
        models: folders or hub ids to load before it is ready.
        host: address to listen on.
        port: 0: any free one.
        environment: variables besides those of this process.

    Raises:
        NeuroScopeIntegrationError: it is not installed.
    """
    _require("neuroscope_inference", "inference")
    command = [sys.executable, "-m", "neuroscope_inference", "--host", host, "--port", str(port)]
    for model in models:
        command += ["--model", model]
    return Service(INFERENCE, command, environment or {})


def analysis(
    inference_address: str,
    *,
    host: str = "127.0.0.1",
    port: int = 50052,
    environment: Mapping[str, str] | None = None,
) -> Service:
    """The analysis service of an inference service; arguments and errors as for `inference`."""
    _require("neuroscope_analysis", "analysis")
    command = [sys.executable, "-m", "neuroscope_analysis", "--host", host, "--port", str(port)]
    return Service(ANALYSIS, [*command, "--inference", inference_address], environment or {})


def gateway(
    inference_address: str,
    *,
    analysis_address: str = "",
    host: str = "127.0.0.1",
    port: int = 8080,
    environment: Mapping[str, str] | None = None,
) -> Service:
    """The gateway of an inference service, and of an analysis service if there is one; the rest as for `inference`."""
    _require("neuroscope_gateway", "gateway")
    command = [sys.executable, "-m", "neuroscope_gateway", "--host", host, "--port", str(port)]
    command += ["--inference", inference_address]
    if analysis_address:
        command += ["--analysis", analysis_address]
    return Service(GATEWAY, command, environment or {})


def has_analysis() -> bool:
    """Whether what the analysis service needs is installed."""
    return all(importlib.util.find_spec(module) is not None for module in ("neuroscope_analysis", "scipy"))


def grace_s() -> float:
    """Grace period in seconds for services to end: the drain time of the environment, and a few seconds more."""
    try:
        return float(os.environ.get("NEUROSCOPE_INFERENCE_DRAIN_SECONDS", "")) + _LAST_STEPS_S
    except ValueError:  # it is not set, or inference refuses it
        return _DRAIN_S + _LAST_STEPS_S


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _require(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise NeuroScopeIntegrationError(
            f"the {extra} service is not installed here: pip install 'neuroscope-mlx[{extra}]'"
        )
