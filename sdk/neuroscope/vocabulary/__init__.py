"""Names that the contract and its users share: sites, hooks, prompts, selections, reductions, element types."""
