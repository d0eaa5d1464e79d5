"""Dictionaries of both clients: `client.dictionaries` and its results."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Protocol, TypeAlias, TypeVar

from numpy.typing import ArrayLike

from neuroscope.activations.stream import warn
from neuroscope.base_client.call import Call, CallFlow
from neuroscope.calls.feature_activations import feature_activations
from neuroscope.dictionaries.dictionary import Dictionary
from neuroscope.dictionaries.features import FeatureActivations
from neuroscope.errors import InvalidRequestError
from neuroscope.experiments.attribution_result import AttributionResult
from neuroscope.experiments.metrics import Metric
from neuroscope.interventions import InterventionLike
from neuroscope.interventions.expressions import to_reference
from neuroscope.v1 import dictionary_pb2 as pb
from neuroscope.v1 import site_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.selection import Positions
from neuroscope.vocabulary.tensors import parse_dtype
from neuroscope.wire.rpc import RPCS

T = TypeVar("T")
SiteLike: TypeAlias = "str | site_pb2.Site | None"
_TOP = 32


class Unary(Protocol):
    """Runs a call."""

    def __call__(self, call: Call[T], /) -> T: ...


class Follow(Protocol):
    """Runs a call flow."""

    def __call__(self, steps: CallFlow[T], /) -> T: ...


class AsyncUnary(Protocol):
    """Runs a call on an event loop."""

    def __call__(self, call: Call[T], /) -> Awaitable[T]: ...


class AsyncFollow(Protocol):
    """Runs a call flow."""

    def __call__(self, steps: CallFlow[T], /) -> Awaitable[T]: ...


class LoadedDictionary(Dictionary):
    """A dictionary at the service.

    Args:
        description: the service's description.
        follow: runs call flows.
        attribute: `Client.attribute`.
    """

    def __init__(self, description: pb.Dictionary, follow: Follow, attribute: Callable[..., AttributionResult]) -> None:
        super().__init__(description)
        self._follow = follow
        self._attribute = attribute

    def features(
        self,
        prompt: PromptLike,
        *,
        top: int = _TOP,
        positions: Positions = None,
        interventions: Sequence[InterventionLike] = (),
        bos: bool | None = None,
    ) -> FeatureActivations:
        """The most active features at each position of a prompt, their number, and the reconstruction error.

        Args:
            prompt: a text, a conversation or token ids; one.
            top: number of features per position.
            positions: as in `Hook`; None: all.
            interventions: edits; features are those of the edited activation.
            bos: as in `tokenize`.
        """
        count = min(top, self.feature_count)
        called = feature_activations(self, prompt, top=count, positions=positions, interventions=interventions, bos=bos)
        return self._follow(called)

    def attribute(
        self,
        clean: PromptLike,
        corrupted: PromptLike | None = None,
        *,
        metric: Metric,
        by_position: bool = True,
        steps: int = 0,
        into: str = "",
        each_pair: bool = False,
        bos: bool | None = None,
    ) -> AttributionResult:
        """Scores every feature by the gradient of a metric (Marks et al. 2024, arXiv:2403.19647).

        Args:
            clean: the prompt with the behaviour, or a batch.
            corrupted: the prompt without the behaviour; scores are (other run's feature - edited run's) x gradient.
                None: scores are feature x gradient of the clean prompt.
            metric: the metric of a run.
            by_position: scores each position; otherwise their sum.
            steps, into, each_pair, bos: as in `Client.attribute`.
        """
        method = "gradient-x-activation" if corrupted is None else "attribution-patching"
        return self._attribute(
            clean,
            corrupted,
            metric=metric,
            method=method,
            steps=steps,
            sites=[self.scored(by_position=by_position)],
            into=into,
            each_pair=each_pair,
            model_id=self.description.model_id,
            bos=bos,
        )


class Dictionaries:
    """`client.dictionaries`. Iterate it for the loaded dictionaries.

    Args:
        unary: runs calls.
        follow: runs call flows.
        attribute: `Client.attribute`.
    """

    def __init__(self, unary: Unary, follow: Follow, attribute: Callable[..., AttributionResult]) -> None:
        self._unary = unary
        self._follow = follow
        self._attribute = attribute

    def load(
        self,
        path: str | PathLike[str] = "",
        *,
        dictionary_id: str = "",
        model_id: str = "",
        site: SiteLike = None,
        output_site: SiteLike = None,
        dtype: str = "",
        configuration: Mapping[str, Any] | None = None,
        tensors: Mapping[str, ArrayLike | str] | None = None,
    ) -> LoadedDictionary:
        """Loads a dictionary in SAELens' layout.

        Args:
            path: a folder of the service with cfg.json and sae_weights.safetensors.
            dictionary_id: id for later requests; empty: the last part of the path, or the site.
            model_id: empty: the one loaded first.
            site: the site that it reads, such as `resid_post.2`; None: that of its configuration.
            output_site: the site that a transcoder writes; None: that of its configuration.
            dtype: float32, float16 or bfloat16; empty: that of its file.
            configuration: the content of cfg.json, instead of a path.
            tensors: tensors by name: arrays, or ids from `put_tensor`.

        Raises:
            ModelNotFoundError, ModelCorruptError, ModelUnsupportedError: the dictionary does not exist, is corrupt, or
                its kind is not supported.
            UnknownSiteError, UnavailableSiteError, InvalidRequestError: the dictionary does not fit the model.
            IdTakenError, PermissionDeniedError, ResourceExhaustedError
        """
        call = _load(path, dictionary_id, model_id, site, output_site, dtype, configuration, tensors)
        return self._loaded(self._unary(call))

    def get(self, dictionary_id: str) -> LoadedDictionary:
        """A loaded dictionary.

        Raises:
            UnknownIdError: there is no such dictionary.
        """
        return self._loaded(self._unary(_get(dictionary_id)))

    def list(self, model_id: str = "") -> list[LoadedDictionary]:
        """The loaded dictionaries of a model, or of all models."""
        return [self._loaded(found) for found in self._unary(_list(model_id))]

    def unload(self, dictionary_id: str) -> None:
        """Frees a dictionary.

        Raises:
            UnknownIdError: there is no such dictionary.
        """
        self._unary(_unload(dictionary_id))

    def __iter__(self) -> Iterator[LoadedDictionary]:
        return iter(self.list())

    def _loaded(self, description: pb.Dictionary) -> LoadedDictionary:
        return LoadedDictionary(description, self._follow, self._attribute)


class AsyncLoadedDictionary(Dictionary):
    """`LoadedDictionary` for the asynchronous client."""

    def __init__(
        self, description: pb.Dictionary, follow: AsyncFollow, attribute: Callable[..., Awaitable[AttributionResult]]
    ) -> None:
        super().__init__(description)
        self._follow = follow
        self._attribute = attribute

    async def features(
        self,
        prompt: PromptLike,
        *,
        top: int = _TOP,
        positions: Positions = None,
        interventions: Sequence[InterventionLike] = (),
        bos: bool | None = None,
    ) -> FeatureActivations:
        """The most active features at each position of a prompt, their number, and the reconstruction error."""
        count = min(top, self.feature_count)
        called = feature_activations(self, prompt, top=count, positions=positions, interventions=interventions, bos=bos)
        return await self._follow(called)

    async def attribute(
        self,
        clean: PromptLike,
        corrupted: PromptLike | None = None,
        *,
        metric: Metric,
        by_position: bool = True,
        steps: int = 0,
        into: str = "",
        each_pair: bool = False,
        bos: bool | None = None,
    ) -> AttributionResult:
        """Scores every feature by the gradient of a metric."""
        method = "gradient-x-activation" if corrupted is None else "attribution-patching"
        return await self._attribute(
            clean,
            corrupted,
            metric=metric,
            method=method,
            steps=steps,
            sites=[self.scored(by_position=by_position)],
            into=into,
            each_pair=each_pair,
            model_id=self.description.model_id,
            bos=bos,
        )


class AsyncDictionaries:
    """`client.dictionaries` of the asynchronous client."""

    def __init__(
        self, unary: AsyncUnary, follow: AsyncFollow, attribute: Callable[..., Awaitable[AttributionResult]]
    ) -> None:
        self._unary = unary
        self._follow = follow
        self._attribute = attribute

    async def load(
        self,
        path: str | PathLike[str] = "",
        *,
        dictionary_id: str = "",
        model_id: str = "",
        site: SiteLike = None,
        output_site: SiteLike = None,
        dtype: str = "",
        configuration: Mapping[str, Any] | None = None,
        tensors: Mapping[str, ArrayLike | str] | None = None,
    ) -> AsyncLoadedDictionary:
        """Loads a dictionary in SAELens' layout."""
        call = _load(path, dictionary_id, model_id, site, output_site, dtype, configuration, tensors)
        return self._loaded(await self._unary(call))

    async def get(self, dictionary_id: str) -> AsyncLoadedDictionary:
        """A loaded dictionary."""
        return self._loaded(await self._unary(_get(dictionary_id)))

    async def list(self, model_id: str = "") -> list[AsyncLoadedDictionary]:
        """The loaded dictionaries of a model, or of all models."""
        return [self._loaded(found) for found in await self._unary(_list(model_id))]

    async def unload(self, dictionary_id: str) -> None:
        """Frees a dictionary."""
        await self._unary(_unload(dictionary_id))

    def _loaded(self, description: pb.Dictionary) -> AsyncLoadedDictionary:
        return AsyncLoadedDictionary(description, self._follow, self._attribute)


def _load(
    path: str | PathLike[str],
    dictionary_id: str,
    model_id: str,
    site: SiteLike,
    output_site: SiteLike,
    dtype: str,
    configuration: Mapping[str, Any] | None,
    tensors: Mapping[str, ArrayLike | str] | None,
) -> Call[pb.Dictionary]:
    """LoadDictionary; warnings of the server become Python's."""
    request = pb.LoadDictionaryRequest(
        dictionary_id=dictionary_id,
        model_id=model_id,
        site=_site(site),
        output_site=_site(output_site),
        dtype=parse_dtype(dtype),
    )
    if configuration is None and tensors is None:
        request.path = fspath(path)
    elif path or configuration is None or tensors is None:
        raise InvalidRequestError("a dictionary is a path, or configuration and tensors", field="path")
    else:
        parts = [pb.DictionaryTensor(name=name, tensor=to_reference(value)) for name, value in tensors.items()]
        request.parts.CopyFrom(pb.DictionaryParts(configuration=json.dumps(configuration), tensors=parts))

    def result(response: pb.LoadDictionaryResponse) -> pb.Dictionary:
        warn(response.dictionary.warnings)
        return response.dictionary

    return Call("dictionaries.load", RPCS["LoadDictionary"], request, result)


def _get(dictionary_id: str) -> Call[pb.Dictionary]:
    request = pb.GetDictionaryRequest(dictionary_id=dictionary_id)
    return Call("dictionaries.get", RPCS["GetDictionary"], request, lambda response: response.dictionary)


def _list(model_id: str) -> Call[Sequence[pb.Dictionary]]:
    request = pb.ListDictionariesRequest(model_id=model_id)
    return Call("dictionaries.list", RPCS["ListDictionaries"], request, lambda response: response.dictionaries)


def _unload(dictionary_id: str) -> Call[None]:
    request = pb.UnloadDictionaryRequest(dictionary_id=dictionary_id)
    return Call("dictionaries.unload", RPCS["UnloadDictionary"], request, lambda response: None)


def _site(site: SiteLike) -> site_pb2.Site | None:
    return sites.parse(site) if isinstance(site, str) else site
