"""vision-peft predict: what a user types, what is printed and what is written."""

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.families import randomise_tuned
from support.tiny_states import NAME, TINY
from support.video_files import write_video

import vision_peft as vp
from vision_peft.cli import predict
from vision_peft.cli._verb import make_parser
from vision_peft.cli.main import main
from vision_peft.data.datasets.folder import Folder
from vision_peft.distributed.device import choose_compute
from vision_peft.inference.prepare import Preparation
from vision_peft.tasks.classes import Classes
from vision_peft.training.evaluation import create_eval_loader, evaluate

INPUT: dict[str, Any] = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
CLASSES = ["blue", "green", "red"]


def save(folder: Path, **arguments: Any) -> Path:
    torch.manual_seed(7)
    model = vp.create_backbone(NAME, img_size=32, patch_size=8, **TINY, **arguments)
    vp.attach(model, vp.LoRA(rank=2))
    vp.replace_head(model, "linear", 3)
    randomise_tuned(model)
    settings = {**INPUT, "num_frames": 4, "views": 2} if "num_frames" in arguments else INPUT
    return vp.save_adapter(model, folder, class_names=CLASSES, input_config=settings, temperature=0.5)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def here(tmp_path: Path, photos: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the adapter and photographs, one of them damaged, which is the current one."""
    shutil.copytree(photos / "test", tmp_path / "photos")
    shutil.copytree(adapter, tmp_path / "ADAPTER")
    (tmp_path / "photos" / "red" / "bad.png").write_bytes((photos / "test" / "red" / "0.png").read_bytes()[:200])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, code: int = 0) -> None:
    assert main(["predict", *words, "--workers", "0", "--device", "cpu"]) == code


def stop(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a mistake is answered with."""
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "loading" not in line]
    return line


def lines_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_the_accuracy_is_that_of_evaluate_and_what_cannot_be_read_is_listed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("ADAPTER", "photos", "gone.png", code=predict.UNREAD)
    shown = capsys.readouterr()
    data = Folder(root="unused").make
    names = sorted(str(path) for path in here.glob("photos/*/[0-9].png"))
    dataset: Any = data(names, [CLASSES.index(Path(name).parent.name) for name in names], CLASSES, None)  # pyright: ignore
    model, compute = vp.load("ADAPTER", device="cpu"), choose_compute("cpu", "fp32")
    dataset.set_evaluation(Preparation.of(model).settings)
    expected = evaluate(model, create_eval_loader(dataset, compute, 0), Classes(CLASSES, temperature=0.5), compute)
    assert shown.out.splitlines()[-1] == (
        f"24 images; {round(expected.top1 * 0.24)} right of 24 whose class is known: top-1 {expected.top1:.2f} %, "
        f"mean per class {expected.mean_per_class:.2f} %, expected calibration error {expected.ece:.2f} %"
    )
    assert "2 inputs could not be read:\n  gone.png: there is no such file\n  photos/red/bad.png: OSError" in shown.err
    table = shown.out.splitlines()[:-1]
    assert len(table) == 24
    path, label, *_ = table[0].split()
    assert (path, label in CLASSES) == ("photos/blue/0.png", True)
    wrong = sum(Path(line.split()[0]).parent.name != line.split()[1] for line in table)
    assert sum("(true: " in line for line in table) == wrong


def test_every_kind_of_file_holds_every_answer(here: Path) -> None:
    outputs = ["--csv", "a.csv", "--jsonl", "a.jsonl", "--features", "a.npz", "--montage", "a.png"]
    run("ADAPTER", "photos", *outputs, "--probabilities", "--top", "2", code=predict.UNREAD)
    lines = lines_of("a.jsonl")
    assert [line["path"] for line in lines][:2] == ["photos/blue/0.png", "photos/blue/1.png"]
    assert len(lines) == 24
    rows = list(csv.DictReader(io.StringIO(Path("a.csv").read_text(encoding="utf-8"))))
    features = np.load("a.npz", allow_pickle=False)
    expected = vp.Predictor("ADAPTER", device="cpu")
    for line, row, path, label, feature in zip(
        lines, rows, features["paths"], features["labels"], features["features"], strict=True
    ):
        assert line["path"] == row["path"] == path
        assert line["true"] == row["true"] == CLASSES[label]
        (name, value), other = line["top"]
        assert (line["label"], line["probability"]) == (row["label"], float(row["probability"])) == (name, value)
        assert [row["label_2"], float(row["probability_2"])] == other
        assert list(line["probabilities"]) == CLASSES
        assert line["probabilities"][name] == float(row[f"p({name})"]) == value
        assert feature.shape == (16,)
    torch.testing.assert_close(torch.from_numpy(features["features"]), expected.features([*features["paths"]]))
    torch.testing.assert_close(
        torch.tensor([list(line["probabilities"].values()) for line in lines]),
        expected.probabilities([line["path"] for line in lines]),
    )
    assert Image.open("a.png").size[0] > 500


def test_raw_switches_the_temperature_off(here: Path) -> None:
    run("ADAPTER", "photos/red/0.png", "--jsonl", "calibrated.jsonl")
    run("ADAPTER", "photos/red/0.png", "--jsonl", "raw.jsonl", "--raw")
    (calibrated,), (raw,) = lines_of("calibrated.jsonl"), lines_of("raw.jsonl")
    assert calibrated["label"] == raw["label"]
    odds = [line["top"][0][1] / line["top"][1][1] for line in (calibrated, raw)]
    assert odds[0] == pytest.approx(odds[1] ** 2, rel=1e-3)


def test_resume_goes_on_behind_the_last_whole_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("ADAPTER", "photos", "--jsonl", "a.jsonl", code=predict.UNREAD)
    summary = capsys.readouterr().out.splitlines()[-1]
    whole = Path("a.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    Path("a.jsonl").write_bytes(b"".join(lines[:10]) + lines[10][:30])
    run("ADAPTER", "photos", "--jsonl", "a.jsonl", "--resume", code=predict.UNREAD)
    shown = capsys.readouterr()
    assert "10 of 25 images are in a.jsonl already" in shown.err
    assert shown.out.splitlines()[-1].partition("; ")[2] == summary.partition("; ")[2]  # calibration error included
    resumed = Path("a.jsonl").read_bytes()
    assert [json.loads(line)["path"] for line in resumed.splitlines()] == [json.loads(line)["path"] for line in lines]
    assert shown.out.splitlines()[-1].startswith("14 images; ")
    right = re.findall(r"; (\d+ right of 24) whose class is known: (top-1 \S+ %)", summary)
    assert re.findall(r"; (\d+ right of 24) whose class is known: (top-1 \S+ %)", shown.out) == right
    Path("photos/red/bad.png").unlink()
    run("ADAPTER", "photos", "--jsonl", "a.jsonl", "--resume")
    assert capsys.readouterr().out.startswith("nothing left to do: a.jsonl has all 24 images; ")
    assert Path("a.jsonl").read_bytes() == resumed


def test_paths_on_stdin_and_lines_on_stdout(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("photos/red/1.png\nphotos/blue/2.png\n"))
    run("ADAPTER", "-", "--jsonl", "-")
    shown = capsys.readouterr()
    assert [json.loads(line)["true"] for line in shown.out.splitlines()] == ["red", "blue"]
    assert "2 images; " in shown.err


def test_a_model_of_clips_takes_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "ADAPTER", num_frames=4)
    for number in range(3):
        write_video(tmp_path / "films" / "red" / f"{number}.mp4", frames=6 + number)
    Path("films/red/bad.mp4").write_bytes(Path("films/red/0.mp4").read_bytes()[:500])
    words = ["films", "--csv", "a.csv", "--montage", "a.png", "--features", "a.npz", "--batch-size", "3"]
    run("ADAPTER", *words, code=predict.UNREAD)
    features = np.load("a.npz")
    expected = vp.Predictor("ADAPTER", device="cpu")
    assert [*features["paths"]] == [f"films/red/{number}.mp4" for number in range(3)]
    torch.testing.assert_close(torch.from_numpy(features["features"]), expected.features([*features["paths"]]))
    rows = list(csv.DictReader(io.StringIO(Path("a.csv").read_text())))
    probabilities = expected.probabilities([row["path"] for row in rows]).max(1).values
    torch.testing.assert_close(torch.tensor([float(row["probability"]) for row in rows]), probabilities)


def test_names_that_control_a_terminal_are_shown_by_their_numbers(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "photos/\x1b[31m=cmd,\n.png"
    shutil.copy("photos/red/0.png", name)
    run("ADAPTER", name, "--csv", "a.csv")
    run("ADAPTER", name, "photos/red/bad.png", code=predict.UNREAD)
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err + Path("a.csv").read_text()
    assert "photos/\\x1b[31m=cmd,\\n.png" in shown.out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["photos", "--top", "0"], "--top must be at least 1, got 0"),
        (["photos", "--resume"], "--resume continues a --jsonl file: give --jsonl FILE as well"),
        (["photos", "--resume", "--jsonl", "a.jsonl", "--csv", "a.csv"], "--resume works with --jsonl only: --csv"),
        (["photos", "--probabilities"], "--probabilities needs --csv FILE or --jsonl FILE"),
        (["photos", "--csv", "taken.csv"], "--csv taken.csv is there already: --overwrite replaces it"),
        (["photos", "--jsonl", "taken.csv"], "is there already: --resume goes on with it, --overwrite replaces it"),
        (["photos", "--jsonl", "taken.csv", "--resume"], "taken.csv:1: not a line of JSON"),
        (["photos", "--csv", "none/a.csv"], "--csv none/a.csv: there is no folder none"),
        (["photos", "--csv", "/dev/null"], "--csv /dev/null is not a file"),
        (["photos", "--csv", "a", "--jsonl", "./a"], "--csv, --jsonl must be different files"),
        (["photos", "--features", "a.txt"], "--features must end in .npz, got a.txt"),
        (["photos", "--montage", "a.jpg"], "--montage must end in .png, got a.jpg"),
        (["photos", "--csv", "-"], "--csv -: only --jsonl writes to stdout"),
        (["photos", "--classes", "nowhere"], "--classes nowhere: there is no such file"),
        (["gone.png", "none"], "there is no such file or folder: gone.png, none"),
        (["empty"], "nothing to predict: no images among empty"),
        (["photos", "--workers", "many"], "workers must be 'auto' or a whole number from 0, got 'many'"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], error: str
) -> None:
    Path("taken.csv").write_text("mine\n")
    Path("empty").mkdir()
    before = sorted(str(path) for path in here.rglob("*"))
    if "--workers" in words:
        with pytest.raises(SystemExit):
            main(["predict", "ADAPTER", *words])
        line = capsys.readouterr().err.splitlines()[-1]
    else:
        line = stop(capsys, "ADAPTER", *words)
    assert line.startswith("error: ")
    assert error in line
    assert sorted(str(path) for path in here.rglob("*")) == before
    assert Path("taken.csv").read_text() == "mine\n"


def test_an_adapter_that_is_none_or_has_no_head_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "nowhere", "photos"])
    assert capsys.readouterr().err.startswith("error: nowhere is not a folder: wanted a run folder, an adapter folder")
    torch.manual_seed(7)
    model = vp.attach(vp.create_backbone(NAME, img_size=32, patch_size=8, num_classes=0, **TINY), vp.LoRA(rank=2))
    vp.save_adapter(model, here / "headless", input_config=INPUT)
    assert "this adapter has no head for classes" in stop(capsys, "headless", "photos")


def test_ctrl_c_and_a_lack_of_memory_are_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> None:
        def raise_it(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr("vision_peft.inference.answer_inputs.answer_inputs", raise_it)

    fail(MemoryError("a single image does not fit into the memory of cpu: x"))
    assert stop(capsys, "ADAPTER", "photos") == "error: a single image does not fit into the memory of cpu: x"
    fail(KeyboardInterrupt())
    for words, said in ((["--jsonl", "a.jsonl"], "stopped; the same command with --resume goes on"), ([], "stopped")):
        with pytest.raises(SystemExit) as end:
            run("ADAPTER", "photos", *words)
        assert end.value.code == predict.STOPPED
        assert capsys.readouterr().err.splitlines()[-1] == said


def test_classes_are_numbers_without_names_and_can_be_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = vp.load("ADAPTER", device="cpu")
    vp.save_adapter(model, here / "nameless", input_config=INPUT)
    run("nameless", "photos/red/0.png")
    assert (
        "the adapter records no class names, so labels are numbers; give them with --classes FILE"
    ) in capsys.readouterr().err
    Path("names.txt").write_text("sky\ngrass\nfire\n")
    run("nameless", "photos/red/0.png", "--classes", "names.txt")
    assert capsys.readouterr().out.split()[1] in ("sky", "grass", "fire")
    Path("names.txt").write_text("sky\n")
    assert "got 1 class names for a head of 3 classes" in stop(capsys, "nameless", "photos", "--classes", "names.txt")


def test_the_examples_of_help_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = make_parser("predict", predict.__doc__).format_help()
    examples = [
        line.split("  ")[0] for line in text.splitlines() if "vision-peft predict " in line and "usage" not in line
    ]
    assert len(examples) == 5
    Path("test.txt").write_text("photos/red/0.png red\n")
    shutil.copy("photos/red/0.png", "photo.jpg")
    Path("photos/red/bad.png").unlink()
    for line in (each for each in examples if "--masks" not in each):  # which are no classes
        command = line.rpartition("| ")[2].replace('"', "").split()
        known = {"RUN": "ADAPTER", "hf-hub:OWNER/NAME": "ADAPTER", "photos/**/*.jpg": "photos/**/*.png"}
        monkeypatch.setattr("sys.stdin", io.StringIO("photos/red/0.png\n"))
        run(*(known.get(word, word) for word in command[2:]))
    for name in ("answers.csv", "wrong.png", "answers.jsonl"):
        assert Path(name).stat().st_size
