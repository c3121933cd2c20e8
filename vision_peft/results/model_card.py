"""The model card of an adapter: the README.md of its repository, made of the row of its run and of what it records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from vision_peft.printable import LONGEST_LINE, for_markdown, printable
from vision_peft.results.commands import collect_commands
from vision_peft.results.figures import (
    describe_figure,
    find_chosen_k,
    format_number,
    get_figure,
    get_val_score,
    is_tested,
    list_figures,
)
from vision_peft.results.labels import format_tried, format_value
from vision_peft.results.row import Row

# Licences that the hub knows by these names, of those that timm's weights have.
_LICENCES = ("apache-2.0", "mit", "cc-by-nc-4.0", "cc-by-4.0", "cc-by-nc-sa-4.0", "bsd-3-clause", "openrail", "gpl-3.0")
_SHOWN_CLASSES = 50
_PROTOCOLS = {
    "val_select": "the epoch that is best on val is kept, and test is read once, at the end.",
    "val_select_retrain": "val chose the epoch of a first training, the model was trained again on train and val for "
    "as many epochs, and test was read once, at the end.",
    "last_epoch": "the last epoch of a training on train and val is kept, and test is read once, at the end.",
    "best_test": "**the epoch that is best on test is kept**, as older papers did: test chose, so that the figure is "
    "too high.",
}


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What an adapter says of itself, in plain values."""

    repository: str  # OWNER/NAME
    methods: Sequence[Mapping[str, Any]]  # {"name", "fields"} in attach order
    backbone: str
    backbone_license: str | None
    hub_id: str | None  # repository of the backbone's weights
    weights: str  # "", "beside" where they lie in the repository, else the file that the user has to have
    class_names: Sequence[str] | None
    answers: str  # how much is answered: "10 classes", "1 number"
    answer: str  # what an answer is, in words
    call: str  # how it is asked for: predict, masks or features
    hub_task: str | None  # what the hub calls such a task; None: nothing
    input: Mapping[str, Any]
    counts: Mapping[str, int]
    adapter_bytes: int
    version: str
    row: Row | None  # None: there is no run


def make_card(facts: CardFacts) -> str:
    """Return the card as Markdown with the hub's metadata in front; no name in it can break its layout."""
    parts = [_front_matter(facts), *_head(facts), *_use(facts), *_results(facts), *_details(facts)]
    return "\n".join(parts) + "\n"


def _front_matter(facts: CardFacts) -> str:
    row, known = facts.row, (facts.backbone_license or "").lower()
    task = facts.hub_task
    if task == "image-classification" and facts.input.get("num_frames") is not None:
        task = "video-classification"
    licence: dict[str, Any] = {}
    if known:
        licence = {"license": known} if known in _LICENCES else {"license": "other", "license_name": printable(known)}
    results = []
    if row is not None and (chosen := get_figure(row, row.metric)) is not None:
        results = [
            EvalResult(
                task_type=task or "other",
                dataset_type=printable(row.dataset),
                dataset_name=printable(row.dataset + (f" {row.task}" if row.task else "")),
                dataset_split="test",
                metric_type="accuracy" if row.metric == "top1" else printable(row.metric),
                metric_name=printable(describe_figure(row, row.metric).removesuffix(" %")),
                metric_value=float(format_number(chosen)),
            )
        ]
    data = ModelCardData(
        library_name="vision_peft",
        pipeline_tag=task,
        tags=["vision_peft", "peft", "timm", *dict.fromkeys(printable(method["name"]) for method in facts.methods)],
        base_model=facts.hub_id,
        model_name=facts.repository.partition("/")[2] if results else None,
        eval_results=results or None,
        **licence,
    )
    return f"---\n{data.to_yaml()}\n---"


def _head(facts: CardFacts) -> list[str]:
    methods = " and ".join(f"`{_code(method['name'])}`" for method in facts.methods)
    where = "" if facts.row is None else f", trained on {for_markdown(facts.row.dataset)}"
    beside = "lie beside it" if facts.weights == "beside" else "are not in it"
    return [
        f"\n# {for_markdown(facts.repository.partition('/')[2])}\n",
        f"An adapter of vision_peft: {methods} on `{_code(facts.backbone)}`{where}, {facts.answers}, "
        f"{facts.adapter_bytes / 1e6:.1f} MB. The backbone is a plain timm model; its weights {beside}.",
    ]


def _use(facts: CardFacts) -> list[str]:
    file = f", checkpoint={_code(facts.weights)!r}" if facts.weights not in ("", "beside") else ""
    own = f"\nThe backbone's weights came from the file `{_code(facts.weights)}`, which you need as well."
    item = "video.mp4" if facts.input.get("num_frames") else "photo.jpg"
    calls = {
        "predict": f'predict("{item}")',
        "masks": f'image, answer = find_mask(predict, "{item}")',
        "features": f'predict.features("{item}")',
    }
    masks = ["from vision_peft.inference.predict_masks import find_mask"] if facts.call == "masks" else []
    return [
        "\n## Use\n",
        "```python",
        "import vision_peft as vp",
        *masks,
        "",
        f'predict = vp.Predictor("hf-hub:{facts.repository}"{file})',
        f"{calls[facts.call]}  # {facts.answer}",
        "```",
        f'\n`vp.load("hf-hub:{facts.repository}"{file})` gives the timm model itself.',
        *([own] if file else []),
    ]


def _results(facts: CardFacts) -> list[str]:
    row = facts.row
    if row is None or not is_tested(row):
        return ["\n## Results\n", "No result on test is recorded with this adapter."]
    task = f" {for_markdown(row.task)}" if row.task else ""
    figures = {describe_figure(row, name): get_figure(row, name) for name in list_figures(row)}
    figures |= {"top-5 %": row.top5, f"{describe_figure(row, row.metric)} on val": get_val_score(row)}
    shown = {name: format_number(value) for name, value in figures.items() if value is not None}
    heads, cells = (" | ".join(for_markdown(text) for text in texts) for texts in (shown, shown.values()))
    tried = "; ".join(
        f"{for_markdown(key)} out of {', '.join(for_markdown(format_tried(value)) for value in values[:20])}"
        for key, values in (row.tried or {}).items()
    )
    chosen = "" if row.chosen_epoch is None else f", epoch {row.chosen_epoch} chosen"
    chosen = chosen if (k := find_chosen_k(row)) is None else f", k={k} chosen"
    return [
        "\n## Results\n",
        f"| data | test images | {heads} |",
        f"|---|---|{'---|' * len(shown)}",
        f"| {for_markdown(row.dataset)}{task} | {row.n_test:,} | {cells} |",
        f"\nProtocol `{row.protocol}`: {_PROTOCOLS[row.protocol]} Budget: {row.n_train:,} training images, "
        f"{row.epochs} epochs{chosen}, batch {row.batch_size}, learning rate {row.lr:g}, seed {row.seed}, "
        f"{row.train_seconds:,.0f} s of training on {for_markdown(row.device)} in {for_markdown(row.precision)}. "
        + (f"Chosen on val: {tried}." if tried else "No search over settings is recorded."),
    ]


def _details(facts: CardFacts) -> list[str]:
    row, counts = facts.row, facts.counts
    methods = "; ".join(_describe_method(method) for method in facts.methods)
    numbers = ", ".join(f"{counts[key]:,} {key}" for key in ("trained", "stored", "head", "backbone") if key in counts)
    size = " x ".join(map(str, facts.input["size"]))
    frames = f", {facts.input['num_frames']} frames" if facts.input.get("num_frames") else ""
    names = [for_markdown(name) for name in (facts.class_names or [])[:_SHOWN_CLASSES]]
    more = len(facts.class_names or []) - len(names)
    lines = [
        ("methods", methods),
        ("parameters", f"{numbers} (trained and stored without the head)"),
        ("input", f"{size} pixels{frames}, resize {for_markdown(facts.input.get('resize'))}"),
        ("answers", ", ".join(names) + (f" and {more:,} more" if names and more else "") if names else "not named"),
        ("licence of the backbone's weights", for_markdown(facts.backbone_license or "not known")),
    ]
    if row is not None:
        lines += [
            ("digest of the data", f"`{_code(row.data_digest or 'not recorded')}`"),
            ("commit", f"`{_code(row.commit or 'not recorded')}`"),
            ("versions", for_markdown(", ".join(f"{name} {text}" for name, text in row.versions.items()))),
        ]
    lines += [("written by", f"vision_peft {for_markdown(facts.version)}")]
    table = [f"| {name} | {text} |" for name, text in lines]
    commands = [] if row is None else [printable(line, LONGEST_LINE) for line in collect_commands([row], {})]
    shown = "\n".join(line.replace("`" * 3, "'") for line in commands)
    command = ["\nThe command:\n", "```bash", shown, "```"] if commands else []
    return ["\n## Details\n", "| | |", "|---|---|", *table, *command]


def _describe_method(method: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{key}={format_value(value)}" for key, value in method["fields"].items())
    return for_markdown(f"{method['name']}({fields})")


def _code(text: object) -> str:
    """Text between backticks."""
    return printable(text).replace("`", "'").replace("|", "/")
