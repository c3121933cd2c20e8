"""Tuned models of other code, one source a file."""
