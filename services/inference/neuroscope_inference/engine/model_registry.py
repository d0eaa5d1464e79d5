"""The loaded models and dictionaries under a memory budget: a new model makes those give way that nothing runs on.

Knows ids and sizes, and nothing of jobs: the engine says which models are in use.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable

from neuroscope.errors import IdTakenError, ModelNotFoundError, ResourceExhaustedError, nearest
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary
from neuroscope_inference.engine.dictionaries.registry import DictionaryRegistry
from neuroscope_inference.engine.loading import LoadRequest
from neuroscope_inference.engine.model import LoadedModel

_log = logging.getLogger(__name__)
_SETTING = "model_memory_bytes"


class ModelRegistry:
    """Loaded models by id, `model in registry` too. Any thread may look; only the engine's changes anything.

    Args:
        budget_bytes: weights and dictionaries may take this much memory together; 0 for no limit.
    """

    def __init__(self, budget_bytes: int = 0) -> None:
        self.budget_bytes = budget_bytes
        self.dictionaries = DictionaryRegistry()
        self._models: dict[str, LoadedModel] = {}
        self._loading: dict[
            int, tuple[LoadRequest, int]
        ] = {}  # by identity: who loads, and the bytes that it will take
        self._evicted: dict[str, str] = {}  # by model_id: what became of it, for whoever asks

    @property
    def held_bytes(self) -> int:
        """Weights and dictionaries in memory, weights included that are being read."""
        loaded = sum(model.held_bytes for model in self.models())
        return loaded + sum(nbytes for _, nbytes in list(self._loading.values()))

    def models(self) -> list[LoadedModel]:
        """All of them, oldest first."""
        return list(self._models.values())

    def get(self, model_id: str) -> LoadedModel:
        """A model that is about to be used; the oldest for an empty id.

        Raises:
            ModelNotFoundError: none of that id is loaded; says whether it was evicted, and names those that are there.
        """
        models = dict(self._models)
        if model_id in models or (models and not model_id):
            model = models[model_id] if model_id else next(iter(models.values()))
            model.used_at_s = time.monotonic()
            return model
        raise self.not_loaded_error(model_id)

    def not_loaded_error(self, model_id: str) -> ModelNotFoundError:
        """What is said of a model that is not there: whether it was evicted, and which are there."""
        models = dict(self._models)
        valid = nearest(model_id, models)
        there = f"loaded: {', '.join(valid)}" if models else "no model is"
        what = f"model {model_id!r} is not loaded{self._evicted.get(model_id, '')}; {there}"
        return ModelNotFoundError(what if model_id else "no model is loaded", field="model_id", valid=valid)

    def __contains__(self, model: LoadedModel) -> bool:
        return any(held is model for held in self.models())

    def loaded_as(self, request: LoadRequest) -> LoadedModel | None:
        """The model that a request would load, if it is there.

        Raises:
            IdTakenError: another model has its id.
        """
        existing = self._models.get(request.model_id)
        if existing is None:
            return None
        if (existing.folder, existing.adapter_path) != (request.folder, request.adapter_path):
            adapter = f" with the adapter {existing.adapter_path}" if existing.adapter_path else ""
            raise IdTakenError(
                f"model_id {request.model_id!r} is taken by {existing.description.model_path}{adapter}; "
                "choose another, or unload that model",
                field="model_id",
            )
        if difference := request.form.difference(existing.description, existing.was_dequantized):
            raise IdTakenError(
                f"model_id {request.model_id!r} is taken by the same model {difference}; choose another, or unload "
                "that model",
                field="model_id",
            )
        return existing

    def reserve(self, request: LoadRequest, nbytes: int, in_use: Collection[LoadedModel]) -> bool:
        """Keeps room for a model that is about to be read; gives whether others gave way, least recently used first.

        Raises:
            ResourceExhaustedError: the budget is smaller than the model, or what is in use leaves too little of it;
                nothing has been evicted then.
        """
        victims = self._choose_evictions(request, nbytes, in_use) if self.budget_bytes else []
        for model in victims:
            self.remove(model)
            named = model.description
            adapter = f" and the adapter {model.adapter_path}" if model.adapter_path else ""
            self._evicted[named.model_id] = (
                f": it was evicted to make room for {request.model_id!r}; load {named.model_path}{adapter} again"
            )
            _log.warning("evicted %s to make room for %s", named.model_id, request.model_id)
        self._loading[id(request)] = request, nbytes
        return bool(victims)

    def release(self, request: LoadRequest) -> None:
        """Gives up the room that was kept; without any it does nothing."""
        self._loading.pop(id(request), None)

    def add(self, model: LoadedModel) -> None:
        """Adds a model."""
        model_id = model.description.model_id
        model.used_at_s = time.monotonic()
        self._evicted.pop(model_id, None)
        model.dictionaries = self.dictionaries
        self._models[model_id] = model

    def remove(self, model: LoadedModel) -> None:
        """Takes a model away; its memory is free once its requests have let go of it."""
        if model in self:
            self.dictionaries.remove_model(model.description.model_id)
        self._models = {key: value for key, value in self._models.items() if value is not model}
        model.release()

    def check_room(self, dictionary_id: str, nbytes: int) -> None:
        """Raises ResourceExhaustedError where the budget does not hold a dictionary; no model gives way to one."""
        if self.budget_bytes and self.held_bytes + nbytes > self.budget_bytes:
            raise ResourceExhaustedError(
                f"dictionary {dictionary_id!r} needs {_format_bytes(nbytes)}; the setting {_SETTING} allows "
                f"{_format_bytes(self.budget_bytes)}, of which models and dictionaries hold "
                f"{_format_bytes(self.held_bytes)}",
                field="path",
            )

    def add_dictionary(self, found: Dictionary, model: LoadedModel) -> None:
        """Adds a dictionary of a model.

        Raises:
            ModelNotFoundError: the model went meanwhile.
            IdTakenError: a dictionary has its id.
            ResourceExhaustedError: the budget does not hold it.
        """
        if model not in self:
            raise self.not_loaded_error(model.description.model_id)
        self.check_room(found.description.dictionary_id, found.description.length_bytes)
        self.dictionaries.add(found)

    def _choose_evictions(
        self, request: LoadRequest, nbytes: int, in_use: Collection[LoadedModel]
    ) -> list[LoadedModel]:
        missing = self.held_bytes + nbytes - self.budget_bytes
        needs = f"{request.model_id} needs {_format_bytes(nbytes)} for its weights"
        if nbytes > self.budget_bytes:
            raise ResourceExhaustedError(
                f"{needs}, more than the {_format_bytes(self.budget_bytes)} that the setting {_SETTING} allows for all "
                "models",
                field="model_path",
            )
        used = {id(model) for model in in_use}
        idle = sorted((model for model in self.models() if id(model) not in used), key=lambda model: model.used_at_s)
        victims: list[LoadedModel] = []
        while missing > 0 and idle:
            victims.append(idle.pop(0))
            missing -= victims[-1].held_bytes
        if missing > 0:
            raise ResourceExhaustedError(
                f"{needs}; the setting {_SETTING} allows {_format_bytes(self.budget_bytes)}, and in use are "
                f"{', '.join(self._describe_used(used))}; wait for them to end, or raise the setting",
                field="model_path",
            )
        return victims

    def _describe_used(self, used: Collection[int]) -> Iterable[str]:
        for model in self.models():
            if id(model) in used:
                yield f"{model.description.model_id} ({_format_bytes(model.held_bytes)})"
        for request, nbytes in self._loading.values():
            yield f"{request.model_id} ({_format_bytes(nbytes)}, being loaded)"


def _format_bytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.1f} MB"
