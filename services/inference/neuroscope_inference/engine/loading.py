"""From a folder to a model in memory, with progress by bytes.

mlx-lm knows the formats; here its steps are taken one by one, so that a load can report, be cancelled between pieces,
and say what is wrong with the files in the user's words.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import get_total_parameters, load_adapters, load_model, load_tokenizer

from neuroscope.errors import ModelCorruptError, ModelNotFoundError, ModelUnsupportedError, ResourceExhaustedError
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine import config_translation, self_test, self_test_cache, weights_form
from neuroscope_inference.engine.arrays import wire_dtype
from neuroscope_inference.engine.capabilities import ModelCapabilities
from neuroscope_inference.engine.layout import Layout, first_int
from neuroscope_inference.engine.memory import is_out_of_memory
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.weights_form import WeightsForm
from neuroscope_inference.engine.weights_hash import weights_hash
from neuroscope_inference.gguf.conversion import conversion_notes, is_conversion

_PIECES = 16
_FILES = ("*.json", "*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja")


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load."""

    folder: Path
    model_path: str
    """What the user called it."""
    model_id: str
    adapter_path: str = ""
    self_test_cache: Path | None = None
    """Where self-test results of the self-test are kept; None: every load proves the model."""
    form: WeightsForm = field(default_factory=WeightsForm)
    """In which the weights are to be."""
    budget_bytes: int = 0
    """What weights may take; 0: no limit."""


def load(request: LoadRequest) -> Iterator[pb.LoadProgress | LoadedModel]:
    """Loads and proves a model: progress after every piece of work, then the model. Runs on the engine's thread.

    Raises:
        ModelNotFoundError: the folder holds no model.
        ModelCorruptError: files are missing or unreadable; the message names them.
        ModelUnsupportedError: mlx-lm has no such architecture, or hooks do not work on it.
    """
    folder = request.folder
    written = _read_config(folder)
    model, config = _build(folder, request, written)
    is_converted = is_conversion(folder)
    changes, was_dequantized = weights_form.give(
        model, request.form, may_choose=is_converted, budget_bytes=request.budget_bytes
    )
    yield from _read_weights(model, folder)
    tokenizer = _tokenizer(folder, config)
    yield pb.LoadProgress(phase=pb.LOAD_PHASE_SELF_TEST, bytes_done=0, bytes_total=self_test.TOKEN_COUNT)
    text_config: Mapping[str, Any] = config.get("text_config", config)
    layout = Layout(model, {"model_type": config.get("model_type"), **text_config})
    vocab_size = first_int(text_config, "vocab_size") or len(tokenizer)
    result, capabilities = _self_test(request, layout, vocab_size, f"{request.form.dtype} {was_dequantized}")
    yield pb.LoadProgress(
        phase=pb.LOAD_PHASE_SELF_TEST, bytes_done=self_test.TOKEN_COUNT, bytes_total=self_test.TOKEN_COUNT
    )
    description = _describe(request, folder, config, text_config, model, tokenizer, layout)
    description.notes.extend([*(conversion_notes(folder) if is_converted else ()), *changes])
    yield LoadedModel(
        model,
        tokenizer,
        layout,
        description,
        result,
        capabilities,
        folder,
        request.adapter_path,
        was_dequantized=was_dequantized,
    )


def _self_test(
    request: LoadRequest, layout: Layout, vocab_size: int, form: str
) -> tuple[pb.SelfTest, ModelCapabilities]:
    """The result of the self-test and the model's capabilities, from the cache where it holds them for these files."""
    key = ""
    if request.self_test_cache is not None:
        with contextlib.suppress(OSError):
            key = self_test_cache.cache_key(request.folder, request.adapter_path, form)
        if key and (kept := self_test_cache.restore(request.self_test_cache, key, layout)):
            return kept
    result = self_test.run(layout, vocab_size)
    capabilities = ModelCapabilities.probe(layout, vocab_size)
    if request.self_test_cache is not None and key:
        self_test_cache.store(request.self_test_cache, key, layout, result, capabilities)
    return result, capabilities


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelNotFoundError(f"{folder} has no config.json, so it is not a model", field="model_path")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ModelCorruptError(f"{path} is not JSON: {error}", field="model_path") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelCorruptError(f"{path} does not name a model_type", field="model_path")
    return config


def _build(folder: Path, request: LoadRequest, written: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    if "model_file" in written:
        raise _custom_code_error(folder, f"model_file: {written['model_file']!r} in config.json")
    try:
        model, config = load_model(
            folder,
            lazy=True,
            trust_remote_code=False,
            model_config=config_translation.config_overrides(written, config_translation.tensor_names(folder)),
            get_model_classes=config_translation.model_classes,
        )
    except OSError as error:
        raise ModelCorruptError(_one_line(error), field="model_path") from error
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        if "not supported" in str(error):
            raise ModelUnsupportedError(str(error), field="model_path") from error
        raise ModelCorruptError(
            f"the weights or the configuration in {folder} do not fit mlx-lm's model: {_one_line(error)}",
            field="model_path",
        ) from error
    except RuntimeError as error:  # mx.load: a damaged safetensors file
        raise _corrupt_weights_error(folder, error) from error
    finally:
        # Modules draw weights that the file's replace, unseen; only their keys stay, a longer chain with every load.
        mx.eval(mx.random.state)
    return _apply_adapter(model, request.adapter_path) if request.adapter_path else model, config


def _apply_adapter(model: nn.Module, adapter_path: str) -> nn.Module:
    try:
        adapted = load_adapters(model, adapter_path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelCorruptError(f"the adapter cannot be used: {_one_line(error)}", field="adapter_path") from error
    adapted.eval()
    return adapted


def _read_weights(model: nn.Module, folder: Path) -> Iterator[pb.LoadProgress]:
    """Reads the weights, which are lazy until here, in pieces of about equal bytes."""
    arrays = _weights(model)
    total = sum(array.nbytes for array in arrays)
    yield pb.LoadProgress(phase=pb.LOAD_PHASE_READ, bytes_done=0, bytes_total=total)
    done = reported = 0
    piece: list[mx.array] = []
    for array in arrays:
        piece.append(array)
        done += array.nbytes
        if done - reported >= total / _PIECES or array is arrays[-1]:
            try:
                mx.eval(piece)
            except (MemoryError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise ResourceExhaustedError(
                        f"memory does not hold the weights in {folder}, {total / 1e9:,.1f} GB: {_one_line(error)}",
                        field="model_path",
                    ) from error
                raise _corrupt_weights_error(folder, error) from error
            piece, reported = [], done
            yield pb.LoadProgress(phase=pb.LOAD_PHASE_READ, bytes_done=done, bytes_total=total)


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> TokenizerWrapper:
    try:
        return load_tokenizer(folder, {"trust_remote_code": False}, eos_token_ids=config.get("eos_token_id"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if "trust_remote_code" in str(error):
            raise _custom_code_error(folder, "auto_map in tokenizer_config.json") from error
        raise ModelCorruptError(
            f"the tokenizer in {folder} cannot be read: {_one_line(error)}", field="model_path"
        ) from error


def _describe(
    request: LoadRequest,
    folder: Path,
    config: Mapping[str, Any],
    text_config: Mapping[str, Any],
    model: nn.Module,
    tokenizer: TokenizerWrapper,
    layout: Layout,
) -> pb.Model:
    arrays = _weights(model)
    floating = [array.dtype for array in arrays if mx.issubdtype(array.dtype, mx.floating)]
    final_norm = next((s for s in layout.states if s.point.component == "final_norm" and not s.reason), None)
    dtype = final_norm.dtype if final_norm else (floating or [mx.float32])[0]
    shape = layout.head_shape
    bos: int | None = getattr(tokenizer, "bos_token_id", None)
    return pb.Model(
        model_id=request.model_id,
        model_path=request.model_path,
        architecture=str(config["model_type"]),
        num_layers=layout.num_layers,
        d_model=first_int(text_config, "hidden_size", "n_embd", "d_model", "dim"),
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        d_head=shape.width,
        vocab_size=first_int(text_config, "vocab_size"),
        context_length=_context_length(text_config),
        dtype=wire_dtype(dtype),
        parameter_count=get_total_parameters(model),
        weights_bytes=sum(array.nbytes for array in arrays),
        has_chat_template=bool(tokenizer.has_chat_template),
        bos_token_id=bos,
        eos_token_ids=sorted(tokenizer.eos_token_ids),
        loaded_at_ms=time.time_ns() // 1_000_000,
        weights_hash=_hash(folder, request.adapter_path),
        quantization=weights_form.quantizations(model),
    )


def _hash(folder: Path, adapter_path: str) -> str:
    """Of the checkpoint; empty where the files, which have been read, cannot be read any more."""
    try:
        return weights_hash(folder, adapter_path)
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _context_length(text_config: Mapping[str, Any]) -> int:
    written = first_int(text_config, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
    exact = config_translation.max_exact_positions(text_config)
    return min(written, exact) if written and exact else written or exact


def _weights(model: nn.Module) -> list[mx.array]:
    return [cast(mx.array, array) for _, array in tree_flatten(model.parameters())]


def _custom_code_error(folder: Path, entry: str) -> ModelUnsupportedError:
    return ModelUnsupportedError(
        f"the model in {folder} wants Python code of its own to be run ({entry}), and this service runs none; mlx-lm's "
        "implementation is used where config.json and tokenizer_config.json do not ask for another",
        field="model_path",
    )


def _corrupt_weights_error(folder: Path, error: Exception) -> ModelCorruptError:
    return ModelCorruptError(f"a weights file in {folder} is damaged: {_one_line(error)}", field="model_path")


def _one_line(error: BaseException) -> str:
    """What an error says, on one line: mlx-lm's names the parameters only on its second."""
    return " ".join(str(error).split())[:300] or type(error).__name__
