"""Submit a training to Slurm, back into the queue at its time limit.

    pip install "vision_peft[slurm]"
    vision-peft submit --nodes 2 --gpus 8 --minutes 480 --partition gpu method=vpt recipe.lr=1e-2

By submitit, one torchrun on each node. Takes the overrides of train, which are checked before anything is submitted.
The training must see the same files as this command: submit from a file system that all nodes share.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision_peft.cli._verb import announce_loading, make_parser
from vision_peft.config.command_line import read_command_line
from vision_peft.printable import show

STOPPED = "stopped, its state is saved: submit the same again"


class Training:
    """What submitit runs on every node: a torchrun with one process for each GPU.

    submitit asks for a checkpoint when time is nearly up and before a preemption: the first node's torchrun is told to
    stop, and its processes agree with all others on the update after which they save and end.
    """

    def __init__(self, processes: int, overrides: list[str]) -> None:
        self.processes, self.overrides = processes, overrides
        self.torchrun = 0  # its process id, once it runs

    def __call__(self) -> str:
        import submitit  # pyright: ignore[reportMissingImports]  # an extra

        job = submitit.JobEnvironment()
        marker = Path(job.paths.folder).absolute() / "requeue"
        if job.global_rank == 0:
            marker.unlink(missing_ok=True)
        endpoint = f"{job.hostnames[0]}:{20000 + int(job.job_id) % 20000}"
        meeting = [f"--rdzv_id={job.job_id}", "--rdzv_backend=c10d", f"--rdzv_endpoint={endpoint}"]
        size = [f"--nnodes={job.num_nodes}", f"--nproc_per_node={self.processes}"]
        start = [sys.executable, "-m", "torch.distributed.run", *size, *meeting]
        process = subprocess.Popen(
            [*start, "-m", "vision_peft", "train", *self.overrides, f"requeue_file={marker}"],
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),  # submitit's, which Slurm may send to all
        )
        self.torchrun = process.pid
        # not process.wait(): `checkpoint` interrupts it, and would wait in turn for the lock that it holds
        code = os.waitstatus_to_exitcode(os.waitpid(self.torchrun, 0)[1])
        self.torchrun = 0
        if code and marker.exists():
            return STOPPED
        if code and job.global_rank == 0:  # the others end with it
            raise RuntimeError(f"the training ended with {code}: its log says why")
        return "finished"

    def checkpoint(self) -> Any:
        """Stop the training with its state saved; what submitit shall run next is the same again."""
        import submitit  # pyright: ignore[reportMissingImports]  # an extra

        if self.torchrun:
            os.kill(self.torchrun, signal.SIGTERM)
            os.waitpid(self.torchrun, 0)
        return submitit.helpers.DelayedSubmission(Training(self.processes, self.overrides))


def main(argv: Sequence[str]) -> int:
    """Check, submit, say where the log is."""
    parser = make_parser("submit", __doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train")
    parser.add_argument("--nodes", type=int, default=1, help="(default: 1)")
    parser.add_argument("--gpus", type=int, default=1, help="and processes on each node; 0: on its CPU (default: 1)")
    parser.add_argument("--cpus", type=int, default=8, help="cores for each GPU (default: 8)")
    parser.add_argument("--minutes", type=int, default=480, help="time limit, after which it resumes (default: 480)")
    parser.add_argument("--partition", help="of Slurm")
    parser.add_argument("--logs", type=Path, default=Path("jobs"), metavar="DIR", help="(default: jobs)")
    parser.add_argument("--local", action="store_true", help="run it here, in the background, to try it out")
    options = parser.parse_intermixed_args(argv)
    submitit = _submitit()
    command_line = read_command_line(options.overrides)
    if not options.local and not shutil.which("srun"):
        raise ValueError("there is no srun on this machine: submit from one of Slurm's, or try it out with --local")
    announce_loading()
    command_line.check_values()
    cluster, processes = "local" if options.local else "slurm", max(options.gpus, 1)
    executor = submitit.AutoExecutor(options.logs / "%j", cluster=cluster, slurm_max_num_timeout=1000)
    wanted = {
        "name": "vision_peft",
        "nodes": options.nodes,
        "tasks_per_node": 1,
        "gpus_per_node": options.gpus,
        "cpus_per_task": options.cpus * processes,
        "timeout_min": options.minutes,
        "slurm_partition": options.partition,
        "slurm_signal_delay_s": 120,
    }
    executor.update_parameters(**{name: value for name, value in wanted.items() if value})
    job = executor.submit(Training(processes, options.overrides))
    show(f"job {job.job_id}: {job.paths.stdout}")
    return 0


def _submitit() -> Any:
    try:
        import submitit  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise ImportError("submitit is not installed: pip install 'vision_peft[slurm]'") from None
    return submitit
