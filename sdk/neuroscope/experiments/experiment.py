"""A sweep as data: prompts, what is swept, how runs are scored."""

from __future__ import annotations

from neuroscope.experiments.stored_request import StoredRequest
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.vocabulary.counts import counted


class Experiment(StoredRequest[pb.RunSweepRequest]):
    """The description of a sweep, which can be stored as JSON and run by `Client.sweep`.

    Args:
        request: the contract's message. It is kept, not copied.
    """

    __slots__ = ()
    kind = "experiment"

    @classmethod
    def empty(cls) -> pb.RunSweepRequest:
        """An empty request."""
        return pb.RunSweepRequest()

    def __repr__(self) -> str:
        request = self.request
        swept = [grid.features.dictionary_id or grid.site.component for grid in request.grids]
        swept += ["paths"] * len(request.paths)
        swept += ["edges"] * len(request.edges)
        swept += [counted(len(request.cells), "cell")] * bool(request.cells)
        return (
            f"Experiment({len(request.pairs)} {'pair' if len(request.pairs) == 1 else 'pairs'}, "
            f"{' + '.join(swept) or 'nothing swept'}, {request.metric.WhichOneof('kind') or 'no metric'})"
        )
