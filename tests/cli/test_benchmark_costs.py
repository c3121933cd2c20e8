"""`vision-peft benchmark methods=...` as a user types it; what it measures is not asserted, what it reports is."""

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.forked import run_tool

from vision_peft.cli.main import main

TINY = [
    "backbone=timm",
    "backbone.name=vit_tiny_patch16_224",
    "backbone.img_size=32",
    "backbone.kwargs={embed_dim: 32, depth: 2, num_heads: 2}",
    "recipe.batch_size=2",
    "device=cpu",
]


def benchmark(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_tool("benchmark.py", folder, *arguments)


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "costs.json").read_text("utf-8"))


def test_methods_peers_and_further_settings_are_measured_in_turn(tmp_path: Path) -> None:
    further = ["--against", "method=lora method.targets=[qkv]"]
    words = ["methods=lora,bitfit,linear", "peers=vpt_inserted", *further, *TINY, "--rounds=2", "--out=costs"]
    done = benchmark(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"costs.json", "costs.csv", "costs.md"}
    (group,) = read(tmp_path)["groups"]
    rows = {row["setting"]: row for row in group["rows"]}
    assert list(rows) == [
        "floor",
        "timm, all weights",
        "lora",
        "bitfit",
        "linear",
        "method=lora method.targets=[qkv]",
        "inserted: VPT-50",
    ]
    assert {row["note"] for row in rows.values()} == {""}
    assert all(len(times) == 2 for row in rows.values() for times in row["times"].values())
    assert [name for name, row in rows.items() if "merged" in row["times"]] == [
        "lora",
        "method=lora method.targets=[qkv]",
    ]
    assert rows["lora"]["trained"] == 2 * 2 * 8 * (32 + 32)
    assert rows["linear"]["saved_bytes"] < rows["bitfit"]["saved_bytes"] <= rows["floor"]["saved_bytes"]
    assert rows["inserted: VPT-50"]["flops_step"] > 2 * rows["floor"]["flops_step"]
    assert rows["bitfit"]["adapter_bytes"] == 4 * (rows["bitfit"]["trained"] + 32 * 100 + 100)
    assert {kernel for row in rows.values() for kernel in row["attention"]} == {"flash"}
    assert all(len(line) <= 120 for line in done.stdout.splitlines())
    with (tmp_path / "costs.csv").open(encoding="utf-8", newline="") as file:
        assert [row["setting"] for row in csv.DictReader(file)] == list(rows)
    assert done.stdout.count("method=lora method.targets=[qkv]") == 2


def test_the_same_command_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    words = ["methods=bitfit", *TINY, "--out=costs"]
    assert benchmark(tmp_path, *words, "--rounds=1").returncode == 0
    first = read(tmp_path)["groups"][0]
    done = benchmark(tmp_path, *words, "--rounds=3", "--minutes=0")
    assert "the same command continues from there" in done.stderr
    assert read(tmp_path)["groups"][0] == first
    assert benchmark(tmp_path, *words, "--rounds=3").returncode == 0
    second = read(tmp_path)["groups"][0]
    for before, after in zip(first["rows"], second["rows"], strict=True):
        assert {key: value for key, value in before.items() if key != "times"} == {
            key: value for key, value in after.items() if key != "times"
        }
        assert [len(times) for times in after["times"].values()] == [3, 3]
        assert after["times"]["step"][0] == before["times"]["step"][0]
    stamp = (tmp_path / "costs.json").read_text("utf-8")
    assert benchmark(tmp_path, *words, "--rounds=3").returncode == 0
    assert (tmp_path / "costs.json").read_text("utf-8") == stamp

    # One more setting: what was counted stays, the rounds are of all settings again. Other code: all is new.
    assert benchmark(tmp_path, *words, "methods=linear", "--rounds=2").returncode == 0
    third = read(tmp_path)["groups"][0]
    assert {len(row["times"]["step"]) for row in third["rows"]} == {2}
    assert third["rows"][2]["times"]["step"][0] != second["rows"][2]["times"]["step"][0]
    (tmp_path / "costs.json").write_text(json.dumps({**read(tmp_path), "code": "other"}), "utf-8")
    done = benchmark(tmp_path, *words, "--rounds=1")
    assert "measuring everything again" in done.stderr
    assert [len(row["times"]["step"]) for row in read(tmp_path)["groups"][0]["rows"]] == [1, 1, 1]

    done = benchmark(tmp_path, *words, "--rounds=2", "--threads=2")  # another clock: nothing stands beside it
    assert "measuring everything again" in done.stderr
    assert [len(row["times"]["step"]) for row in read(tmp_path)["groups"][0]["rows"]] == [2, 2, 2]
    assert "(wall-clock time of 2 threads" in (tmp_path / "costs.md").read_text("utf-8")


def test_a_method_that_does_not_fit_is_noted_and_the_others_are_measured(tmp_path: Path) -> None:
    done = benchmark(tmp_path, "methods=st_adapter,linear", *TINY, "--rounds=1", "--out=costs")
    assert done.returncode == 0, done.stderr
    rows = {row["setting"]: row for row in read(tmp_path)["groups"][0]["rows"]}
    assert rows["st_adapter"]["note"]
    assert rows["st_adapter"]["times"] == {}
    assert rows["linear"]["times"]
    assert f"st_adapter: {rows['st_adapter']['note']}" in done.stdout


@pytest.mark.slow
def test_a_preset_can_be_made_smaller(tmp_path: Path) -> None:
    done = benchmark(tmp_path, "--preset", "cpu", *TINY, "peers=none", "--rounds=1", "--out=costs")
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path)["groups"][0]["rows"]
    assert {row["note"] for row in rows} == {""}
    assert {row["setting"] for row in rows} >= {"AdaptFormer-64", "LoRA-8 q,v", "VPT-deep-50", "DTL-2", "LST-8", "full"}
    full, plain = (next(row for row in rows if row["setting"] == name) for name in ("full", "timm, all weights"))
    assert full["trained"] == plain["trained"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["methods=lroa"], "did you mean lora?"),
        (["methods=lora", "peers=hf"], "peers=hf is not one of hf_lora"),
        (["--preset", "gpu", "device=cpu"], "--preset gpu needs a GPU"),
        (["--preset", "cpu", "methods=lora"], "--preset has its own methods"),
        (["--preset", "tpu"], "invalid choice: 'tpu'"),
        (["methods=lora", "method=vpt"], "method= cannot be combined with methods="),
        (["methods=lora", "--rounds=0"], "--rounds must be at least 1, got 0"),
        (["methods=lora", "--threads=0"], "--threads must be at least 1, got 0"),
        (["methods=lora", "--json=f.json"], "the cost table takes --out"),
        (["--rounds=3"], "--rounds is for the cost table"),
        (["--threads=2"], "--threads is for the cost table"),
        (["methods=lora", "recipe.lrr=1"], "did you mean"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", *words])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
