"""The components that write to the residual stream, in order."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.errors import UnavailableSiteError
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.residual.activation_chunks import ActivationChunk, Floats

RESID_POST, RESID_PRE, EMBEDDING = "resid_post", "resid_pre", "embedding"
ATTN_CONTRIB, MLP_CONTRIB = "attn_contrib", "mlp_contrib"
_LETTERS = {ATTN_CONTRIB: "a", MLP_CONTRIB: "m"}


@dataclass(frozen=True, slots=True)
class Component:
    """A component that writes.

    Args:
        component: name in the contract.
        layer: -1: no layer.
    """

    component: str
    layer: int = -1

    @property
    def name(self) -> str:
        """The name: embed, pos, a0, m0."""
        return self.component if self.layer < 0 else f"{_LETTERS[self.component]}{self.layer}"


EMBED, POSITION = Component("embed"), Component("pos")


@dataclass(frozen=True, slots=True)
class Components:
    """All components that write.

    Args:
        written: embeddings, then attention and MLP of each layer.
        layer_count: number of layers of the model.
        embedding_scale: scale of token embeddings, if there are position embeddings; else None.
    """

    written: list[Component]
    layer_count: int
    embedding_scale: float | None

    @classmethod
    async def from_model(cls, model: RemoteModel) -> Components:
        """The components of a model.

        Raises:
            UnavailableSiteError: the output of a layer cannot be captured.
        """
        count = model.info.model.num_layers
        there = {name: set(model.layers(name)) for name in (ATTN_CONTRIB, MLP_CONTRIB, RESID_POST, RESID_PRE)}
        for layer in range(count):
            for name in (RESID_POST, RESID_PRE):
                if layer not in there[name]:
                    raise _unavailable(model, name, layer)
            if layer not in there[ATTN_CONTRIB] | there[MLP_CONTRIB]:
                raise _unavailable(model, ATTN_CONTRIB, layer)
        for name in (ATTN_CONTRIB, MLP_CONTRIB):
            for layer in range(count):
                # a layer may lack attention or MLP, but the output of an existing one must be captured
                if layer not in there[name] and "self-test" in _reason(model, name, layer):
                    raise _unavailable(model, name, layer)
        plan = (await model.weights("embedding", content="plan")).plan
        has_positions = any(spec.hook_id == "W_pos" for spec in plan.tensors.tensors)
        first = [EMBED, POSITION] if has_positions else [EMBED]
        layers = [
            Component(name, layer)
            for layer in range(count)
            for name in (ATTN_CONTRIB, MLP_CONTRIB)
            if layer in there[name]
        ]
        return cls([*first, *layers], count, (plan.embedding_scale or 1.0) if has_positions else None)

    @property
    def names(self) -> list[str]:
        """Names in order."""
        return [each.name for each in self.written]

    def written_in(self, chunk: ActivationChunk) -> list[Floats]:
        """The output of each component (position, d_model), in order."""
        enters = chunk.array(RESID_PRE, 0)
        if self.embedding_scale is None:
            first = [enters]
        else:
            tokens = chunk.array(EMBEDDING) * self.embedding_scale
            first = [tokens, enters - tokens]
        return [*first, *(chunk.array(each.component, each.layer) for each in self.written if each.layer >= 0)]


def _unavailable(model: RemoteModel, component: str, layer: int) -> UnavailableSiteError:
    reason = _reason(model, component, layer)
    return UnavailableSiteError(
        f"the residual stream of {model.model_id} is not known: {component}.{layer}: {reason}", field="model_id"
    )


def _reason(model: RemoteModel, component: str, layer: int) -> str:
    reasons = [
        point.reason
        for point in model.info.points
        if point.site.component == component and point.site.layer == layer and not point.available
    ]
    return "; ".join(reasons)
