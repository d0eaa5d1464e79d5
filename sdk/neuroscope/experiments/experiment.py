"""A whole experiment as a value: prompts, what is swept, how runs are scored."""

from __future__ import annotations

from neuroscope.experiments.stored_request import StoredRequest
from neuroscope.v1 import experiment_pb2 as pb


class Experiment(StoredRequest[pb.RunSweepRequest]):
    """What a sweep is made of. JSON holds it, and `Client.sweep` runs it, today or in a year.

    Args:
        request: as the contract carries it; it is kept as it is.
    """

    __slots__ = ()
    kind = "experiment"

    @classmethod
    def empty(cls) -> pb.RunSweepRequest:
        """A sweep of nothing."""
        return pb.RunSweepRequest()

    def __repr__(self) -> str:
        request = self.request
        swept = [grid.features.dictionary_id or grid.site.component for grid in request.grids]
        swept += ["paths"] * len(request.paths)
        swept += ["edges"] * len(request.edges)
        swept += [f"{len(request.cells)} cells"] * bool(request.cells)
        return (
            f"Experiment({len(request.pairs)} {'pair' if len(request.pairs) == 1 else 'pairs'}, "
            f"{' + '.join(swept) or 'nothing swept'}, {request.metric.WhichOneof('kind') or 'no metric'})"
        )
