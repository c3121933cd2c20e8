"""One training, from the checked config to `result.json`; `fit` is the loop."""

import dataclasses
import functools
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

import vision_peft as vp
from vision_peft.config.parse import Config
from vision_peft.config.run_id import run_folder
from vision_peft.data import ImageDataset
from vision_peft.data.loading.cache import keep_decoded
from vision_peft.distributed.device import Compute, check_backbone_dtype, choose_compute, set_matmul_precision
from vision_peft.distributed.parallel import load_tuned
from vision_peft.distributed.processes import (
    Heartbeat,
    all_reduce_sum,
    join,
    on_rank0,
    print_rank0,
    rank0_first,
)
from vision_peft.distributed.stopping import (
    FROM_SCHEDULER,
    Interrupted,
    StoppedBefore,
    StopRequests,
    catch_signals,
    is_restart_after_stop,
    stop_decision,
)
from vision_peft.memory.plan import plan_memory
from vision_peft.protocols import PHASES, list_splits
from vision_peft.results.row import RESULT, Row, from_values, to_values, write_row
from vision_peft.results.table import format_result, format_rows
from vision_peft.runs.capture import capture_log, capture_warnings
from vision_peft.runs.check_files import check_files
from vision_peft.runs.checkpoint import find_newest_state, newest_state
from vision_peft.runs.compare_data import Pinned
from vision_peft.runs.data_record import DATA, DataRecord
from vision_peft.runs.find_run import find_parent, find_run
from vision_peft.runs.provenance import describe_start
from vision_peft.runs.run import Run
from vision_peft.runs.run_folder import find_finished_row, pin_folder
from vision_peft.tasks import learn_task, record_task
from vision_peft.tasks.metrics import Metrics
from vision_peft.training.build import (
    attach_methods,
    check_shares,
    create_bare_model,
    describe_data_since,
    forget_tuning,
    input_settings,
    load_splits,
    set_transforms,
)
from vision_peft.training.cached_features import cached_features
from vision_peft.training.calibrate import calibrate
from vision_peft.training.evaluate_saved import check_saved
from vision_peft.training.evaluation import create_eval_loader, evaluate, say_adapter_is_safe
from vision_peft.training.fit import fit
from vision_peft.training.progress import Progress, State, Training
from vision_peft.training.report import (
    count_flops,
    describe_other_processes,
    describe_processes,
    describe_run,
    keep_status,
    make_row,
    note_start,
)
from vision_peft.training.solve_head import check_solvable, find_way


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        row: the row of its result.json.
        folder: the run folder, with the adapter in `adapter/`.
        model: the tuned model, see there.
    """

    row: Row
    folder: Path
    config: Config = field(repr=False)

    @functools.cached_property
    def model(self) -> Any:
        """The tuned model with the tensors of the adapter, in eval mode on the device of the config.

        It is built when it is first asked for, alike for a run that has just ended and for one that was finished
        before, so that a run of which only the row is wanted keeps no model. FileNotFoundError after a dry run, which
        keeps nothing.
        """
        device = choose_compute(self.config.device, self.config.precision).device
        return vp.load_adapter(create_bare_model(self.config), self.folder / "adapter").to(device).eval()


def train(config: Config, command: str = "", tried: Mapping[str, list[Any]] | None = None) -> Trained:
    """Train as `config` says, resume, or report the run that is there already.

    Started by torchrun, the processes train together; rank 0 writes and logs.

    Args:
        config: as `vision_peft.training.compose_config` gives it, or built from the dataclasses of the same module.
        command: the command line that starts this training again, for result.json.
        tried: values that a search compared on val before, by dotted key, for result.json.

    Raises:
        ValueError, OSError: what the user can fix, before anything is written.
        Interrupted: stopped on request, with the state saved.
        FloatingPointError: the loss or the gradient stays non-finite.
        LostProcess: another process died or hangs.
    """
    requests = StopRequests(config.max_time)
    compute = choose_compute(config.device, config.precision, config.distributed.strategy)
    check_backbone_dtype(config.backbone_dtype, compute)
    set_matmul_precision(compute.device, config.tf32)
    join(compute, config.distributed.timeout_s)
    if config.dry_run:
        return _dry_run(config, compute)
    folder = find_run(config)
    row = from_values(on_rank0(lambda: to_values(find_finished_row(config, folder))))
    if row is not None:
        about_data = on_rank0(lambda: describe_data_since(config, folder))
        print_rank0(f"{folder} is finished (overwrite=true starts it over):{about_data}\n\n{format_rows([row])}")
        return Trained(row, folder, config)
    if on_rank0(lambda: is_restart_after_stop(folder, config.requeue_file)):
        stop = StoppedBefore(folder)
        print_rank0(str(stop))
        raise stop
    with catch_signals(requests, FROM_SCHEDULER), Heartbeat().raise_lost_process():
        with capture_warnings() as about_data:
            with rank0_first():
                splits = load_splits(config)
            check_files(config, splits, compute)
        row = _train_in(folder, config, splits, about_data, compute, requests, command, tried)
        print_rank0(f"\n{folder}")
        return Trained(row, folder, config)


def _train_in(
    folder: Path,
    config: Config,
    splits: Mapping[str, ImageDataset],
    about_data: Sequence[str],
    compute: Compute,
    requests: StopRequests,
    command: str = "",
    tried: Mapping[str, list[Any]] | None = None,
) -> Row:
    """Build the model, open the run folder, go through the phases and finish the run."""
    start = on_rank0(lambda: describe_start(compute))
    with capture_log("vision_peft.backbones") as about_weights, rank0_first():
        model = create_bare_model(config)
    settings = input_settings(model, config.recipe, config.data, splits[PHASES[config.protocol][0].trained])
    set_transforms(splits, settings, config.recipe)
    phases = PHASES[config.protocol]
    check_shares(config.recipe, compute.world_size, len(splits[phases[0].trained]))
    task = learn_task(splits[phases[0].trained], config.recipe)
    model = attach_methods(model, config, splits[phases[0].trained], task.outputs, compute.holds)
    check_solvable(config, model, splits[phases[0].trained], compute.sharded)
    plan = plan_memory(config, model, compute, settings, splits[phases[0].trained].eval_batch_size, folder)
    record, used = DataRecord(splits, config.data), list_splits(config.protocol, read_test=False)
    with Run(config, folder) as run:
        state = newest_state(folder / "state")
        resumes = state is not None
        pinned = Pinned(*run.save(DATA, lambda path: pin_folder(config, path.parent, record, resumes, used)))
        progress = Progress.of(state, len(phases), task.metric)
        run.start(progress.step, progress.lines)
        try:
            said = [*about_data, *about_weights, describe_run(config, model, splits, folder, plan.compute)]
            for words in (*said, *task.list_remarks(config.recipe, splits[phases[0].trained])):
                run.say(words)
            plan.begin(run.save, run.say)
            changed = note_start(plan.setting, start | plan.start, progress, compute.world_size, tried)
            if state:
                left = f"epoch {progress.epoch + 1}" if progress.epoch < config.recipe.epochs else "all epochs are done"
                others = describe_other_processes(progress.processes, compute)
                run.say(f"resuming from update {progress.step} ({left}){others}{changed}{pinned.words}")
            progress.processes = describe_processes(compute)
            splits, words = keep_decoded(splits, used, config.cache_mb, config.workers, compute.processes_here)
            if words:
                run.say(words)
            known: dict[str, Any] = {"seconds_before": progress.total_seconds, "data_digest": pinned.digest}
            training = Training(plan.config, plan.compute, run, splits, task, settings, command, requests, **known)
            with plan.measure(run.say), keep_status(training, model, progress):
                model, kept = _run_phases(training, model, progress, state)
                stop = stop_decision(all_reduce_sum(requests.votes()), progress.step)  # since the last update
                if stop and on_rank0(lambda: find_newest_state(folder / "state") is not None):  # of k-NN there is none
                    raise stop
                return _evaluate_and_save(training, model, kept, progress)
        except Interrupted as stop:
            run.stop(stop)
            raise


def _run_phases(
    training: Training, model: Any, progress: Progress, state: State | None
) -> tuple[Any, dict[str, Tensor]]:
    """Go through what is left of the phases; the model of the last one and the tuned tensors to keep."""
    config, run = training.config, training.run
    kept: dict[str, Tensor] = {}
    for number, phase in enumerate(PHASES[config.protocol]):
        if number < progress.phase:
            continue
        if number > progress.phase:
            progress.start_phase(number)
            state = None
        if number:
            run.say(f"val chose {progress.count_epochs(config)} epochs: a new model trains for as many")
            forget_tuning(model)
            train_set, outputs, device = training.splits[phase.trained], training.task.outputs, training.compute.holds
            model = attach_methods(create_bare_model(config), config, train_set, outputs, device)
        started = time.perf_counter()
        with cached_features(training, model, phase) as (fed, words):
            if words:
                run.say(words)
            progress.seconds += time.perf_counter() - started
            kept = find_way(config, fit)(fed, model, phase, progress, state)
    return model, kept


def _evaluate_and_save(training: Training, model: Any, kept: Mapping[str, Tensor], progress: Progress) -> Row:
    """Write the adapter, read test, write the files of a run that is done."""
    config, compute, run, splits = training.config, training.compute, training.run, training.splits
    load_tuned(model, kept)
    plain = model
    if compute.sharded:  # an adapter belongs to a model, not to shards of one
        train_set = splits[PHASES[config.protocol][0].trained]
        plain = attach_methods(create_bare_model(config), config, train_set, training.task.outputs, compute.holds)
        vp.load_tuned(plain, kept)

    task = calibrate(training, model)
    described = {"class_names": training.classes, "input_config": training.settings, "temperature": task.temperature}
    described["task"] = record_task(task)
    run.save("adapter", lambda path: str(vp.save_adapter(plain, path, **described)))
    metrics: Metrics | None = None
    if config.read_test:
        batches = create_eval_loader(splits["test"], compute, config.workers, config.bad_eval, run.bad_files)
        with say_adapter_is_safe(run.folder / "adapter"):
            metrics = evaluate(model, batches, task, compute)
        run.say(f"test: {metrics.describe()}{task.describe_test(metrics)}")
        run.record("test", progress.step, {name: metrics.figures[name] for name in task.watched})
        for name, write in {**metrics.files(), **metrics.pictures(splits["test"])}.items():
            run.save(name, write)
    run.flush()

    def save_row(path: Path) -> dict[str, Any] | None:
        flops = count_flops(training, plain)
        row = dataclasses.replace(make_row(training, plain, progress, metrics, task.temperature), flops_forward=flops)
        write_row(path, row)
        return to_values(row)

    row = from_values(run.save(RESULT, save_row))
    assert row is not None
    run.say(f"\n{format_result(row)}", "bold")
    forget_tuning(model, plain)
    return row


def _dry_run(config: Config, compute: Compute) -> Trained:
    """Train one batch of train and val, save and load a state and an adapter, in a folder that is gone afterwards."""
    with capture_warnings() as about_data:
        with rank0_first():
            splits = load_splits(config)
        check_files(config, splits, compute)
    train_set = splits["train" if "train" in splits else "trainval"]
    val_set = splits["val"] if "val" in splits else config.data.load("val")
    recipe = dataclasses.replace(config.recipe, epochs=1)
    changes: dict[str, Any] = {"protocol": "val_select", "read_test": False, "save_every": None, "dry_run": False}
    # what is there cannot be taken back
    changes["trackers"] = tuple(name for name in config.trackers if name != "wandb")
    print_rank0("dry run: one batch of train and val in a temporary folder; the model is not tested")
    output_dir = on_rank0(lambda: tempfile.mkdtemp(prefix="dry-run-", dir=find_parent(Path(config.output_dir))))
    try:
        small = dataclasses.replace(config, recipe=recipe, output_dir=output_dir, **changes)
        size = max(recipe.batch_size // recipe.accumulate, compute.world_size) * recipe.accumulate
        parts = {"train": train_set.first(size), "val": val_set.first(val_set.eval_batch_size)}
        folder = run_folder(small)
        row = _train_in(folder, small, parts, about_data, compute, StopRequests(None))
        on_rank0(lambda: check_saved(small, folder, parts["train"], compute))
    finally:
        if compute.is_main:
            shutil.rmtree(output_dir, ignore_errors=True)
    print_rank0("\ndry run passed: trained, evaluated, saved and loaded one batch; nothing was kept")
    return Trained(row, folder, small)
