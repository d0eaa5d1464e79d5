"""One generation of the inference service for one HTTP request."""
