"""Look at this machine: what a diagnosis asks of it. Nothing is changed, and the network only asked where wanted."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from vision_peft.data.decoding.video_backends import MODULES, explain_absence_quickly
from vision_peft.data.loading.memory import measure_free_memory
from vision_peft.doctor.facts import Facts, Gpu, Place, Requirement
from vision_peft.home_paths import expand_home

ADDRESSES = ("https://pypi.org/simple/timm/", "https://huggingface.co/timm")
NETWORK_SECONDS = 4


def gather(output_dir: Path, network: bool = False) -> Facts:
    """Gather the facts about this machine.

    Args:
        output_dir: where runs would go.
        network: whether to ask the package index and the hub for an answer.
    """
    (weights, state), hub = _ask_weights(), _find_hub_cache()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Facts(
        python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        requirements=read_requirements(),
        **_ask_torch(),
        driver=find_driver(),
        cores=cores,
        all_cores=os.cpu_count() or 1,
        quota=read_quota(),
        memory=measure_free_memory(),
        all_memory=_count_memory(),
        shared_memory=_measure_free(Path("/dev/shm")) if Path("/dev/shm").is_dir() else None,
        places=[
            look_at(purpose, path)
            for purpose, path in (("runs", output_dir), ("weights", weights.parent), ("the hub's cache", hub))
        ],
        ffmpeg=shutil.which("ffmpeg"),
        decoders={name: explain_absence_quickly(name) for name in MODULES},
        weights=state,
        weights_file=weights,
        hub_cache=hub,
        hub_models=sum(1 for _ in hub.glob("models--*")),
        hub_offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        reachable={address: ask(address) for address in ADDRESSES} if network else {},
    )


def read_requirements(package: str = "vision_peft") -> list[Requirement]:
    """Read what the installed metadata of `package` asks for on this machine; empty where it is not installed."""
    from packaging.requirements import Requirement as Wanted

    try:
        wanted = [Wanted(text) for text in importlib.metadata.requires(package) or []]
        extras = importlib.metadata.metadata(package).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for each in wanted:
        extra = next(
            (name for name in ("", *extras) if each.marker is None or each.marker.evaluate({"extra": name})), None
        )
        if extra is None:  # for another kind of machine
            continue
        try:
            installed = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            installed = None
        fits = installed is not None and each.specifier.contains(installed, prereleases=True)
        found.append(Requirement(each.name, str(each.specifier), extra, installed, fits))
    return found


def _ask_torch() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries cannot be loaded
        return {"torch": None, "torch_error": str(error).split("\n")[0], "threads": 0}
    arches = torch.cuda.get_arch_list() if torch.version.cuda and torch.cuda.is_available() else []
    count = torch.cuda.device_count() if torch.version.cuda else 0
    gpus = [Gpu(torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)) for i in range(count)]
    return {
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "torch_arches": arches,
        "gpus": gpus if torch.cuda.is_available() else [],
        "other_gpu": _find_other_gpu(torch),
        "threads": torch.get_num_threads(),
    }


def _find_other_gpu(torch: Any) -> str:
    if torch.version.hip and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, ROCm {torch.version.hip}"
    return "Apple's, by Metal (mps)" if torch.backends.mps.is_available() else ""


def _ask_weights() -> tuple[Path, str]:
    try:
        from vision_peft.backbones.pypi_weights import check_cached, find_cached
    except (ImportError, OSError):  # torch is missing or broken, which is a finding of its own
        folder = expand_home(os.environ.get("VISION_PEFT_CACHE") or "~/.cache/vision_peft")
        return folder / "dinov2_small_pypi.safetensors", "unknown"
    return find_cached(), check_cached(find_cached())


def find_driver(root: Path = Path("/")) -> str | None:
    """Return the version of NVIDIA's driver, "?" where it does not say it; None without one."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _ask_nvidia_smi() if (root / "dev/nvidiactl").exists() else None
    version = re.search(r"\b(\d{3}\.\d+(\.\d+)?)\b", text)
    return version[1] if version else "?"


def _ask_nvidia_smi() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=3, check=True)
    except (OSError, subprocess.SubprocessError):
        return "?"
    return done.stdout.split("\n")[0].strip() or "?"


def read_quota(root: Path = Path("/")) -> float | None:
    """Read how many cores the control group of this process (a container, a job) grants; None without a limit."""
    try:
        if (file := root / "sys/fs/cgroup/cpu.max").is_file():
            most, period = file.read_text().split()
            return None if most == "max" else int(most) / int(period)
        folder = root / "sys/fs/cgroup/cpu"
        most, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return most / period if most > 0 else None


def look_at(purpose: str, path: Path) -> Place:
    """Look at the folder that `path` is, or would be made in."""
    there = next((folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists()), Path("/"))
    return Place(purpose, path, _measure_free(there), there.is_dir() and os.access(there, os.W_OK | os.X_OK))


def ask(address: str) -> str | None:
    """Ask an address for an answer; says what went wrong, None if nothing."""
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "vision_peft doctor"})
    try:
        with urllib.request.urlopen(request, timeout=NETWORK_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code < 500 else f"it answers {error.code}"
    except OSError as error:
        return str(getattr(error, "reason", error))


def _measure_free(path: Path) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def _count_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return measure_free_memory()


def _find_hub_cache() -> Path:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return expand_home("~/.cache/huggingface/hub")
    return Path(HF_HUB_CACHE)
