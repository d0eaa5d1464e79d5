"""Options that several commands have. One option means one thing in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TARGET_VARIABLE = "NEUROSCOPE_TARGET"
ANALYSIS_TARGET_VARIABLE = "NEUROSCOPE_ANALYSIS_TARGET"

TargetOption = Annotated[
    str | None, typer.Option("--target", metavar="HOST:PORT", help=f"Inference service.  [env: {TARGET_VARIABLE}]")
]
AnalysisTargetOption = Annotated[
    str | None,
    typer.Option("--target", metavar="HOST:PORT", help=f"Analysis service.  [env: {ANALYSIS_TARGET_VARIABLE}]"),
]
LocalOption = Annotated[bool, typer.Option("--local", help="Runs the engine in this process instead of a service.")]
TraceOption = Annotated[
    Path | None, typer.Option("--trace", metavar="FILE", help="Writes a trace: FILE for Perfetto, and FILE.html.")
]
TokenOption = Annotated[
    str,
    typer.Option("--token", envvar="NEUROSCOPE_TOKEN", metavar="TOKEN", help="Token that the service asks for."),
]
TlsOption = Annotated[bool, typer.Option("--tls", envvar="NEUROSCOPE_TLS", help="Encrypts the connection.")]
TlsCaOption = Annotated[
    str,
    typer.Option(
        "--tls-ca",
        envvar="NEUROSCOPE_TLS_CA",
        metavar="FILE",
        help="Certificates that the service's must descend from, PEM.",
    ),
]
TlsCertificateOption = Annotated[
    str,
    typer.Option(
        "--tls-certificate",
        envvar="NEUROSCOPE_TLS_CERTIFICATE",
        metavar="FILE",
        help="Your certificate, for services that ask for one.",
    ),
]
TlsKeyOption = Annotated[
    str, typer.Option("--tls-key", envvar="NEUROSCOPE_TLS_KEY", metavar="FILE", help="Its private key.")
]
ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", metavar="MODEL", help="Id of a loaded model; with --local a folder, hub id or name."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of the random sequences that heads are tried on.")]
SequencesOption = Annotated[int, typer.Option(min=0, help="How many of them; 0: 16.")]
PairsOption = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        metavar="FILE.jsonl",
        help="Pairs of prompts, a line for each: {clean, corrupted, answer, other}.",
    ),
]
