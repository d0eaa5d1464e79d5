"""Attributions: prompts, a metric, and the gradients to compute.

    client.attribute(clean, corrupted, metric=logit_diff(" Mary", " John"), method="eap-ig", steps=5)

    attribution-patching    components: (other - edited) . gradient; Nanda 2023, Syed et al. 2023 (arXiv:2310.10348)
    gradient-x-activation   components: activation . gradient, on the clean prompt
    eap                     edges between components; Syed et al. 2023
    eap-ig                  edges, gradients averaged between both inputs; Hanna et al. 2024 (arXiv:2403.17806)
    integrated-gradients    positions of the prompt; Sundararajan et al. 2017 (arXiv:1703.01365)

Site names list the axes that scores keep, such as `head_output:head,position`. Features of the dictionary `sae` are
`features=sae:position,unit` (Marks et al. 2024, arXiv:2403.19647).
"""

from __future__ import annotations

from collections.abc import Iterable

from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.metrics import Metric
from neuroscope.experiments.stored_request import StoredRequest
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary import prompts, sites
from neuroscope.vocabulary.prompts import PromptLike

METHODS = ("attribution-patching", "gradient-x-activation", "eap", "eap-ig", "integrated-gradients")
_RUNS = {"": pb.SWEPT_RUN_UNSPECIFIED, "clean": pb.SWEPT_RUN_CLEAN, "corrupted": pb.SWEPT_RUN_CORRUPTED}
_AXES = ("head", "position", "unit")
_FEATURES = "features="


def features_of(dictionary_id: str) -> str:
    """The name of a dictionary's features among sites and results."""
    return f"{_FEATURES}{dictionary_id}"


class Attribution(StoredRequest[pb.AttributeRequest]):
    """The description of an attribution, which can be stored as JSON and run by `Client.attribute`.

    Args:
        request: the contract's message. It is kept, not copied.
    """

    __slots__ = ()
    kind = "attribution"

    @classmethod
    def empty(cls) -> pb.AttributeRequest:
        """An empty request."""
        return pb.AttributeRequest()

    def __repr__(self) -> str:
        request = self.request
        count = len(request.pairs)
        return (
            f"Attribution({count} {'pair' if count == 1 else 'pairs'}, {request.WhichOneof('method') or 'nothing'}, "
            f"{request.metric.WhichOneof('kind') or 'no metric'})"
        )


def attribution(
    clean: PromptLike,
    corrupted: PromptLike | None,
    metric: Metric,
    *,
    method: str,
    steps: int,
    places: Iterable[str],
    into: str,
    each_pair: bool,
    model_id: str,
    bos: bool | None,
) -> Attribution:
    """Builds an attribution for `Client.attribute`.

    Raises:
        InvalidRequestError: the numbers of clean and corrupted prompts differ, or a name is invalid.
    """
    if into not in _RUNS:
        raise InvalidRequestError(f"gradients are those of the clean or the corrupted run, not {into!r}", field="into")
    cleans = prompts.to_messages(clean, bos)
    pairs = [pb.PromptPair(clean=one) for one in cleans]
    if corrupted is not None:
        others = prompts.to_messages(corrupted, bos)
        if len(others) != len(cleans):
            raise InvalidRequestError(
                f"there are {len(cleans)} clean prompts and {len(others)} corrupted ones", field="corrupted"
            )
        for pair, other in zip(pairs, others, strict=True):
            pair.corrupted.CopyFrom(other)
    request = pb.AttributeRequest(
        model_id=model_id, pairs=pairs, metric=metric.message, edited_run=_RUNS[into], each_pair=each_pair
    )
    _set_method(request, method, steps, [_node_site(name) for name in places])
    return Attribution(request)


def _set_method(request: pb.AttributeRequest, method: str, steps: int, places: list[pb.NodeSite]) -> None:
    if places and method not in ("attribution-patching", "gradient-x-activation"):
        raise InvalidRequestError(f"{method} takes no sites", field="sites")
    match method:
        case "attribution-patching":
            request.nodes.CopyFrom(pb.NodeAttribution(sites=places, steps=steps))
        case "gradient-x-activation":
            request.nodes.CopyFrom(pb.NodeAttribution(sites=places, steps=steps, gradient_times_activation=True))
        case "eap":
            if steps not in (0, 1):
                raise InvalidRequestError("eap takes one step; eap-ig takes several", field="steps")
            request.edges.CopyFrom(pb.EdgeAttribution(steps=1))
        case "eap-ig":
            request.edges.CopyFrom(pb.EdgeAttribution(steps=steps))
        case "integrated-gradients":
            request.inputs.CopyFrom(pb.IntegratedGradients(steps=steps))
        case _:
            raise InvalidRequestError(f"there is no method {method!r}", field="method", valid=METHODS)


def _node_site(name: str) -> pb.NodeSite:
    """`head_output:head,position`, `resid_post.3:position`, `mlp_out`, `features=sae:unit`"""
    component, _, axes = name.partition(":")
    kept = [axis for axis in axes.split(",") if axis]
    for axis in kept:
        if axis not in _AXES:
            raise InvalidRequestError(f"scores have no axis {axis!r}", field="sites", valid=_AXES)
    place = pb.NodeSite(by_head="head" in kept, by_position="position" in kept, by_unit="unit" in kept)
    if component.startswith(_FEATURES):
        place.dictionary_id = component.removeprefix(_FEATURES)
        if not place.dictionary_id:
            raise InvalidRequestError("the dictionary is missing, as in features=sae:position,unit", field="sites")
        return place
    place.site.CopyFrom(sites.parse(component))
    sites.resolve(place.site, None, field="sites")
    return place
