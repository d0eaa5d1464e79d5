"""Dictionaries of both clients: `client.dictionaries` and its results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Generic, TypeAlias, TypeVar

from numpy.typing import ArrayLike

from neuroscope.activations.stream import warn
from neuroscope.base_client.call import AsyncClientPart, Call, CallFlow, ClientPart
from neuroscope.base_client.client_method import client_method
from neuroscope.calls.experiments import attribute, to_attribution
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

DictionaryT = TypeVar("DictionaryT", bound="BaseLoadedDictionary")
SiteLike: TypeAlias = "str | site_pb2.Site | None"
_TOP = 32


class BaseLoadedDictionary(Dictionary):
    """The methods of `LoadedDictionary` and `AsyncLoadedDictionary`.

    Args:
        description: the service's description.
        client: the client that loaded it.
    """

    def __init__(self, description: pb.Dictionary, client: Any) -> None:
        super().__init__(description)
        self._client = client

    @client_method
    def features(
        self,
        prompt: PromptLike,
        *,
        top: int = _TOP,
        positions: Positions = None,
        interventions: Sequence[InterventionLike] = (),
        bos: bool | None = None,
    ) -> CallFlow[FeatureActivations]:
        """The most active features at each position of a prompt, their number, and the reconstruction error.

        Args:
            prompt: a text, a conversation or token ids; one.
            top: number of features per position.
            positions: as in `Hook`; None: all.
            interventions: edits; features are those of the edited activation.
            bos: as in `tokenize`.
        """
        count = min(top, self.feature_count)
        return feature_activations(self, prompt, top=count, positions=positions, interventions=interventions, bos=bos)

    @client_method
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
    ) -> CallFlow[AttributionResult]:
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
        return attribute(
            to_attribution(
                clean,
                corrupted,
                metric,
                method=method,
                steps=steps,
                places=[self.scored(by_position=by_position)],
                into=into,
                each_pair=each_pair,
                model_id=self.description.model_id,
                bos=bos,
            )
        )


class LoadedDictionary(BaseLoadedDictionary, ClientPart):
    """A dictionary at the service."""


class AsyncLoadedDictionary(BaseLoadedDictionary, AsyncClientPart):
    """`LoadedDictionary` for the asynchronous client."""


class BaseDictionaries(Generic[DictionaryT]):
    """The methods of `Dictionaries` and `AsyncDictionaries`.

    Args:
        client: runs the calls.
    """

    _loaded: Callable[[pb.Dictionary, Any], DictionaryT]
    """The class of a loaded dictionary."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @client_method
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
    ) -> CallFlow[DictionaryT]:
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
        return self._loaded((yield from call), self._client)

    @client_method
    def get(self, dictionary_id: str) -> CallFlow[DictionaryT]:
        """A loaded dictionary.

        Raises:
            UnknownIdError: there is no such dictionary.
        """
        return self._loaded((yield from _get(dictionary_id)), self._client)

    @client_method
    def list(self, model_id: str = "") -> CallFlow[list[DictionaryT]]:
        """The loaded dictionaries of a model, or of all models."""
        return [self._loaded(description, self._client) for description in (yield from _list(model_id))]

    @client_method
    def unload(self, dictionary_id: str) -> Call[None]:
        """Frees a dictionary.

        Raises:
            UnknownIdError: there is no such dictionary.
        """
        return _unload(dictionary_id)


class Dictionaries(BaseDictionaries[LoadedDictionary], ClientPart):
    """`client.dictionaries`. Iterate it for the loaded dictionaries."""

    _loaded = LoadedDictionary

    def __iter__(self) -> Iterator[LoadedDictionary]:
        return iter(self.list())


class AsyncDictionaries(BaseDictionaries[AsyncLoadedDictionary], AsyncClientPart):
    """`client.dictionaries` of the asynchronous client."""

    _loaded = AsyncLoadedDictionary


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
