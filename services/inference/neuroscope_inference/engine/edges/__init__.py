"""Sets of edges: in a cell of a sweep every receiver reads what the cell computes, but over its changed edges.

The graph is that of edge attributions. `sets` reads which edges a request changes, `grid` makes cells of them, `plan`
says what senders write with the value. `hook_plan` changes the inputs of all receivers of a batch of cells while the
model's own code runs, so a cell costs about a forward pass from its first changed receiver on.
"""
