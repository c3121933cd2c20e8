"""Small photographs and tiny configs."""

from support.tiny_fixtures import photos, tiny

__all__ = ["photos", "tiny"]
