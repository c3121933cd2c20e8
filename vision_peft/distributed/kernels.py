"""Which GPUs a build of torch has kernels for. Free of torch, which may be what is broken."""

import re


def has_kernels(capability: tuple[int, int], built_for: list[str]) -> bool:
    """Whether a torch built for these has kernels for a GPU; they run on their major version from their minor on."""
    major, minor = capability
    kernels = [re.fullmatch(r"sm_(\d+)(\d)[a-z]?", arch) for arch in built_for]
    return any(match and int(match[1]) == major and int(match[2]) <= minor for match in kernels) or any(
        arch.startswith("compute_") and int(arch.removeprefix("compute_")) <= 10 * major + minor for arch in built_for
    )
