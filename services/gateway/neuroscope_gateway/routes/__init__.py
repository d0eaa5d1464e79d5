"""One module for each group of REST routes."""
