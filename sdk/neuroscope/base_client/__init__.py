"""How both clients call a service: calls as values, the clients that run them, retries, progress."""
