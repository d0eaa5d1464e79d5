"""Activations by name, including the names of TransformerLens.

    cache["resid_post", 5]                 (batch, position, d_model)
    cache["blocks.5.hook_resid_post"]      the same
    cache["pattern", 5]                    (batch, head, query, key)
    cache["embedding"]                     a point without a layer
    cache["my-hook"], cache["my-hook", 5]  by hook id
    cache["resid_post:norm", 5]            a reduction of it; see `neuroscope.vocabulary.reductions`
    cache.stack("resid_post")              (layer, batch, position, d_model)
    cache.row(1)["resid_post", 5]          one prompt of a batch

Arrays are numpy arrays; bfloat16 is `ml_dtypes.bfloat16`, so `cache["resid_post", 5].astype("float32")` works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from neuroscope.activations import cache_file
from neuroscope.activations.activation import Activation
from neuroscope.display import Displayable, show
from neuroscope.errors import MLXIntegrationError, UnknownSiteError, nearest
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.reductions import NAMES, split_name
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import Array
from neuroscope.wire.frames import TensorPiece

if TYPE_CHECKING:
    from rich.table import Table

Key: TypeAlias = "str | Point | tuple[str, int] | tuple[str, int, str]"
ChecksumKey: TypeAlias = "tuple[str, int | None, bool, int]"
"""Hook id, layer (None for points without a layer), whether it is an input, row."""

# Short names of TransformerLens, as in `cache["pattern", 5]`.
_SHORT_NAMES = {
    "embed": "embedding",
    "q": "q_proj",
    "k": "k_proj",
    "v": "value",
    "rot_q": "query",
    "rot_k": "key",
    "attn_scores": "attention_scores",
    "pattern": "attention_pattern",
    "z": "head_output",
    "post": "mlp_neurons",
}


_INDICES = NAMES[tensor_pb2.REDUCED_TOP_K_INDICES]
_SECONDARY = {_INDICES, *(name for name in NAMES.values() if name.startswith("lens_") or "features" in name)}
"""Secondary results of a reduction, which come with another result of the same hook and point."""


class HasChecksum(Protocol):
    """The checksum of one tensor of a plan in one row, either running or stored."""

    @property
    def checksum(self) -> int:
        """XXH3-64 of the pieces' checksums."""
        ...


class MissingActivationError(UnknownSiteError, KeyError):
    """The cache has no activation of that name, or several. Also a KeyError."""

    __str__ = Exception.__str__


class ActivationCache(Displayable, Mapping[Key, Array]):
    """A mapping from points of the model to activations.

    Iteration yields names such as `resid_post.5`. Indexing joins prefill chunks and decode steps along the position
    axis; a tensor received in one piece is a view of the received bytes.

    Attributes:
        model_id: the model that ran.
        token_ids: for each row, the token ids of the prompt and those generated so far.
        manifest: the manifest of the stream; None until it has ended.
    """

    def __init__(self) -> None:
        self.model_id = ""
        self.token_ids: list[list[int]] = []
        self.manifest: pb.Manifest | None = None
        self._activations: list[Activation] = []
        self._digests: Mapping[tuple[int, int], HasChecksum] = {}

    # Filled by a stream or a file.

    def begin(self, model_id: str, token_ids: Sequence[Sequence[int]]) -> None:
        """Sets the model and the prompts."""
        self.model_id = model_id
        self.token_ids = [list(ids) for ids in token_ids]

    def expect(self, tensors: Sequence[tensor_pb2.TensorSpec], digests: Mapping[tuple[int, int], HasChecksum]) -> None:
        """Sets the tensors to be received, and the mapping of their digests by plan index and row."""
        self._activations = [Activation(spec) for spec in tensors]
        self._digests = digests

    def add(self, piece: TensorPiece) -> None:
        """Adds a piece of an expected tensor."""
        self._activations[piece.spec.plan_index].add(piece)

    def put(self, plan_index: int, row: int, array: Array, positions: Sequence[int]) -> None:
        """Sets one row of an expected tensor."""
        self._activations[plan_index].put(row, array, positions)

    # Access.

    def __getitem__(self, key: Key) -> Array:
        return self.find(key).array()

    def __iter__(self) -> Iterator[Key]:
        return iter(self.by_name())

    def __len__(self) -> int:
        return len(self._captured())

    def __contains__(self, key: object) -> bool:
        try:
            return bool(self._matches(key))
        except UnknownSiteError:
            return False

    def find(self, key: Key) -> Activation:
        """The `Activation` of a name, with hook, axes and positions.

        Raises:
            MissingActivationError: nothing of that name was captured, or the name is ambiguous.
        """
        found = self._matches(key)
        if len(found) == 1:
            return found[0]
        if not found:
            names = list(self.by_name())
            valid = nearest(_text(key), names)
            there = f"; nearest: {', '.join(valid)}" if valid else "; the cache is empty"
            raise MissingActivationError(f"{_text(key)} was not captured{there}", valid=valid)
        if len({activation.point for activation in found}) > 1:
            layers = [str(activation.point) for activation in found]
            raise MissingActivationError(
                f"{_text(key)} names {len(found)} activations; add the layer, such as"
                f" cache[{key!r}, {found[0].point.layer}], or take all with cache.stack({key!r})",
                valid=layers,
            )
        valid = [activation.hook_id for activation in found]
        raise MissingActivationError(
            f"{_text(key)} was captured by {len(found)} hooks; name one of them: {', '.join(valid)}", valid=valid
        )

    def stack(self, name: str) -> Array:
        """One component in all captured layers, (layer, batch, ...), lowest layer first.

        Raises:
            MissingActivationError: nothing of that name was captured.
        """
        found = self._matches(name) or [self.find(name)]
        layers: dict[int | None, Activation] = {}
        for activation in found:
            if layers.setdefault(activation.point.layer, activation) is not activation:
                hooks = sorted({other.hook_id for other in found})
                raise MissingActivationError(
                    f"{name} was captured by several hooks; name one of them: {', '.join(hooks)}", valid=hooks
                )
        return np.stack([layers[layer].array() for layer in sorted(layers, key=lambda layer: layer or 0)])

    def row(self, index: int) -> ActivationCache:
        """The activations of one prompt, (1, ...). Negative indices count from the end.

        Raises:
            IndexError: there is no such row.
        """
        count = len(self.token_ids)
        if not -count <= index < count:
            raise IndexError(f"row {index} is out of range: there are {count}")
        row = index % count
        one = ActivationCache()
        one.model_id, one.token_ids, one.manifest = self.model_id, [self.token_ids[row]], self.manifest
        one._activations = [activation.only(row) for activation in self._activations]
        one._digests = {(plan_index, 0): digest for (plan_index, of), digest in self._digests.items() if of == row}
        return one

    def positions(self, key: Key, row: int = 0) -> Array:
        """Absolute token positions along the position axis of an activation, int64 (position,)."""
        return np.asarray(self.find(key).positions(row), np.int64)

    @property
    def points(self) -> list[Point]:
        """The captured points, in the order of the request."""
        return list(dict.fromkeys(activation.point for activation in self._captured()))

    def by_name(self) -> dict[str, Activation]:
        """Activations by name, in the order of the plan. Names include the hook if hooks share point and reduction."""
        captured = self._captured()
        names = Counter(activation.name for activation in captured)
        return {a.name if names[a.name] == 1 else f"{a.hook_id}:{a.name}": a for a in captured}

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(activation.nbytes for activation in self._activations)

    def checksums(self) -> dict[ChecksumKey, int]:
        """XXH3-64 of each tensor's pieces, as in the manifest. Equal bytes have equal checksums.

        If a hook id names several components of a layer, the key has `hook_id/component`. Secondary results of a
        reduction, such as the indices of a top_k, end with their name: `/top_k_indices`.
        """
        found: dict[ChecksumKey, int] = {}
        ambiguous = self._ambiguous_hooks()
        for activation in self._captured():
            point = activation.point
            for row in activation.rows:
                name = activation.hook_id
                if (name, point.layer, point.is_input) in ambiguous:
                    name = f"{name}/{point.component}"
                if activation.reduced in _SECONDARY:
                    name = f"{name}/{activation.reduced}"
                found[name, point.layer, point.is_input, row] = self.checksum(activation, row)
        return found

    def checksum(self, activation: Activation, row: int) -> int:
        """XXH3-64 of the checksums of an activation's pieces in one row."""
        return self._digests[activation.plan_index, row].checksum

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file; see `neuroscope.activations.cache_file`."""
        cache_file.write(
            Path(path),
            model_id=self.model_id,
            token_ids=self.token_ids,
            activations=self.by_name(),
            checksum=self.checksum,
        )

    @classmethod
    def load(cls, path: str | Path) -> ActivationCache:
        """Reads a file written by `save`.

        Raises:
            DataConversionError: the file has other content.
            ChecksumError: the file was modified.
        """
        stored = cache_file.read(Path(path))
        cache = cls()
        cache.begin(stored.model_id, stored.token_ids)
        cache.expect(stored.tensors, stored.digests)
        for plan_index, row, array, positions in stored.rows:
            cache.put(plan_index, row, array, positions)
        return cache

    def table(self) -> Table:
        """Site, shape, dtype and size of all activations; layers with equal values share a row."""
        return show(self, "table")

    def __repr__(self) -> str:
        return show(self, "text")

    # Lookup.

    def _captured(self) -> list[Activation]:
        return [activation for activation in self._activations if activation.rows]

    def _ambiguous_hooks(self) -> set[Hashable]:
        named = (a for a in self._activations if a.reduced not in _SECONDARY)
        keys = Counter((a.hook_id, a.point.layer, a.point.is_input) for a in named)
        return {key for key, count in keys.items() if count > 1}

    def _matches(self, key: object) -> list[Activation]:
        match key:
            case Point():
                return _of_reduction([activation for activation in self._captured() if activation.point == key], "")
            case str(name):
                exact = self.by_name().get(name)
                return [exact] if exact is not None else self._named(name, None)
            case (str(name), int() | np.integer() as layer) | (str(name), int() | np.integer() as layer, str()):
                return self._named(name, int(layer))
            case _:
                raise MissingActivationError(
                    f"a cache is indexed by a name, (component, layer) or a hook id, not {key!r}"
                )

    def _named(self, name: str, layer: int | None) -> list[Activation]:
        of_hook = [activation for activation in self._captured() if activation.hook_id == name]
        reduced = ""
        if not of_hook:
            name, reduced = split_name(name)
            of_hook = [activation for activation in self._captured() if activation.hook_id == name]
        if of_hook:
            return _of_layer(_of_reduction(of_hook, reduced), layer)
        site = sites.parse(_SHORT_NAMES.get(name, name))
        if layer is not None:
            site.layer = layer
        try:
            (point,) = sites.resolve(site, None)
        except MLXIntegrationError as error:
            raise MissingActivationError(error.message, valid=error.valid) from None
        same = [
            activation
            for activation in self._captured()
            if (activation.point.component, activation.point.is_input) == (point.component, point.is_input)
        ]
        return _of_reduction(_of_layer(same, point.layer), reduced)


def _of_reduction(activations: list[Activation], reduced: str) -> list[Activation]:
    """Activations of one reduction; without a name the tensors themselves, or if there are none their reductions."""
    if reduced:
        return [activation for activation in activations if activation.reduced == reduced]
    plain = [activation for activation in activations if not activation.reduced]
    return plain or [activation for activation in activations if activation.reduced not in _SECONDARY] or activations


def _of_layer(activations: list[Activation], layer: int | None) -> list[Activation]:
    """Activations of one layer; negative layers count from the last captured one."""
    if layer is None:
        return activations
    captured = sorted({a.point.layer for a in activations if a.point.layer is not None})
    if layer < 0:
        layer = captured[-1] + 1 + layer if captured else layer
    return [activation for activation in activations if activation.point.layer == layer]


def _text(key: object) -> str:
    match key:
        case tuple():
            return ".".join(str(part) for part in key)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case _:
            return str(key)
