"""What follows from facts about a machine; the facts are made up here."""

import configparser
from dataclasses import replace
from pathlib import Path

import pytest

from vision_peft.doctor.diagnose import EXTRAS, FOR_V100, Finding, diagnose
from vision_peft.doctor.facts import Facts, Gpu, Place, Requirement

V100, H100 = Gpu("Tesla V100", (7, 0)), Gpu("NVIDIA H100", (9, 0))
CUDA_13 = Facts(torch_cuda="13.0", torch_arches=["sm_75", "sm_80", "sm_90"], driver="580.65.06", gpus=[H100])
TIMM = Requirement("timm", ">=1.0.31,<1.1", "", "1.0.31", True)


def findings(facts: Facts, topic: str) -> list[Finding]:
    return [finding for finding in diagnose(facts) if finding.topic == topic]


def only(facts: Facts, topic: str) -> Finding:
    (finding,) = (each for each in findings(facts, topic) if each.level != "ok")
    return finding


def test_a_healthy_machine_has_no_problem_and_every_problem_a_fix() -> None:
    healthy = replace(CUDA_13, requirements=[TIMM], places=[Place("runs", Path("runs"), 10**12, True)])
    assert {finding.level for finding in diagnose(healthy)} == {"ok"}
    ill = Facts((3, 9, 1), torch=None, torch_error="no libcudart", shared_memory=64 * 2**20, weights="damaged")
    problems = [finding for finding in diagnose(ill) if finding.level == "problem"]
    assert [finding.topic for finding in problems] == ["python", "torch", "memory", "weights"]
    assert all(finding.fix for finding in problems)


@pytest.mark.parametrize(
    ("facts", "level", "text", "fix"),
    [
        (replace(CUDA_13, torch_cuda=None, gpus=[]), "problem", "this torch is built for CPUs", "pip install torch"),
        (replace(CUDA_13, driver="550.90"), "problem", "driver 550.90 is too old for CUDA 13.0", FOR_V100),
        (replace(CUDA_13, driver="470.2"), "problem", "needs 580 or newer", "update the driver"),
        (replace(CUDA_13, gpus=[V100]), "problem", "no kernels for Tesla V100 (sm_70), only for sm_75", FOR_V100),
        (replace(CUDA_13, gpus=[Gpu("B", (12, 1))]), "problem", "no kernels for B (sm_121)", "pip install --upgrade"),
        (replace(CUDA_13, gpus=[]), "problem", "torch sees no GPU", "CUDA_VISIBLE_DEVICES"),
        (replace(CUDA_13, gpus=[], driver=None), "note", "none found, training uses the CPU", "driver"),
    ],
)
def test_what_keeps_torch_from_the_gpu(facts: Facts, level: str, text: str, fix: str) -> None:
    found = only(facts, "gpu")
    assert found.level == level
    assert text in found.text
    assert fix in found.fix


def test_a_torch_for_cpus_is_right_where_there_is_no_driver() -> None:
    assert [finding.level for finding in findings(Facts(), "gpu")] == ["ok"]
    (other,) = findings(Facts(other_gpu="Apple's, by Metal (mps)"), "gpu")
    assert other == ("ok", "gpu", "Apple's, by Metal (mps)", "")


def test_packages_that_are_missing_or_outside_of_the_tested_range() -> None:
    old = TIMM._replace(installed="0.9.1", fits=False)
    missing = TIMM._replace(name="av", range=">=18.1", installed=None, fits=False)
    first, second = findings(Facts(requirements=[old, missing]), "packages")
    assert first[2:] == ("timm 0.9.1 is outside the tested >=1.0.31,<1.1", 'pip install "timm>=1.0.31,<1.1"')
    assert second[2:] == ("av is not installed", 'pip install "av>=18.1"')
    assert {first.level, second.level} == {"problem"}
    assert only(Facts(requirements=[]), "packages").level == "note"


def test_an_extra_is_a_note_where_one_of_its_packages_is_missing() -> None:
    there = Requirement("onnx", ">=1.17", "export", "1.18", True)
    missing = Requirement("onnxruntime", ">=1.20", "export", None, False)
    found = only(Facts(requirements=[TIMM, there, missing]), "extra")
    assert (found.level, found.fix) == ("note", "pip install 'vision_peft[export]'")
    assert "onnxruntime" in found.text
    assert "onnx," not in found.text


def test_every_extra_of_the_project_has_words(repository: Path) -> None:
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg", encoding="utf-8")
    assert {*config["options.extras_require"]} - {*EXTRAS} == set()


@pytest.mark.parametrize(("cores", "quota", "threads"), [(4, None, 16), (16, 2.5, 16), (16, 0.5, 2)])
def test_more_threads_than_cores_are_told_with_the_number_to_take(
    cores: int, quota: float | None, threads: int
) -> None:
    found = only(Facts(cores=cores, all_cores=16, quota=quota, threads=threads), "cores")
    assert found.fix == f"export OMP_NUM_THREADS={max(int(quota or cores), 1)}"


@pytest.mark.parametrize(
    ("free", "writable", "level"), [(10**8, True, "problem"), (5 * 10**9, True, "note"), (10**11, False, "problem")]
)
def test_a_disk_that_is_full_or_cannot_be_written(free: int, writable: bool, level: str) -> None:
    found = only(Facts(places=[Place("runs", Path("my runs"), free, writable)]), "disk")
    assert found.level == level
    assert "my runs" in found.text
    assert "output_dir=FOLDER" in found.fix


def test_weights_decoders_and_the_network() -> None:
    assert only(Facts(weights="missing"), "weights").level == "note"
    assert only(Facts(weights="damaged"), "weights").level == "problem"
    assert only(Facts(decoders={"decord": None, "pyav": "no libx"}), "video").level == "problem"
    assert only(Facts(decoders={"decord": "no wheel", "pyav": None}), "video").level == "note"
    assert "apt install ffmpeg" in only(Facts(ffmpeg=None), "video").fix
    assert "HF_HUB_OFFLINE" in only(Facts(hub_offline=True), "hub").fix
    assert "timed out" in only(Facts(reachable={"https://a": None, "https://b": "timed out"}), "network").text


def test_little_memory_is_a_note_and_no_shared_memory_is_none() -> None:
    assert only(Facts(memory=10**9), "memory").level == "note"
    assert len(findings(Facts(shared_memory=None), "memory")) == 1
