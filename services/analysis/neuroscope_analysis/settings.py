"""Configuration of the analysis service: environment variables, flags and defaults from one list."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from neuroscope.serving.settings import ServingSettings
from neuroscope.serving.upstream import UpstreamSettings

DEFAULT_PORT = 50052


class AnalysisSettings(UpstreamSettings, ServingSettings):
    """Analysis service of NeuroScope-MLX.

    Every field is a flag (`--port 50052`) and an environment variable (`NEUROSCOPE_ANALYSIS_PORT=50052`).
    """

    model_config = SettingsConfigDict(
        env_prefix="NEUROSCOPE_ANALYSIS_", cli_kebab_case=True, cli_prog_name="neuroscope-analysis"
    )

    port: int = Field(DEFAULT_PORT, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    chunk_budget_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1,
        description="Activations of one chunk of a prompt may take this many bytes; an analysis holds a few chunks.",
    )
    max_prompts: int = Field(256, ge=1, description="Most prompts of one request.")
