"""HTTP building blocks: JSON, bytes, event streams, errors, disconnects."""
