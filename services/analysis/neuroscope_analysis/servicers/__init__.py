"""Servicers of the contract."""
