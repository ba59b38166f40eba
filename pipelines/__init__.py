"""Wiring: which step's output is which step's input."""
