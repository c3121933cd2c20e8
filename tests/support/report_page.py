"""What stands in the page that `report -o` writes."""

import base64
import gzip
import json
import re
from typing import Any


def read_data(page: str) -> dict[str, Any]:
    """Unpack what the script of a page unpacks."""
    (text,) = re.findall(r'<script type="application/gzip" id="data">([\w+/=]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(text, validate=True)))
