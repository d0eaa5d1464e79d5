"""The calls of the contract, a class per service. They know messages and the engine, and nothing of gRPC.

A method takes its request and the trace context that its spans belong to, raises the errors of `neuroscope.errors`, and
returns a message or yields events. `neuroscope_inference.service` finds it by the call's name.
"""
