"""What goes over a connection: messages, tensors in frames, errors as statuses, and the connection itself."""
