"""Write and read result rows: all that a plot, a table or a report needs of one run, in one flat JSON file."""

import json
import math
import types
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from vision_peft.packed_bits import check_bits, unpack_bits
from vision_peft.printable import LONGEST_LINE, printable
from vision_peft.protocols import PROTOCOLS
from vision_peft.results.method_titles import add_size, find_titles
from vision_peft.results.row_bounds import LARGEST, bound_problems, metric_problems
from vision_peft.safe_files import read_file, write_file
from vision_peft.strict_json import parse_json
from vision_peft.suggest import find_closest

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 2**25  # of a result.json; one of 20,000 classes has one million
RESULT = "result.json"  # in the folder of a run that has finished
STATUS = "status.json"  # in that of one that has not: the row as far as it goes
FINISHED, DIVERGED, STOPPED, UNFINISHED = "finished", "diverged", "stopped", "unfinished"


@dataclass(kw_only=True)
class Row:
    """One run; accuracies are percentages, None was not measured.

    A field added by a later version has a default, so that older files still load; keys unknown to this version are
    kept in `extra` and written back.
    """

    methods: list[dict[str, Any]]  # [{"name": "adaptformer", "fields": {"bottleneck": 64, ...}}, ...] in attach order
    backbone: str  # name and tag
    dataset: str
    task: str | None  # clothing, cub, split1, ...; None where the dataset has only one
    seed: int
    protocol: str  # one of PROTOCOLS
    top1: float | None  # % on test; None in a search trial, which must not read test
    top5: float | None  # % on test
    mean_per_class: float | None  # % on test, mean over the classes that test has
    val_top1: float | None  # % on val at the chosen epoch
    n_train: int
    n_val: int
    n_test: int
    lr: float
    weight_decay: float
    batch_size: int  # global: over all processes and accumulation steps
    epochs: int  # planned length of the schedule, not the epoch that val chose
    img_size: int | list[int]  # pixels; [height, width] where they differ
    num_frames: int | None  # of a clip; None for images
    views: int  # clips x crops averaged per test item
    normalisation: str
    head: str
    params_trained: int  # without the head
    params_stored: int  # without the head, after baking
    params_head: int
    params_backbone: int  # without the head
    adapter_bytes: int  # the adapter folder on disk
    step_ms: float | None
    images_per_s: float | None  # clips per second where num_frames says so
    data_wait_share: float | None  # 0..1 of the training time spent waiting for data
    peak_memory_mb: float | None  # 10^6 bytes
    train_seconds: float
    flops_forward: int | None  # of one item, attention included
    world_size: int
    precision: str
    device: str
    versions: dict[str, str]
    commit: str | None
    command: str
    curve: list[dict[str, Any]] = field(default_factory=list)  # one entry an epoch
    per_class: dict[str, float | None] = field(default_factory=dict)  # % by class name; None: class absent from test
    confusion: list[list[int]] | None = None  # [truth][prediction] counts; None above 400 classes
    n_bad: int = 0  # of n_test: images that could not be decoded; they count as wrong answers
    n_non_finite: int = 0  # of n_test: answered with NaN or infinity; they count as wrong answers
    ece: float | None = None  # % on test, expected calibration error of 15 bins, with the temperature if any
    ece_raw: float | None = None  # % on test, the same without the temperature
    temperature: float | None = None  # of the adapter's probabilities, fitted on val
    reused_features: bool = False  # step_ms and images_per_s are those of what is behind features computed once
    setting: str | None = None  # digest of `settings`; None: a row of an earlier version
    settings: dict[str, Any] | None = None  # what makes the experiment besides task and seed, where not as by default
    data_digest: str | None = None  # of every item of the data; None: not known
    status: str = FINISHED  # or diverged | stopped | unfinished, in status.json
    reason: str | None = None  # why it diverged or stopped
    updates: int | None = None  # that were done, over all phases
    chosen_epoch: int | None = None  # that val (or, marked, test) chose; None where the last one is kept
    total_seconds: float | None = None  # of all starts: building, training, evaluation, saving
    resumed_with: list[dict[str, Any]] = field(default_factory=list)  # what differed when it was resumed, and after
    tried: dict[str, list[Any]] | None = None  # values that a search compared on val, by dotted key
    task_kind: str = "classes"  # what the labels are: classes, multilabel, regression, ...
    metric: str = "top1"  # the figure that chose the epoch on val: a field of this row, or one of `figures`
    lower_is_better: bool = False  # of `metric`
    val_figure: float | None = None  # `metric` on val at the chosen epoch
    figures: dict[str, float | None] = field(default_factory=dict)  # on test, of tasks other than classes
    figure_words: dict[str, str] = field(default_factory=dict)  # how these are written, with unit: {"map": "mAP, %"}
    hardest: list[dict[str, Any]] = field(default_factory=list)  # surest wrong answers on test, see `row_bounds`
    correct: str | None = None  # which test items were answered right, of classes: see `find_correct`; None: not known
    extra: dict[str, Any] = field(default_factory=dict)  # keys of other versions, flat in the file
    file: Path | None = field(default=None, compare=False)  # it was read from

    @property
    def method(self) -> str:
        """Names as typed, without sizes, for example "adaptformer" or "lora+vpt"."""
        return "+".join(method["name"] for method in self.methods)

    @property
    def sizes(self) -> tuple[Any, ...]:
        """Size of each method, None for a method without one: (64,) for AdaptFormer(bottleneck=64)."""
        return tuple(method["fields"].get(find_size_field(method["fields"])) for method in self.methods)

    @property
    def title(self) -> str:
        """Names as papers have them, for example "AdaptFormer" or "LoRA + VPT-deep"."""
        return " + ".join(find_titles(self.methods, self.head))

    @property
    def label(self) -> str:
        """Titles with sizes, for example "AdaptFormer-64" or "LoRA-8 + VPT-deep-10"."""
        sized = zip(find_titles(self.methods, self.head), self.sizes, strict=True)
        return " + ".join(add_size(title, size) for title, size in sized)


def find_correct(row: Row) -> "np.ndarray | None":
    """Return which test items were answered right, n_test (bool), in the order of the data; None: not known.

    Items without an answer, undecodable ones for example, were not. Rows of equal `data_digest` have the same items.
    """
    return None if row.correct is None else unpack_bits(row.correct, row.n_test)


def find_size_field(fields_of_method: dict[str, Any]) -> str | None:
    """Find the field that is the size of a method: by convention the first number; None if there is none."""
    numbers = (name for name, value in fields_of_method.items() if type(value) in (int, float))
    return next(numbers, None)


_FIELDS = {item.name: item for item in fields(Row) if item.name not in ("extra", "file")}
_HINTS = get_type_hints(Row)


def write_row(path: str | Path, row: Row) -> None:
    """Write `row` as strict JSON, one field a line, atomically: the file is either the old or the complete new one.

    NaN, infinity and what is larger than is read become null. ValueError names every field of the wrong type.
    """
    path = Path(path)
    data = {name: _without_nan(getattr(row, name)) for name in _FIELDS}
    if problems := _problems(data):
        raise ValueError(f"{path} was not written: " + "; ".join(problems))
    data.update({name: _without_nan(value) for name, value in row.extra.items() if name not in _FIELDS})
    lines = (f"  {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in data.items())
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text)


def to_values(row: Row | None) -> dict[str, Any] | None:
    """Return the fields of a row as JSON holds them."""
    return row and {**vars(row), "file": row.file and str(row.file)}


def from_values(values: dict[str, Any] | None) -> Row | None:
    """Return the row that `to_values` took apart."""
    return None if values is None else Row(**{**values, "file": values["file"] and Path(values["file"])})


def read_row(path: str | Path) -> Row:
    """Read and check one result.json; ValueError names the file and every missing or mistyped key."""
    path = Path(path)
    row = parse_row(read_file(path, MAX_BYTES), str(path))
    row.file = path
    return row


def parse_row(text: str | bytes, where: str) -> Row:
    """Check the JSON text of one row; ValueError names `where` it stands and every missing or mistyped key."""
    try:
        data = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{where} must hold one JSON object, a result row, got a {type(data).__name__}")
    if problems := bound_problems(data) or _problems(data):
        raise ValueError(printable(f"{where} is not a result row: " + "; ".join(problems), LONGEST_LINE))
    extra = {name: data.pop(name) for name in list(data) if name not in _FIELDS}
    if isinstance(extra.get(DIVERGED), str):  # as earlier versions wrote it
        data |= {"status": DIVERGED, "reason": extra.pop(DIVERGED)}
    return Row(**data, extra=extra)


def _problems(data: dict[str, Any]) -> list[str]:
    """Describe what is wrong with the keys and values of a row; empty if nothing is."""
    problems = []
    unknown = [name for name in data if name not in _FIELDS]
    for name, item in _FIELDS.items():
        if name not in data:
            if item.default is MISSING and item.default_factory is MISSING:
                close = find_closest(name, unknown, cutoff=0.7)
                problems.append(f"{name} is missing" + (f" (is it the unknown key {close[0]}?)" if close else ""))
        elif not _fits(data[name], _HINTS[name]):
            got = "null" if data[name] is None else f"{type(data[name]).__name__} {printable(data[name], 40)}"
            problems.append(f"{name} must be {_describe_type(_HINTS[name])}, got {got}")
        elif (limit := _limits(name)) and data[name] is not None and not limit[0] <= data[name] <= limit[1]:
            problems.append(f"{name} must be in {limit[0]:g}..{limit[1]:g}, got {data[name]}")
    if problems:
        return problems
    if data["protocol"] not in PROTOCOLS:
        problems.append(f"protocol must be one of {', '.join(PROTOCOLS)}, got {data['protocol']}")
    for method in data["methods"] or [None]:
        if not (method and isinstance(method.get("name"), str) and isinstance(method.get("fields"), dict)):
            problems.append(f'methods must list {{"name": text, "fields": object}} at least once, got {method}')
    problems += metric_problems(data, lambda name: name in _HINTS or hasattr(Row, name))
    if (correct := data.get("correct")) is not None:
        try:
            check_bits(correct, max(data["n_test"], 0))
        except ValueError as error:
            problems.append(f"correct: {error}")
    return problems


def _limits(name: str) -> tuple[float, float] | None:
    if name in ("top1", "top5", "mean_per_class", "val_top1", "ece", "ece_raw"):
        return 0, 100
    if name.endswith(("_seconds", "_ms", "_mb", "_per_s")):
        return 0, 1e15
    return (0, math.inf) if name.startswith(("params_", "temperature")) or name.endswith("_bytes") else None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the annotated type; an int is a float, a bool is neither, no number is NaN."""
    if hint is Any:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return any(_fits(value, option) for option in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def _describe_type(hint: Any) -> str:
    names = {"list": "a list", "dict": "an object", "NoneType": "null", "float": "a number", "int": "an integer"}
    names |= {"str": "text", "bool": "true or false"}
    options = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
    return " or ".join(names[(get_origin(option) or option).__name__] for option in options)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) <= LARGEST else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value
