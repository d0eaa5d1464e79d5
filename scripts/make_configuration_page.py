"""Makes docs/configuration.md from the settings of the services.

python -m scripts.make_configuration_page
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_gateway.settings import GatewaySettings
from neuroscope_inference.settings import InferenceSettings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
SERVICES: dict[str, type[BaseSettings]] = {
    "Inference": InferenceSettings,
    "Analysis": AnalysisSettings,
    "Gateway": GatewaySettings,
}
_HEAD = """# Configuration

Every setting is a flag and an environment variable. A flag wins over a variable, a variable over the default.
`neuroscope up` starts all services, `python -m neuroscope_inference`, `neuroscope_analysis` or `neuroscope_gateway`
starts one and prints its settings with `--help`. (`python -m scripts.make_configuration_page` makes this page.)

The command line and all services also read:

| variable | meaning |
|---|---|
| `NEUROSCOPE_TARGET`, `NEUROSCOPE_ANALYSIS_TARGET` | Addresses of the services for the command line, host:port. |
| `NEUROSCOPE_TOKEN`, `NEUROSCOPE_TLS`, ... | Token and TLS of the command line, see `neuroscope --help`. |
| `NEUROSCOPE_CACHE_DIR` | Cache folder: named models, converted GGUF files, self-test results, the prepared BLAS. |
| `NEUROSCOPE_BLAS` | BLAS of MLX's CPU backend on Linux: `off` for MLX's own, or the path of a library. |
| `OTEL_EXPORTER_OTLP_ENDPOINT`, ... | Collector of traces and metrics; unset: none. |
"""


@dataclass(slots=True)
class _Row:
    """A setting that is the same in each of some services."""

    flag: str
    default: str
    meaning: str
    services: list[str] = field(default_factory=list[str])
    variables: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        names = " ".join(f"`{name}`" for name in (self.flag, *self.variables))
        return f"| {names} | {self.default} | {self.meaning} |"


def page() -> str:
    """The page as Markdown: a table for each service, and one for what several have."""
    rows: dict[tuple[str, str, str], _Row] = {}
    for service, settings in SERVICES.items():
        prefix = settings.model_config.get("env_prefix", "")
        for name, info in settings.model_fields.items():
            setting = (f"--{name.replace('_', '-')}", _default(info), _meaning(info))
            row = rows.setdefault(setting, _Row(*setting))
            row.services.append(service)
            row.variables.append(f"{prefix}{name.upper()}")
    tables: dict[tuple[str, ...], list[_Row]] = {(service,): [] for service in SERVICES}
    for row in rows.values():
        tables.setdefault(tuple(row.services), []).append(row)
    return _HEAD + "".join(_table(" and ".join(services).capitalize(), table) for services, table in tables.items())


def _table(services: str, rows: list[_Row]) -> str:
    head = [f"\n## {services}\n", "| flag, variable | default | meaning |", "|---|---|---|"]
    return "\n".join([*head, *map(str, rows)]) + "\n"


def _meaning(info: FieldInfo) -> str:
    return " ".join((info.description or "").split()).replace("|", "\\|")


def _default(info: FieldInfo) -> str:
    value: Any = info.default
    if isinstance(value, list | tuple):
        value = ",".join(str(item) for item in value)  # type: ignore[reportUnknownVariableType]
    return f"`{value}`" if str(value) else "none"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
