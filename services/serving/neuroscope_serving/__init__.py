"""The parts that all gRPC services share: port, health, reflection, tokens, error statuses and draining.

A service is a `program.Program` and an object that implements `server.Service`. The packages that this one needs
besides the SDK's are in the extras of the services.
"""
