"""`vision-peft` without and with a verb: what is there, what is answered before torch is imported, whose code runs."""

import ast
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from support.cli import LOADING, run_module
from support.forked import run_tool

import vision_peft as vp
from vision_peft.cli import main as cli_main
from vision_peft.cli.main import list_verbs

VERBS = [
    "benchmark",
    "check-data",
    "compare",
    "convert",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "inspect",
    "merge",
    "plot",
    "predict",
    "prepare-video",
    "prepare-vtab",
    "report",
    "serve",
    "share",
    "submit",
    "sweep",
    "train",
]

# Runs a verb in this process and says at the end whether torch was imported.
WATCHED = """
import sys
from vision_peft.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(code, "torch" in sys.modules or "numpy" in sys.modules, file=sys.stderr)
"""


def test_a_file_in_the_folder_is_a_verb_with_a_door_in_tools(repository: Path) -> None:
    verbs = list_verbs()
    assert {*VERBS, "tune"} == set(verbs)
    doors = {path.stem.replace("_", "-"): path.read_text(encoding="utf-8") for path in repository.glob("tools/*.py")}
    doors["inspect"] = doors.pop("inspect-adapter")  # Python itself imports a module that is called inspect
    assert set(doors) == set(verbs)
    for verb, text in doors.items():
        code = [node for node in ast.parse(text).body if not isinstance(node, ast.Expr)]
        assert len(code) == 3, verb
        assert f'"{verb}"' in text or verb == "prepare-vtab"


def test_the_overview_has_one_short_line_a_verb(tmp_path: Path) -> None:
    done = run_module(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for verb in list_verbs():
        (line,) = re.findall(rf"^  {verb} .*", done.stdout, flags=re.MULTILINE)
        assert len(line) <= 104
    assert run_module(tmp_path, "--help").stdout == done.stdout
    assert run_module(tmp_path, "--version").stdout == f"vision_peft {vp.__version__}\n"


def test_a_misspelt_verb_is_one_line_with_exit_code_2(tmp_path: Path) -> None:
    done = run_module(tmp_path, "trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: trian is not a verb (did you mean train?): there are benchmark, check-data")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--help"], 0, "vision-peft VERB"),
        (["train", "--help"], 0, "vision-peft train [group=config]"),
        (["train", "--cfg", "job"], 0, "bottleneck: 64"),
        (["train", "method.bottelneck=8"], 2, "did you mean method.bottleneck?"),
        (["train", "recipe.epochs=five", "sed=1"], 2, "2 problems in the config"),
        (["train", "-m", "seed=0,1", "recipe.repeats=2"], 2, "recipe.repeats is now called"),
        (["train", "method=lroa"], 2, "did you mean lora?"),
        (["train", "experiment=vpt_vtb"], 2, "did you mean vpt_vtab?"),
        (["train", "data=folder", "data.root=nowhere"], 2, "data.root=nowhere is not a folder"),
        (["train", "data=folder"], 2, "give data.root=FOLDER"),
        (["train", "--config-dir=nowhere"], 2, "--config-dir=nowhere is not a folder"),
        (["train", "=3"], 2, "=3 has no key before ="),
        (["tune", "--config-dir=nowhere"], 2, "--config-dir=nowhere is not a folder"),
        (["benchmark", "--config-dir", "nowhere"], 2, "--config-dir=nowhere is not a folder"),
        (["tune", "method.rnk=8", "method=lora"], 2, "did you mean method.rank?"),
        (["tune", "data=folder", "data.root=nowhere", "grid.recipe.lr=[1,2]"], 2, "nowhere is not a folder"),
        (["benchmark", "--against", "method=lroa"], 2, "did you mean lora?"),
        (["evaluate", "runs", "splt=val"], 2, "did you mean split?"),
        (["evaluate", "nowhere"], 2, "nowhere is not a folder"),
        (["predict", "--help"], 0, "vision-peft predict RUN photo.jpg photos"),
        (["predict", "nowhere", "x.png"], 2, "nowhere is not a folder"),
        (["inspect", "--help"], 0, "vision-peft inspect ADAPTER"),
        (["inspect", "nowhere"], 2, "nowhere is not a folder"),
        (["predict", ".", "x.png"], 2, "there is no such file or folder: x.png"),
        (["check-data", "data=foldr"], 2, "did you mean folder?"),
        (["check-data", "data=folder", "data.rot=x"], 2, "did you mean data.root?"),
        (["check-data", "data=folder", "data.root=nowhere"], 2, "nowhere is not a folder"),
        (["plot", "nowhere"], 2, "no such file or folder: nowhere"),
        (["report", "nowhere"], 2, "no such file or folder: nowhere"),
        (["merge", "nowhere", "-o", "out"], 2, "nowhere is not a folder"),
        (["serve", "--help"], 0, "vision-peft serve --task flowers=RUN"),
        (["serve", "--task", "flowers=nowhere"], 2, "nowhere is not a folder"),
        (["serve", "--task", "flowers"], 2, "--task flowers: wanted NAME=ADAPTER, as in --task flowers=runs/flowers"),
        (["convert", "tests", "out", "sorce=vpt"], 2, "did you mean source?"),
        (["share", ".", "flowers"], 2, "flowers is not a name of the hub: wanted OWNER/NAME"),
        (["compare", "--help"], 0, "vision-peft compare data=digits"),
        (["compare", "--budget", "soon"], 2, "--budget must be a time such as 90s, 15m or 2h; got soon"),
        (["compare", "--budget", "15"], 2, "got 15: give 15m for minutes"),
        (["compare", "--budget", "0m"], 2, "--budget must be a time"),
        (["compare", "--memory", "8"], 2, "--memory must be a size such as 8GB"),
        (["compare", "methods=LoRA,ladptformer"], 2, "did you mean adaptformer?"),
        (["compare", "compare=defalt"], 2, "did you mean default?"),
        (["compare", "method=lora"], 2, "compare chooses method itself; methods=A,B names the methods"),
        (["compare", "recipe.lr=1", "memory=8GB"], 2, "2 problems in the config"),
        (["compare", "data=folder", "data.root=nowhere"], 2, "nowhere is not a folder"),
        (["export", "nowhere", "-o", "x.onnx", "--format", "onx"], 2, "did you mean onnx?"),
    ],
)
def test_help_and_mistakes_are_answered_without_torch(
    tmp_path: Path, words: list[str], code: int, expected: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    *errors, last = done.stderr.splitlines()
    if words[0] == "plot":
        last = last.replace("True", "False")  # matplotlib brings numpy
    assert last == f"{code} False", done.stderr
    assert expected in done.stdout + done.stderr
    assert LOADING not in done.stderr
    assert "Traceback" not in done.stderr
    assert errors[0].startswith("error: ") if code else not errors
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_needed_is_called_required(tmp_path: Path) -> None:
    done = run_module(tmp_path, "evaluate")
    assert done.returncode == 2
    assert done.stderr.endswith("error: the following arguments are required: folder\n")
    assert run_module(tmp_path, "prepare-vtab", "--help").stdout.startswith("usage: vision-peft prepare-vtab ")


def test_a_value_that_only_its_class_can_refuse_is_said_after_one_word_about_loading(tmp_path: Path) -> None:
    done = run_module(tmp_path, "train", "method.scale=big")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{LOADING}error: method.scale must be one of 'learnable'")
    second = run_tool("train.py", tmp_path, "method.scale=big", RANK="1")
    assert second.stderr.startswith("process 1: error: method.scale")


def test_a_wheel_without_its_configs_is_one_line(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "vision_peft", tmp_path / "site" / "vision_peft")
    (tmp_path / "site" / "configs").mkdir()  # of another package
    (tmp_path / "site" / "configs" / "config.yaml").write_text("theirs: 1\n")
    done = run_module(tmp_path, "train", PYTHONPATH=str(tmp_path / "site"))
    package = tmp_path / "site" / "vision_peft"
    assert done.returncode == 2
    assert done.stderr == (
        f"error: vision_peft in {package} was installed without its configs: build the wheel from a complete clone\n"
    )
    shutil.copytree(repository / "configs", package / "configs")
    done = run_module(tmp_path, "train", "--cfg", "job", PYTHONPATH=str(tmp_path / "site"))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_door_of_a_clone_that_an_installed_package_shadows_is_one_line(repository: Path, tmp_path: Path) -> None:
    for name in ("tools", "vision_peft"):
        shutil.copytree(repository / name, tmp_path / "clone" / name)
    words = [sys.executable, str(tmp_path / "clone" / "tools" / "train.py"), "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"error: {words[1]} belongs to the clone {tmp_path / 'clone'}, but Python imports vision_peft from "
        f"{Path(str(vp.__file__)).parent}: pip install -e {tmp_path / 'clone'}, or use vision-peft train"
    ]


def test_a_clone_that_shadows_an_installed_package_is_one_line(repository: Path, tmp_path: Path) -> None:
    clone, site = tmp_path / "clone", tmp_path / "site"
    for place in (clone, site):
        shutil.copytree(repository / "vision_peft", place / "vision_peft")
    (site / "vision_peft-9.dist-info").mkdir()
    (site / "vision_peft-9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vision_peft\nVersion: 9\n")
    done = run_module(clone, "--help", PYTHONPATH=str(site))
    assert done.returncode == 0
    done = run_module(clone, "train", "--help", PYTHONPATH=str(site))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"error: the clone in this folder shadows the package installed in {site / 'vision_peft'}: start from another "
        f"folder, or pip install -e {clone}"
    ]


def test_preparing_vtab_needs_nothing_of_the_package(repository: Path, tmp_path: Path) -> None:
    blocked = "import sys, runpy; sys.modules['vision_peft'] = None; sys.argv[:] = sys.argv[1:]; "
    words = [sys.executable, "-c", blocked + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    words += [str(repository / "tools" / "prepare_vtab.py"), str(tmp_path), "--tasks", "kiti"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown task kiti (did you mean kitti?)")


def test_our_warnings_are_one_line_and_those_of_others_as_python_shows_them(monkeypatch, capsys):
    ours = str(Path(vp.__file__).parent / "data" / "dataset.py")

    class Verb:
        @staticmethod
        def main(_: list[str]) -> int:
            for file, kind in ((ours, UserWarning), (ours, FutureWarning), ("/lib/other.py", UserWarning)):
                shown = warnings.formatwarning("masks are odd", kind, file, 7, "code")
                sys.stderr.write(shown)
            return 0

    monkeypatch.setattr(cli_main, "import_module", lambda _: Verb)
    before = warnings.formatwarning
    assert cli_main.main(["doctor"]) == 0
    assert warnings.formatwarning is before
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: masks are odd"
    assert lines[1] == f"{ours}:7: FutureWarning: masks are odd"
    assert "/lib/other.py:7: UserWarning: masks are odd" in lines
