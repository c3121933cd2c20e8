"""What stands in the page that `report -o` writes, rows for one, and what a user does with it in a browser."""

import base64
import gzip
import json
import re
from collections.abc import Callable
from typing import Any

from vision_peft.results.row import Row


def read_data(page: str) -> dict[str, Any]:
    """Unpack what the script of a page unpacks."""
    (text,) = re.findall(r'<script type="application/gzip" id="data">([\w+/=]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(text, validate=True)))


def list_rows(make_row: Callable[..., Row]) -> list[Row]:
    """Rows of four methods on two tasks, with all that a page can show."""
    rows = []
    per_class = {"cat": 90.0, "dog": 80.0, "red fox": 70.0}
    hard = [{"item": "test/cat/1.png", "true": "cat", "answered": "dog", "confidence": 0.9}]
    sizes = {
        "adaptformer-8": 150_000,
        "adaptformer-64": 1_190_000,
        "lora-8": 290_000,
        "linear-0": 0,
        "full-0": 86_000_000,
    }
    for place, (label, count) in enumerate(sizes.items()):
        name, size = label.split("-")
        for task in ("clothing", "rsscn7"):
            for seed in (0, 1):
                curve = [{"epoch": n, "train_loss": 1 / n, "val_top1": 60.0 + n + seed} for n in range(1, 6)]
                rows.append(
                    make_row(
                        name,
                        {"size": int(size)} if size != "0" else {},
                        task=task,
                        seed=seed,
                        top1=70.0 + 3 * place + seed,
                        params_trained=count,
                        params_stored=2 * count,
                        step_ms=100.0 + place,
                        peak_memory_mb=500.0 * (5 - place),
                        curve=curve,
                        per_class=per_class,
                        confusion=[[9, 1, 0], [2, 8, 0], [1, 2, 7]],
                        hardest=hard,
                        tried={"recipe.lr": [1e-3, 1e-2]} if name == "lora" else None,
                        command=f"vision-peft train method={name} data.task={task} seed={seed}",
                    )
                )
    return rows


def choose(page: Any, name: str, value: str) -> None:
    """Choose an entry as a user does, by its value."""
    done = page.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('change')); return s.value",
        name,
        value,
    )
    assert done == value


def texts(page: Any, selector: str) -> list[str]:
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter((e) => e.offsetParent).map((e) => e.innerText)",
        selector,
    )
