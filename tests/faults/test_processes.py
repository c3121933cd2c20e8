"""Faults of a run in two processes of torchrun, with the model in both of them and with its backbone in shards."""

import os
import re
import signal
from pathlib import Path

import pytest
from faults.conftest import GoesOn, Note, Undisturbed
from support import harm
from support.program import finish, resumed_at, run_folder, saved_step, started
from support.tiny_run import left_behind

pytestmark = pytest.mark.faults
both = pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])


def of(strategy: str, everything: list[str]) -> list[str]:
    return [*everything, f"distributed.strategy={strategy}", "distributed.timeout_s=120"]


@pytest.mark.parametrize(
    ("strategy", "how"), [("ddp", "SIGTERM"), ("ddp", "SIGUSR1"), ("ddp", "max_time"), ("fsdp2", "SIGTERM")]
)
def test_a_request_stops_both_processes_at_one_update(
    everything: list[str], undisturbed: Undisturbed, tmp_path: Path, goes_on: GoesOn, strategy: str, how: str
) -> None:
    words, folder = of(strategy, everything), tmp_path / "runs"
    whole = undisturbed(strategy, *words, processes=2)
    limit = ["max_time=0.001"] if how == "max_time" else []
    with started(folder, *words, *limit, processes=2) as run:
        if how != "max_time":
            run.until_step(20)
            os.kill(run.process.pid if how == "SIGTERM" else run.rank(1), signal.Signals[how])
        assert run.end() != 0, run.text()
    assert (run.folder / "REQUEUE").exists()
    step = goes_on(f"{how}, two processes, {strategy}", folder, whole, *words, at_most=0, processes=2)
    assert f"stopped after update {step}; its state is saved" in run.text()
    assert not (run.folder / "REQUEUE").exists()


@both
def test_a_killed_process_is_named_and_the_same_command_resumes(
    everything: list[str], undisturbed: Undisturbed, tmp_path: Path, goes_on: GoesOn, strategy: str
) -> None:
    words, folder = [*of(strategy, everything), "save_every=1"], tmp_path / "runs"
    whole = undisturbed(strategy, *of(strategy, everything), processes=2)
    with started(folder, *words, processes=2) as run:
        run.until_step(20)
        os.kill(run.rank(1), signal.SIGKILL)
        assert run.end() == 1, run.text()
    assert re.search(r"error: process 0 .*process 1 \(", run.text()) or re.search(r"rank +: 1 ", run.text())
    goes_on(f"SIGKILL of one process of two, {strategy}", folder, whole, *words, at_most=1, processes=2)


@both
def test_torchrun_starts_killed_processes_again(
    everything: list[str], undisturbed: Undisturbed, tmp_path: Path, note: Note, strategy: str
) -> None:
    words, folder = [*of(strategy, everything), "save_every=1"], tmp_path / "runs"
    whole = undisturbed(strategy, *of(strategy, everything), processes=2)
    with started(folder, *words, processes=2, restarts=1) as run:
        run.until_step(20)
        before = run.step()
        os.kill(run.rank(1), signal.SIGKILL)
        assert run.end() == 0, run.text()
    lost = max(before - resumed_at(run.text()), 0)
    equal = left_behind(run_folder(folder)) == whole
    note(f"SIGKILL of one process of two, torchrun --max-restarts=1, {strategy}", lost=lost, equal=equal)
    assert lost <= 1
    assert equal


def test_a_process_that_hangs_is_named(
    everything: list[str], undisturbed: Undisturbed, tmp_path: Path, goes_on: GoesOn
) -> None:
    words, folder = of("ddp", everything), tmp_path / "runs"
    whole = undisturbed("ddp", *words, processes=2)
    with started(folder, *words, "distributed.timeout_s=10", "save_every=1", processes=2) as run:
        run.until_step(20)
        hung = run.rank(1)
        os.kill(hung, signal.SIGSTOP)
        run.until(lambda: "error: " in run.text())
        os.kill(hung, signal.SIGCONT)
        assert run.end() == 1, run.text()
    named = (
        r"^error: process 0 waits for another process that does not answer, most likely process 1 \(.*, pid "
        rf"{hung}\), last reported at"
    )
    assert re.search(named, run.text(), re.M), run.text()
    assert "the same command again resumes from the last saved state" in run.text()
    goes_on("SIGSTOP of one process of two, ddp", folder, whole, *words, at_most=1, processes=2)


@both
def test_nan_in_one_process_ends_both_and_is_never_saved(
    everything: list[str], tmp_path: Path, note: Note, strategy: str
) -> None:
    # A head that norms the whole batch would carry the NaN of one process to the loss of the other.
    words = [*of(strategy, everything), "recipe.head=linear", "save_every=1", "max_bad_steps=2"]
    folder = tmp_path / "runs"
    codes = tmp_path / "codes"
    harmed = {"NAN_RANK": "1", "NAN_FROM": "20", "EXIT_CODES": str(codes)}
    with started(folder, *words, processes=2, script=harm.SCRIPT, environment=harmed) as run:
        assert run.end() == 1, run.text()
    assert [Path(f"{codes}.{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    assert len(re.findall(r"^warning: the loss is nan at .*\(step 2[12], lr .*\), on samples", run.text(), re.M)) == 2
    for who in ("", "process 1: "):
        where = r"epoch .*\(step 23, lr \S+\), on samples (\d+, ){3}\d+"
        stop = rf"^{who}error: the loss is nan at {where}: .*; 3 such updates in a row, max_bad_steps=2"
        assert re.search(stop, run.text(), re.M), run.text()
    assert saved_step(folder, tmp_path / "copy") == 22  # updates 21 and 22 were skipped: the tensors are those of 20
    assert not (run_folder(folder) / "adapter").exists()
    note(f"NaN in one process of two, {strategy}", faults=3, lost=None, equal=None)


# Where a run starts -> where it goes on: processes and strategy.
CHANGES = {
    "two to one": (2, "ddp", 1, "ddp"),
    "one to two": (1, "ddp", 2, "ddp"),
    "fsdp2 to ddp": (2, "fsdp2", 2, "ddp"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_on_with_other_processes_and_says_what_is_not_exact(
    everything: list[str], undisturbed: Undisturbed, tmp_path: Path, note: Note, change: str
) -> None:
    processes, strategy, processes_then, strategy_then = CHANGES[change]
    # Every process draws its own numbers for these.
    plain = [f"{key}=0" for key in ("method.dropout", "recipe.mixup", "recipe.cutmix", "recipe.drop_path")]
    words, folder = [*everything, *plain, "save_every=1"], tmp_path / "runs"
    whole = undisturbed(f"plain{processes}", *words, processes=processes)
    with started(folder, *words, f"distributed.strategy={strategy}", processes=processes) as run:
        run.until_step(20)
        os.kill(run.process.pid, signal.SIGTERM)
        run.end()
    step = saved_step(folder, tmp_path / "copy")
    said = finish(folder, *words, f"distributed.strategy={strategy_then}", processes=processes_then)
    assert resumed_at(said) == step
    assert re.search(r"the state was saved by .*, it goes on in .*: .* not bit for bit", said), said
    expected, found = whole["metrics"], left_behind(run_folder(folder))["metrics"]
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(expected, found, strict=True) if a["kind"] == "step")
    note(f"resumed with other processes: {change}", faults=1, lost=0, equal=None)
    assert apart < 1e-5, apart
