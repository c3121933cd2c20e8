"""The page at `/`: one file that loads nothing from anywhere, under a policy that allows its own script and style."""

import base64
import hashlib
import re
from importlib import resources

PAGE = resources.files(__package__ or "vision_peft.inference.serve").joinpath("page.html").read_text("utf-8")


def _hash(tag: str) -> str:
    (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_hash('script')}",
        f"style-src {_hash('style')}",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
