"""The analysis service: what streams of activations say about how a model works; it sees models by the contract."""
