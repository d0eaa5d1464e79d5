"""The loaded dictionaries by id, of all models."""

from __future__ import annotations

from neuroscope.errors import IdTakenError, InvalidRequestError, UnknownIdError, nearest
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary


class DictionaryRegistry:
    """Loaded dictionaries. Any thread may look; only the engine's changes anything."""

    def __init__(self) -> None:
        self._dictionaries: dict[str, Dictionary] = {}

    def of_model(self, model_id: str = "") -> list[Dictionary]:
        """Those of a model, in the order in which they were loaded; of all models for an empty id."""
        return [
            found for found in self._dictionaries.values() if not model_id or found.description.model_id == model_id
        ]

    def held_bytes(self, model_id: str = "") -> int:
        """What they take in memory."""
        return sum(found.description.length_bytes for found in self.of_model(model_id))

    def get(self, dictionary_id: str, field: str, model_id: str = "") -> Dictionary:
        """A dictionary.

        Args:
            dictionary_id: its name.
            field: of the request that names it.
            model_id: the model that it must be of; empty: any.

        Raises:
            UnknownIdError: there is none of that name; names those most like it.
            InvalidRequestError: it is of another model.
        """
        known = dict(self._dictionaries)
        found = known.get(dictionary_id)
        if found is None:
            valid = nearest(dictionary_id, (name for name, other in known.items() if _is_of(other, model_id)))
            there = f"; loaded: {', '.join(valid)}" if valid else "; none is"
            raise UnknownIdError(f"no dictionary {dictionary_id!r} is loaded{there}", field=field, valid=valid)
        if not _is_of(found, model_id):
            raise InvalidRequestError(
                f"dictionary {dictionary_id!r} is of model {found.description.model_id!r}, not of {model_id!r}",
                field=field,
            )
        return found

    def check_free(self, dictionary_id: str) -> None:
        """Raises IdTakenError where a dictionary has that name."""
        if dictionary_id in self._dictionaries:
            raise IdTakenError(
                f"a dictionary {dictionary_id!r} is loaded; choose another name, or unload it", field="dictionary_id"
            )

    def add(self, found: Dictionary) -> None:
        """Adds a dictionary."""
        self.check_free(found.description.dictionary_id)
        self._dictionaries = {**self._dictionaries, found.description.dictionary_id: found}

    def remove(self, dictionary_id: str, field: str) -> None:
        """Takes a dictionary away.

        Raises:
            UnknownIdError: there is none of that name.
        """
        self.get(dictionary_id, field)
        self._dictionaries = {name: found for name, found in self._dictionaries.items() if name != dictionary_id}

    def remove_model(self, model_id: str) -> None:
        """Takes all dictionaries of a model away."""
        self._dictionaries = {name: found for name, found in self._dictionaries.items() if not _is_of(found, model_id)}


def _is_of(found: Dictionary, model_id: str) -> bool:
    return not model_id or found.description.model_id == model_id
