"""Services as supervised processes, and the traces that they send."""
