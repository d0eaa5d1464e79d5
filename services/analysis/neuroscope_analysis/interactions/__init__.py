"""Interactions of heads: `request` checks what is asked for, `analysis` patches paths from head to head."""
