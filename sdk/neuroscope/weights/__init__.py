"""The weights of a model as numpy arrays, named and oriented as TransformerLens has them.

    weights = client.weights("attention", "W_out")
    weights.W_Q[5, 3]                                    layer 5, head 3: (d_model, d_head)
    weights["ln1.w"]                                     names with a dot are items
    weights.ov(5, 3).eigenvalues()                       (W_V, W_O) of a head, never multiplied out
    weights.ov(0, 2) @ weights.qk(1, 4)                  composition of a head's output with another's query
    weights.save("weights.safetensors")

Activations are multiplied from the left: x @ weights.W_in[5] + weights.b_in[5]. `weights.notes` lists operations
between these matrices and the model's activations: rotary embedding, norms, scales.
"""

from neuroscope.weights.factored_matrix import FactoredMatrix
from neuroscope.weights.names import GROUPS, WEIGHTS, WeightName
from neuroscope.weights.weight_array import WeightArray
from neuroscope.weights.weights import Weights

__all__ = ["GROUPS", "WEIGHTS", "FactoredMatrix", "WeightArray", "WeightName", "Weights"]
