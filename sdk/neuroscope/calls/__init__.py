"""Methods that the synchronous and asynchronous clients share."""
