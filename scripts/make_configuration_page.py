"""Makes docs/configuration.md from the settings of the services.

python -m scripts.make_configuration_page
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_gateway.settings import GatewaySettings
from neuroscope_inference.settings import InferenceSettings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
_SERVICES: tuple[tuple[str, str, type[BaseSettings]], ...] = (
    ("Inference", "neuroscope_inference", InferenceSettings),
    ("Analysis", "neuroscope_analysis", AnalysisSettings),
    ("Gateway", "neuroscope_gateway", GatewaySettings),
)
_HEAD = """# Configuration

Made by `python -m scripts.make_configuration_page` from the settings themselves; a test holds this page to them. A flag
goes before the environment variable, which goes before the default. `python -m MODULE --help` prints the same.

Besides these, everywhere:

| variable | |
|---|---|
| `NEUROSCOPE_TARGET` | The inference service that the command line talks to, host:port. |
| `NEUROSCOPE_ANALYSIS_TARGET` | The analysis service that it talks to. |
| `NEUROSCOPE_CACHE_DIR` | Where the prepared BLAS and the verdicts of self-tests are kept. |
| `NEUROSCOPE_BLAS` | The BLAS of MLX's CPU backend on Linux: `off` for MLX's own, or the path of a library. |
| `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin | Where traces and metrics go; unset: nowhere. |
"""


def page() -> str:
    """The page as Markdown."""
    return _HEAD + "".join(_section(*service) for service in _SERVICES)


def _section(title: str, module: str, settings: type[BaseSettings]) -> str:
    prefix = settings.model_config.get("env_prefix", "")
    lines = [f"\n## {title}: `python -m {module}`\n", "| flag | variable | default | |", "|---|---|---|---|"]
    for name, field in settings.model_fields.items():
        flag = f"`--{name.replace('_', '-')}`"
        told = " ".join((field.description or "").split()).replace("|", "\\|")
        bounds = ", ".join(_bounds(field))
        lines.append(
            f"| {flag} | `{prefix}{name.upper()}` | {_default(field)} | {told}{f' ({bounds})' if bounds else ''} |"
        )
    return "\n".join(lines) + "\n"


def _bounds(field: FieldInfo) -> Iterator[str]:
    """The bounds of a number, as the settings check them."""
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    for constraint in field.metadata:
        for name, text in words.items():
            if (bound := getattr(constraint, name, None)) is not None:
                yield f"{text} {bound}"


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, list | tuple):
        value = ",".join(str(item) for item in value)  # type: ignore[reportUnknownVariableType]
    return f"`{value}`" if str(value) else "none"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
