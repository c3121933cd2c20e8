"""From files to pixels: images, videos, arrays."""
