"""Circuits: the parts of a model's graph that a behaviour needs.

circuit = Circuit.load("ioi.json")
circuit.nodes, circuit.edges                by name, such as a1.h3, a0.h2->a1.h3<k>
circuit.evaluation.faithfulness
circuit.strongest(size=0.05)                a smaller circuit of the same graph
"""

from neuroscope.circuits.circuit import Circuit
from neuroscope.circuits.comparison import CircuitComparison
from neuroscope.circuits.content import METHODS, method_name
from neuroscope.circuits.extent import Extent
from neuroscope.circuits.graph import ComponentGraph

__all__ = ["METHODS", "Circuit", "CircuitComparison", "ComponentGraph", "Extent", "method_name"]
