"""Arrays whose axes have names."""
