"""The classes of a user's own code that ``vp.register`` was called with, by the config group in which they are names.

A file of its own, without torch, so that a command line can be checked against the names before anything is loaded.
"""

REGISTERED: dict[str, dict[str, type]] = {"method": {}, "data": {}}  # group -> name -> class


def registered_names(group: str) -> list[str]:
    """Return the names registered in a config group, which have no YAML file; none in a group that takes none."""
    return list(REGISTERED.get(group, {}))
