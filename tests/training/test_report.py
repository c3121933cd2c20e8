"""What a run says about its processes, and the line with which a command ends that lost one of them."""

import re
import warnings

import pytest
import torch

from vision_peft.cli._errors import one_line_errors
from vision_peft.data.loading.lost_workers import LostWorker
from vision_peft.distributed.device import Compute
from vision_peft.runs.capture import capture_warnings
from vision_peft.training.report import describe_other_processes, describe_processes

CPU = torch.device("cpu")
ONE, TWO = Compute(CPU, "fp32"), Compute(CPU, "fp32", world_size=2)
SHARDED = Compute(CPU, "fp32", world_size=2, strategy="fsdp2")


def test_a_state_of_other_processes_is_said_to_go_on_not_bit_for_bit() -> None:
    words = describe_other_processes(describe_processes(TWO), ONE)
    assert words.startswith(
        "\nthe state was saved by 2 processes (ddp), it goes on in 1 process: the samples come in the"
    )
    assert words.endswith("sums are rounded in another way, and dropout, drop path and mixup draw other numbers")
    words = describe_other_processes(describe_processes(SHARDED), TWO)
    assert words.startswith("\nthe state was saved by 2 processes (fsdp2), it goes on in 2 processes (ddp): ")
    assert words.endswith("not bit for bit that of either, as sums are rounded in another way")


@pytest.mark.parametrize("compute", [ONE, TWO, SHARDED], ids=describe_processes)
def test_a_state_of_the_same_processes_or_of_nobody_knows_whom_needs_no_words(compute: Compute) -> None:
    assert describe_other_processes(describe_processes(compute), compute) == describe_other_processes("", compute) == ""


@pytest.mark.parametrize(
    "text",
    ["DataLoader worker (pid 7) is killed by signal: Killed.", "DataLoader timed out after 300 seconds"],
)
def test_a_lost_loader_process_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise LostWorker(text)
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: {text}; the same command again resumes from the last saved state\n"


@pytest.mark.parametrize("text", ["a bug", "DataLoader worker (pid 7) is killed, says a dataset"])
def test_any_other_runtime_error_keeps_its_traceback(text: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(text)), one_line_errors():
        raise RuntimeError(text)


def test_warnings_of_the_data_become_lines_each_once_or_are_shown_after_an_error() -> None:
    with warnings.catch_warnings(record=True) as shown, capture_warnings() as lines:
        for text in ("3 files left out", "no class fox", "3 files left out"):
            warnings.warn(text, stacklevel=1)
    assert (lines, shown) == (["warning: 3 files left out", "warning: no class fox"], [])

    def fail() -> None:
        with capture_warnings():
            warnings.warn("3 files left out", stacklevel=1)
            raise ValueError("nothing to read")

    with pytest.warns(UserWarning, match="3 files left out"), pytest.raises(ValueError, match="nothing"):
        fail()
