"""Methods of discovery, each one entry: how it is asked, and of how many pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neuroscope.analysis import AnalysisClient, DiscoveryResult
from tests.truth.tasks import Pairs, Task


@dataclass(frozen=True)
class Method:
    """A method."""

    name: str
    """As `discover_circuit` knows it."""
    reference: str
    """Whose it is."""
    of_nodes: bool = False
    has_threshold: bool = False
    """Says itself how many edges there are; others are asked for as many as are planted."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def discover(
        self, analysis: AnalysisClient, model_id: str, pairs: Pairs, task: Task | None, **options: Any
    ) -> DiscoveryResult:
        """Runs it; without a task it is asked for a tenth of the edges."""
        asked: dict[str, Any] = {**self.options, **options}
        if not self.has_threshold:
            known = (
                0 if task is None else len({sender for sender, _ in task.circuit} if self.of_nodes else task.circuit)
            )
            asked |= {"count": known} if known else {"size": 0.1}
        return analysis.discover_circuit(pairs, method=self.name, model_id=model_id, **asked)

    def _planted(self, task: Task) -> int:
        return len({sender for sender, _ in task.circuit}) if self.of_nodes else len(task.circuit)


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("edge-patching", "what each edge carries is replaced, all else computed anew"),
        Method("path-patching", "Wang et al. 2022; Goldowsky-Dill et al. 2023"),
        Method("eap", "Syed et al. 2023"),
        Method("eap-ig", "Hanna et al. 2024"),
        Method("acdc", "Conmy et al. 2023", has_threshold=True),
        Method("activation-patching", "Vig et al. 2020; Meng et al. 2022", of_nodes=True),
        Method("attribution-patching", "Nanda 2023", of_nodes=True),
    )
}
