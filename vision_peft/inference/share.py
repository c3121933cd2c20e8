"""Put an adapter on the Hugging Face hub, with a card made of the row of its run: no pickle, nothing that is run."""

import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from huggingface_hub import HfApi

from vision_peft.backbones.names import hub_repository
from vision_peft.formats.adapter_files import INFO, TENSORS, read_adapter_info
from vision_peft.formats.adapter_info import AdapterInfo
from vision_peft.formats.backbone_record import BACKBONE
from vision_peft.inference.load import find_adapter
from vision_peft.inference.make_files import make_files
from vision_peft.printable import printable
from vision_peft.results.model_card import CardFacts, make_card
from vision_peft.results.row import RESULT, Row, read_row
from vision_peft.tasks import find_kind
from vision_peft.tasks.depth import Depth
from vision_peft.tasks.embedding import Embedding

CARD = "README.md"


def write_folder(source: str | Path, repository: str, folder: Path, *, overwrite: bool = False) -> list[str]:
    """Write to `folder` what the repository OWNER/NAME will hold: the adapter, its card, weights that lie beside it.

    Args:
        source: a run folder or an adapter folder.
        repository: its name stands in the card.
        folder: made where it is absent.
        overwrite: replace files that are there.

    Returns:
        The names of the files.

    Raises:
        FileNotFoundError, ValueError: no adapter there, or one that is damaged.
        FileExistsError: a file is there, and `overwrite` is False.
    """
    adapter = find_adapter(source)
    info = read_adapter_info(adapter)
    beside = (info.backbone.get("arguments") or {}).get("checkpoint") == BACKBONE and (adapter / BACKBONE).is_file()
    files = [INFO, TENSORS, *([BACKBONE] if beside else [])]
    with make_files(folder, [*files, CARD], overwrite) as made:
        for name in files:
            shutil.copyfile(adapter / name, made / name)
        size = sum((made / name).stat().st_size for name in (INFO, TENSORS))
        facts = _collect_facts(repository, info, _find_row(adapter), size, beside)
        (made / CARD).write_text(make_card(facts), encoding="utf-8")
    return [*files, CARD]


def upload(folder: Path, repository: str, *, private: bool = False, overwrite: bool = False) -> str:
    """Upload the files of `write_folder` as one commit and return the address of the repository.

    The token is that of huggingface_hub: `hf auth login`, or the variable HF_TOKEN.

    Raises:
        FileExistsError: the repository holds an adapter, and `overwrite` is False.
        ConnectionError: the hub cannot be reached, or refuses.
    """
    api = HfApi(endpoint=huggingface_hub.constants.ENDPOINT)
    with _one_line(repository):
        there = api.repo_exists(repository)
        if there and not overwrite and api.file_exists(repository, INFO):
            raise FileExistsError(f"{repository} holds an adapter already and is kept: --overwrite replaces it")
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Adapter of vision_peft")
    return str(address)


def _collect_facts(repository: str, info: AdapterInfo, row: Row | None, size: int, beside: bool) -> CardFacts:
    arguments = info.backbone.get("arguments") or {}
    config = _find_weights(info.backbone_name) if arguments.get("pretrained") else None
    return CardFacts(
        repository=repository,
        methods=info.methods,
        backbone=info.backbone_name,
        backbone_license=info.license or (config and config.license),
        hub_id=hub_repository(info.backbone_name) or (config and config.hf_hub_id) or None,
        weights="beside" if beside else Path(str(arguments.get("checkpoint") or "")).name,
        class_names=info.class_names,
        **_describe_answers(info),
        input={"size": (info.backbone.get("architecture") or {}).get("img_size") or ["any"], **(info.input or {})},
        counts=info.counts,
        adapter_bytes=size,
        version=info.toolkit_version,
        row=row,
    )


def _describe_answers(info: AdapterInfo) -> dict[str, Any]:
    """Say what the adapter answers, in the words of its kind of task."""
    kind = find_kind((info.task or {"kind": "classes"})["kind"])
    count = len(info.class_names) if info.class_names else info.num_classes
    found = {"answers": f"{count} {kind.nouns[count != 1]}", "hub_task": kind.hub_task}
    if kind.answers_maps:
        what = "the depth of every pixel in metres (H W)" if kind is Depth else "the class of every pixel (H W)"
        return {**found, "answer": f"the image, upright, and {what}", "call": "masks"}
    if kind is Embedding:
        return {**found, "answer": "numbers that are alike where images are of one class", "call": "features"}
    if not info.num_classes:
        nothing = {"answers": "no head", "hub_task": Embedding.hub_task}
        return {**nothing, "answer": "the features of the tuned backbone", "call": "features"}
    ranked = "labels with probabilities, the most likely first"
    return {
        **found,
        "answer": ranked if kind.ranks_names else f"what it answers: a task of {kind.kind}",
        "call": "predict",
    }


def _find_weights(name: str) -> Any:
    """Find what timm knows of a set of weights, None where it is none of timm's."""
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        return None


def _find_row(adapter: Path) -> Row | None:
    path = adapter.parent / RESULT
    return read_row(path) if adapter.name == "adapter" and path.is_file() else None


@contextmanager
def _one_line(repository: str) -> Iterator[None]:
    """Turn what the hub's client raises, whose classes differ between its versions, into one line without a token."""
    try:
        yield
    except FileExistsError:
        raise
    except Exception as error:
        frames = traceback.walk_tb(error.__traceback__)
        if not any(frame.f_globals.get("__name__", "").startswith("huggingface_hub.") for frame, _ in frames):
            raise
        chain = [error, error.__cause__, error.__context__]
        status = next((r.status_code for each in chain if (r := getattr(each, "response", None)) is not None), None)
        reason = printable(" ".join(str(error).split()), 300)
        if status in (401, 403) or "token" in type(error).__name__.lower():
            reason = "it takes no such upload from you: `hf auth login`, or HF_TOKEN, with a token that may write"
        raise ConnectionError(f"cannot share {repository} on {huggingface_hub.constants.ENDPOINT}: {reason}") from None
