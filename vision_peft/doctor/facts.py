"""The facts about a machine that a diagnosis needs, as plain values; `gather.py` looks for them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Requirement(NamedTuple):
    """What setup.cfg asks for, and which version is installed."""

    name: str
    range: str  # of versions, as ">=1.0.31,<1.1"
    extra: str  # the extra that brings it; "" for what is always needed
    installed: str | None
    fits: bool  # is installed, in this range


class Gpu(NamedTuple):
    """A GPU that torch sees."""

    name: str
    capability: tuple[int, int]


class Place(NamedTuple):
    """A folder that something is written to, or the nearest one above it that is there."""

    purpose: str
    path: Path
    free: int  # bytes
    writable: bool


@dataclass(frozen=True)
class Facts:
    """What is true of a machine; the defaults are those of a healthy one without a GPU.

    Attributes:
        python: version of the interpreter, and `wanted_python` the oldest one that is supported.
        requirements: of the package and of its extras; empty where the package's metadata is not installed.
        torch: version of torch; None where it is not installed or cannot be imported, see `torch_error`.
        torch_cuda: version of CUDA that torch was built for; None of a build for CPUs.
        torch_arches: the kernels in that build, as `torch.cuda.get_arch_list` names them.
        gpus: that torch can use or at least sees.
        other_gpu: one of another maker than NVIDIA that torch can use; "" without one.
        driver: version of NVIDIA's driver; None without one.
        cores: that this process may use, of `all_cores`; `quota` is what its control group grants, in cores.
        threads: that torch starts.
        memory, all_memory: free bytes of this process, and bytes of the machine.
        shared_memory: free bytes of /dev/shm; None where there is none.
        ffmpeg: path of the command.
        decoders: why a video decoder cannot be used, None where it can, by name.
        weights: state of the offline weights: "ready", "missing", "damaged", or "unknown" without torch; they go into
            `weights_file`.
        hub_cache: folder of Hugging Face's cache, with `hub_models` models; `hub_offline` where it is told not to ask.
        reachable: addresses that were asked, and what is wrong with each, None where it answers; empty if none was.
    """

    python: tuple[int, int, int] = (3, 12, 0)
    wanted_python: tuple[int, int] = (3, 11)
    requirements: list[Requirement] = field(default_factory=list)
    torch: str | None = "2.14.1"
    torch_error: str = ""
    torch_cuda: str | None = None
    torch_arches: list[str] = field(default_factory=list)
    gpus: list[Gpu] = field(default_factory=list)
    other_gpu: str = ""
    driver: str | None = None
    cores: int = 8
    all_cores: int = 8
    quota: float | None = None
    threads: int = 8
    memory: int = 32 * 2**30
    all_memory: int = 32 * 2**30
    shared_memory: int | None = 16 * 2**30
    places: list[Place] = field(default_factory=list)
    ffmpeg: str | None = "/usr/bin/ffmpeg"
    decoders: dict[str, str | None] = field(default_factory=lambda: {"decord": None, "pyav": None})
    weights: str = "ready"
    weights_file: Path = Path("dinov2_small_pypi.safetensors")
    hub_cache: Path = Path("hub")
    hub_models: int = 0
    hub_offline: bool = False
    reachable: dict[str, str | None] = field(default_factory=dict)
