"""Selection of layers."""

from __future__ import annotations

from collections.abc import Sequence

from neuroscope.errors import InvalidRequestError, UnavailableSiteError, nearest
from neuroscope_analysis.remote_model import RemoteModel


def select_layers(given: Sequence[int], model: RemoteModel, there: Sequence[int], what: str) -> list[int]:
    """The requested layers, or all suitable ones.

    Args:
        given: layers of the request; negative indices count from the end.
        model: the model.
        there: suitable layers.
        what: what a suitable layer has, for errors.

    Raises:
        InvalidRequestError, UnavailableSiteError: a layer does not exist, is repeated, or is not suitable.
    """
    count = model.info.model.num_layers
    found: list[int] = []
    for index, layer in enumerate(given):
        number = layer + count if layer < 0 else layer
        field = f"layers[{index}]"
        if not 0 <= number < count:
            raise InvalidRequestError(f"there is no layer {layer}: {model.model_id} has {count}", field=field)
        if number not in there:
            valid = nearest(str(number), map(str, there))
            raise UnavailableSiteError(
                f"layer {number} has no {what}; layers that have: {', '.join(map(str, there))}",
                field=field,
                valid=valid,
            )
        if number in found:
            raise InvalidRequestError(f"layer {number} is named twice", field=field)
        found.append(number)
    return found or list(there)


def layers_with_component(given: Sequence[int], model: RemoteModel, component: str, what: str) -> list[int]:
    """The requested layers, or all in which a component can be captured.

    Raises:
        InvalidRequestError, UnavailableSiteError: a layer, or every layer, lacks the component.
    """
    there = model.layers(component)
    if not there:
        reasons = {point.reason for point in model.info.points if point.site.component == component and point.reason}
        raise UnavailableSiteError(
            f"{model.model_id} has no {what}: {'; '.join(sorted(reasons)) or 'no layer has attention'}",
            field="model_id",
        )
    return select_layers(given, model, there, what)
