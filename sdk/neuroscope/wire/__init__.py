"""The wire protocol: frames of tensors, errors as gRPC statuses, transports, TLS and shared memory."""
