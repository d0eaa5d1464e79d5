"""Configuration of the analysis service: environment variables, flags and defaults from one list."""

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
    """Port to listen on; 0 takes any free one."""
    chunk_budget_bytes: Annotated[int, Field(ge=1)] = 16 * 1024 * 1024
    """Activations of one chunk of a prompt may take this many bytes; an analysis holds a few chunks."""
    weights_budget_bytes: Annotated[int, Field(ge=0)] = 2 * 1024**3
    """Weights that one analysis may hold; roles that need more are left out, or refused where they are asked for."""
    max_prompts: Annotated[int, Field(ge=1)] = 256
    """Most prompts of one request."""
