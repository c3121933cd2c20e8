"""A bank behind HTTP."""
