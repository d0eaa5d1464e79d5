"""Configuration of the inference service: environment variables, flags and defaults from one list."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from neuroscope_serving.settings import ServingSettings, split_names


class InferenceSettings(ServingSettings):
    """Inference service of NeuroScope-MLX.

    Every field is a flag (`--port 50051`) and an environment variable (`NEUROSCOPE_INFERENCE_PORT=50051`).
    """

    model_config = SettingsConfigDict(
        env_prefix="NEUROSCOPE_INFERENCE_", cli_kebab_case=True, cli_prog_name="neuroscope-inference"
    )

    shared_memory_bytes: int = Field(
        32 * 1024 * 1024,
        ge=0,
        description="Maximum memory that a stream shares with a client of this host for large tensors; 0: none.",
    )
    model: Annotated[list[str], NoDecode, BeforeValidator(split_names)] = Field(
        [], description="Folders or Hugging Face ids to load at start, separated by commas or one per flag."
    )
    model_dirs: Annotated[list[str], NoDecode, BeforeValidator(split_names)] = Field(
        [],
        description="Folders below which callers may load models and adapters, separated by commas or one per flag. "
        "Empty: anywhere, and the hub. Does not limit `model`.",
    )
    model_memory_bytes: int = Field(
        0,
        ge=0,
        description="Memory budget for the weights of all models; loading one more evicts the least recently used idle "
        "model. 0: no limit.",
    )
    chunk_budget_bytes: int = Field(64 * 1024 * 1024, ge=1, description="Maximum captured bytes of one prefill chunk.")
    memory_limit_bytes: int = Field(
        0,
        ge=0,
        description="Shrink prefill chunks and decode batches when MLX holds more memory than this; 0: only when an "
        "allocation fails.",
    )
    stream_limit_bytes: int = Field(
        16 * 1024 * 1024, ge=1, description="Unread bytes at which a stream pauses its job."
    )
    prompt_cache_bytes: int = Field(
        0,
        ge=0,
        description="Memory per model for the KV cache of earlier prompts, reused by prompts with the same beginning. "
        "0: none; a repeated request then gives the same bits.",
    )
    sweep_max_patches: int = Field(
        100_000, ge=1, description="Maximum patches of one sweep; a larger one is refused with the estimate."
    )
    sweep_batch_bytes: int = Field(
        256 * 1024 * 1024, ge=1, description="Approximate memory of the patches that run in one batch."
    )
    cache_self_tests: bool = Field(True, description="Cache self-test results of models whose files did not change.")
    max_prompts: int = Field(256, ge=1, description="Maximum prompts and rows of one request.")
    tensor_max_bytes: int = Field(1024**3, ge=0, description="Memory budget of all uploaded tensors.")
    tensor_ttl_seconds: float = Field(3600.0, gt=0, description="Default lifetime of an upload.")
    spool_dir: str = Field(
        "",
        description="Folder of kept captures, for one service alone. Empty: ~/.cache/neuroscope/spool-PORT.",
    )
    spool_max_bytes: int = Field(8 * 1024**3, ge=0, description="Disk budget of kept captures; the oldest make room.")
    spool_ttl_seconds: float = Field(3600.0, gt=0, description="Lifetime of a kept capture after its end.")

    @property
    def spool_folder(self) -> Path:
        """The folder of recorded streams."""
        if self.spool_dir:
            return Path(self.spool_dir).expanduser()
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return caches / "neuroscope" / f"spool-{self.port}"
