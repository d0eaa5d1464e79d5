"""Attributions: what the gradient of the metric says of many places at once, where a sweep would run each of them.

`attribution` runs one. `probes` takes gradients: zeros are added where gradients are wanted, and the backward pass of
the model's own modules gives them all. `nodes`, `edges` and `inputs` make scores of gradients; `graph` says which
component reads what others write, and `reading` takes gradients back through norms and projections to the stream.
"""
