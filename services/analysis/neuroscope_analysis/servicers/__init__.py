"""One module for each service of the contract, or for each kind of analysis."""
