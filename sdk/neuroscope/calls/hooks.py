"""Hooks that a service keeps: a part of both clients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neuroscope.base_client.call import Call
from neuroscope.base_client.client_method import client_method
from neuroscope.calls import requests
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.vocabulary.hooks import HookLike


class HookCalls:
    """What both clients do with hooks that the service keeps."""

    @client_method
    def register_hooks(self, hooks: Sequence[HookLike], model_id: str = "") -> Call[list[str]]:
        """Stores hooks under their ids for later requests (`hook_ids=`); all of them or none.

        Args:
            hooks: in any form of `neuroscope.vocabulary.hooks`.
            model_id: a loaded model to check layers and points against; empty: only the vocabulary is checked.

        Returns:
            The ids, in order; a REST hook object that captures both sides gives two.

        Raises:
            UnknownSiteError, UnavailableSiteError, IdTakenError
        """
        return requests.register_hooks(hooks, model_id)

    @client_method
    def hooks(self) -> Call[list[pb.HookSpec]]:
        """The stored hooks."""
        return requests.list_hooks()

    @client_method
    def clear_hooks(self, ids: Iterable[str] = ()) -> Call[list[str]]:
        """Removes stored hooks, all if none is named, and returns the ids of those removed."""
        return requests.clear_hooks(ids)
