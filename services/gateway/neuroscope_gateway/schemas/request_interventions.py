"""The interventions of a request as messages of the contract.

An error of the inference service about `interventions[2].value.clamp.maximum` names `interventions[2].maximum`, the
user's own parameter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from neuroscope.v1 import intervention_pb2
from neuroscope_gateway.rest_params import rest_params

_INDEXED = re.compile(r"interventions\[(\d+)\](.*)")


class RequestInterventions:
    """Interventions in the order of the request.

    Attributes:
        messages: the messages of the contract.

    Args:
        interventions: of any type in `neuroscope.interventions.forms.InterventionForm`.

    Raises:
        MLXIntegrationError: one is invalid; `field` is its REST parameter.
    """

    def __init__(self, interventions: Sequence[Any] = ()) -> None:
        self._interventions = interventions
        self.messages: list[intervention_pb2.Intervention] = []
        for index, form in enumerate(interventions):
            with rest_params(partial(self._path, index)):
                self.messages.append(form.to_message())

    def param(self, field: str) -> str | None:
        """The REST parameter of a field of the contract in `interventions`; None for other fields."""
        match = _INDEXED.fullmatch(field)
        if match is None or int(match[1]) >= len(self._interventions):
            return None
        return self._path(int(match[1]), match[2])

    def _path(self, index: int, field: str) -> str:
        return f"interventions[{index}].{self._interventions[index].param(field)}".rstrip(".")
