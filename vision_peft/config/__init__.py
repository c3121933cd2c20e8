"""Configs: every key with its type, and from what a user types to one checked Config."""
