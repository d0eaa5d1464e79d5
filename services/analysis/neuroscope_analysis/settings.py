"""Settings of the analysis service: environment variables, flags and defaults."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from neuroscope_serving.inference_client import InferenceClientSettings
from neuroscope_serving.settings import ServingSettings

DEFAULT_PORT = 50052


class AnalysisSettings(InferenceClientSettings, ServingSettings):
    """Analysis service of NeuroScope-MLX.

    Every field is a flag (`--port 50052`) and an environment variable (`NEUROSCOPE_ANALYSIS_PORT=50052`).
    """

    model_config = SettingsConfigDict(
        env_prefix="NEUROSCOPE_ANALYSIS_", cli_kebab_case=True, cli_prog_name="neuroscope-analysis"
    )

    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    """Port to listen on; 0: any free port."""
    chunk_budget_bytes: Annotated[int, Field(ge=1)] = 16 * 1024 * 1024
    """Maximum activation bytes of one prompt chunk; an analysis holds a few chunks."""
    weights_budget_bytes: Annotated[int, Field(ge=0)] = 2 * 1024**3
    """Maximum weight bytes that one analysis holds; roles that need more are skipped, or refused if requested."""
    max_prompts: Annotated[int, Field(ge=1)] = 256
    """Maximum prompts of one request."""
