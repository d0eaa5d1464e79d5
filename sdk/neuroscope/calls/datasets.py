"""Dataset methods of both clients."""

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
    """Dataset methods."""

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
        """Pairs of prompts that fit the model's tokenizer: of equal length, with answers of one token.

        Args:
            dataset: a name of `neuroscope.datasets.NAMED`, a JSONL file of {clean, corrupted, answer, other}, or a list
                of such objects.
            count: maximum number of pairs; None: 64 of a named dataset, all of others.
            seed: seed of a named dataset's generator.
            drop: leaves out the user's own pairs that do not fit; otherwise they are errors. Named datasets always
                leave out what does not fit; `dropped` counts it by reason.
            model_id: empty: the one loaded first.
            bos: as in `tokenize`.

        Raises:
            InvalidRequestError: the dataset is unknown or empty, or a pair (or every pair) does not fit.
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
