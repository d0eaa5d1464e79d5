"""What every gRPC service has in common: a port, health, reflection, tokens, errors as statuses, a drain.

A service is a `program.Program` and an object with the methods of `server.Service`; what it computes is its own. The
packages that this needs besides the SDK's are in the extras of the services.
"""
