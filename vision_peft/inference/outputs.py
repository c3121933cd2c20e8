"""What the outputs of a model are to whoever has the model without this package."""

import json
from typing import Any

from vision_peft.formats.adapter_info import AdapterInfo
from vision_peft.printable import printable
from vision_peft.tasks import read_task
from vision_peft.tasks.task import Task

_LONGEST = 400  # letters of a record


def find_task(model: Any) -> Task:
    """Return the task of a model of `vp.load`; one of classes where there is no adapter that says so."""
    info: AdapterInfo | None = getattr(model, "adapter_info", None)
    number = model.num_classes if info is None else info.num_classes
    names = (info and info.class_names) or [str(label) for label in range(number)]
    return read_task(info and info.task, names)


def explain_outputs(model: Any, holds: str, *, in_units: bool = False) -> list[str]:
    """Say how outputs are read where the largest is not simply that of the answer, and what files hold of that.

    Args:
        holds: "config.json has", "a folder of hf_peft lacks": what stands before the task and the temperature.
        in_units: whether mean and standard deviation were folded into the head.
    """
    info: AdapterInfo | None = getattr(model, "adapter_info", None)
    task, notes = find_task(model), list[str]()
    if info is not None and task.outputs_are:
        record = dict(info.task or {})
        said = f"its outputs are {task.outputs_are}"
        if in_units and task.to_units() is not None:
            record = {key: value for key, value in record.items() if key not in ("mean", "std")}
            unit = f" in {record['unit']}" if record.get("unit") else ""
            said = f"its outputs are the numbers themselves{unit}, as mean and std are folded into the head"
        record.pop("loss", None)
        shown = printable(json.dumps(record, ensure_ascii=False), _LONGEST)
        notes.append(f"this model answers a task of {task.kind}: {said}; {holds} the task {shown}")
    if info is not None and info.temperature is not None:
        notes.append(
            f"its probabilities are softmax(logits / {info.temperature:.6g}); {holds} the temperature, the likeliest "
            "class is the same without it"
        )
    return notes
