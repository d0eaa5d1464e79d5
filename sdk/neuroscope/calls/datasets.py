"""Datasets that fit the tokenizer of a service's model: a part of both clients of the inference service."""

from __future__ import annotations

from collections.abc import Sequence

from neuroscope.base_client.call import CallFlow
from neuroscope.base_client.client_method import client_method
from neuroscope.calls import requests
from neuroscope.calls.dataset_fitting import dataset
from neuroscope.datasets.dataset import Dataset
from neuroscope.datasets.example import Text
from neuroscope.datasets.fitting import DatasetLike
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.model_info import Tokens


class DatasetCalls:
    """What both clients do with datasets."""

    @client_method
    def dataset(
        self,
        dataset: DatasetLike,
        *,
        count: int | None = None,
        seed: int = 0,
        drop: bool = False,
        model_id: str = "",
        bos: bool | None = None,
    ) -> CallFlow[Dataset]:
        """Pairs of prompts that fit the model's tokenizer: equally long, with answers of one token.

        Args:
            dataset: a name of `neuroscope.datasets.NAMED`, a JSONL file of {clean, corrupted, answer, other}, or a list
                of such.
            count: so many pairs at most; None: 64 of a named one, all of others.
            seed: of a named one's generator.
            drop: leaves out pairs of the user's own that do not fit; otherwise they are errors. Of named datasets what
                does not fit is always left out; the dataset says how much, and why.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.

        Raises:
            InvalidRequestError: there is no such dataset, it is empty, a pair does not fit, or none does.
        """
        return _steps(dataset, count, seed, drop, model_id, bos)


def _steps(
    wanted: DatasetLike, count: int | None, seed: int, drop: bool, model_id: str, bos: bool | None
) -> CallFlow[Dataset]:
    def tokenize(texts: Sequence[Text], bos: bool | None) -> CallFlow[list[Tokens]]:
        found: list[Tokens] = []
        for text in texts:
            tokens = yield from requests.tokenize(text, model_id=model_id, bos=bos)
            found.append(tokens)
        return found

    def describe() -> CallFlow[pb.Model]:
        return (yield from requests.model(model_id)).model

    return dataset(tokenize, describe, wanted, count=count, seed=seed, bos=bos, drop=drop)
