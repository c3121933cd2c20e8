"""Kinds of tasks, one a file. A file in this folder is a kind by existing; nothing else lists it."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from vision_peft.config.schema import Recipe
from vision_peft.data.dataset import ImageDataset
from vision_peft.data.targets import Targets
from vision_peft.suggest import did_you_mean
from vision_peft.tasks.task import Task
from vision_peft.tuning.head_kinds import MAP_KINDS


def _find() -> dict[str, type[Task]]:
    found: dict[str, type[Task]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for _, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, Task) and value.__module__ == module.__name__ and "kind" in value.__dict__:
                found[value.kind] = value
    return found


TASKS = _find()


def find_kind(kind: str) -> type[Task]:
    """Return the kind of task of that name; ValueError where there is none."""
    if kind not in TASKS:
        raise ValueError(f"a kind of task is one of {', '.join(TASKS)}; got {kind!r}{did_you_mean(kind, TASKS)}")
    return TASKS[kind]


def find_task(dataset: ImageDataset) -> type[Task]:
    """Return the kind of task that a dataset is for."""
    return find_kind("classes" if dataset.targets is None else dataset.targets.kind)


def learn_task(train_set: ImageDataset, recipe: Recipe) -> Task:
    """Create the task of a dataset from its training images; see `Task.learn`."""
    kind = find_task(train_set)
    if recipe.loss not in ("auto", *kind.losses):
        wanted = ", ".join(("auto", *kind.losses))
        raise ValueError(f"recipe.loss for a task of {kind.kind} must be one of {wanted}; got {recipe.loss}")
    if (recipe.mixup or recipe.cutmix) and not kind.mixes:
        raise ValueError(f"mixup and cutmix mix classes: for a task of {kind.kind} give recipe.mixup=0 recipe.cutmix=0")
    if recipe.answers_maps != kind.answers_maps:
        heads = f"one for maps: {', '.join(MAP_KINDS)}" if kind.answers_maps else "linear, attentive, ..."
        raise ValueError(f"recipe.head={recipe.head} does not fit a task of {kind.kind}, whose head is {heads}")
    if recipe.embedding_width is not None and not kind.has_width:
        raise ValueError(
            f"recipe.embedding_width is for data.task_kind=embedding, got a task of {kind.kind}: leave it out"
        )
    if recipe.logit_adjustment is not None and not kind.adjusts_logits:
        raise ValueError(f"recipe.logit_adjustment is for classes: for a task of {kind.kind} leave it out")
    if len(train_set.classes) < kind.least_classes:
        raise ValueError(f"there is nothing to learn from {len(train_set.classes)} class")
    return kind.learn(train_set, recipe)


def read_task(
    record: Mapping[str, Any] | None,
    classes: Sequence[str],
    temperature: float | None = None,
    targets: Targets | None = None,
) -> Task:
    """Return the task that an adapter records; None is one of classes.

    Raises:
        ValueError: an unknown kind, or values that it does not have.
    """
    fields = dict(record or {"kind": "classes"})
    kind = find_kind(str(fields.pop("kind", None)))
    if temperature is not None:
        fields["temperature"] = temperature
    return kind(classes, targets, **fields)


def describe_classes(dataset: ImageDataset) -> str:
    """Say how much is asked of an image: "3 classes", "1 number"."""
    count = len(dataset.classes)
    return f"{count} {find_task(dataset).nouns[count != 1]}"


def describe_task(task: Task) -> dict[str, Any]:
    """Return what a row says of its task; nothing of classes, whose figures have fields of their own."""
    if task.kind == "classes":
        return {}
    return {
        "task_kind": task.kind,
        "metric": task.metric,
        "lower_is_better": task.lower_is_better,
        "figure_words": dict(task.words),
    }


def record_task(task: Task) -> dict[str, Any] | None:
    """Return what adapter.json holds of a task: None of classes, whose temperature stands there by itself."""
    return None if task.kind == "classes" else {"kind": task.kind, **task.record()}
