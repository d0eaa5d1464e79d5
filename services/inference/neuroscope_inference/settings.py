"""Configuration of the inference service: environment variables, flags and defaults from one list."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from neuroscope_serving.settings import ServingSettings, split


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
        description="Memory that a stream may share with a client of this host, for its large tensors; it is taken as "
        "the reader falls behind. 0: all tensors travel in the stream.",
    )
    model: Annotated[list[str], NoDecode, BeforeValidator(split)] = Field(
        [], description="Folders or Hugging Face ids to load at start, separated by commas or given one by one."
    )
    model_dirs: Annotated[list[str], NoDecode, BeforeValidator(split)] = Field(
        [],
        description="Folders below which callers may load models and adapters, separated by commas or given one by "
        "one; the models above are loaded all the same. Empty: from anywhere, the hub included.",
    )
    model_memory_bytes: int = Field(
        0,
        ge=0,
        description="Weights of all models may take this much memory together; loading one more evicts the least "
        "recently used that nothing runs on. 0: no limit.",
    )
    chunk_budget_bytes: int = Field(
        64 * 1024 * 1024, ge=1, description="Captures of one prefill chunk may take this many bytes."
    )
    memory_limit_bytes: int = Field(
        0,
        ge=0,
        description="Prefill chunks and decode batches are made smaller where MLX holds more memory than this after "
        "one. 0: only where an allocation fails.",
    )
    stream_limit_bytes: int = Field(
        16 * 1024 * 1024, ge=1, description="A job rests while its reader has left this many bytes unread."
    )
    prompt_cache_bytes: int = Field(
        0,
        ge=0,
        description="What each model may keep of prompts that were read, for prompts that begin alike. 0: nothing, and "
        "a repeated request gives the same bits.",
    )
    sweep_max_patches: int = Field(
        100_000, ge=1, description="Patches of one sweep, at most; a larger one is refused with the estimate."
    )
    sweep_batch_bytes: int = Field(
        256 * 1024 * 1024, ge=1, description="Patches that run together may take about this much memory."
    )
    cache_self_tests: bool = Field(
        True, description="Keep verdicts of the self-test in the user's cache, for models whose files did not change."
    )
    max_prompts: int = Field(256, ge=1, description="Most prompts of one request, and most rows.")
    tensor_max_bytes: int = Field(1024**3, ge=0, description="Uploaded tensors may take this much memory together.")
    tensor_ttl_seconds: float = Field(3600.0, gt=0, description="An upload that does not say how long to keep it.")
    spool_dir: str = Field(
        "",
        description="Folder of streams that were asked for as resumable; one service's own. "
        "Empty: spool-PORT in ~/.cache/neuroscope.",
    )
    spool_max_bytes: int = Field(
        8 * 1024**3, ge=0, description="Kept streams may take this much disk together; the oldest make room."
    )
    spool_ttl_seconds: float = Field(3600.0, gt=0, description="A stream is kept this long after its end.")

    @property
    def spool_folder(self) -> Path:
        """Where streams are kept."""
        if self.spool_dir:
            return Path(self.spool_dir).expanduser()
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return caches / "neuroscope" / f"spool-{self.port}"
