"""How much memory this process may still take."""

from pathlib import Path

_UNKNOWN = 2 * 2**30  # taken for free where the system does not say


def measure_free_memory(root: Path = Path("/")) -> int:
    """Measure the free bytes: what Linux calls available, or less if a control group (container, job) is limited.

    Other systems do not say; 2 GiB are assumed there. `root` holds `proc` and `sys`.
    """
    found = [_read_available(root / "proc/meminfo"), *_read_left_in_groups(root)]
    return max(0, min((free for free in found if free is not None), default=_UNKNOWN))


def _read_available(meminfo: Path) -> int | None:
    for line in _read_lines(meminfo):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return 1024 * int(value.split()[0])
    return None


def _read_left_in_groups(root: Path) -> list[int]:
    """Read the bytes that the limits of this process' control groups (version 1 and 2, all parents) leave."""
    left = []
    for line in _read_lines(root / "proc/self/cgroup"):
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            mount, limit, usage = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = mount / name.strip("/")
        for group in (own, *(parent for parent in own.parents if parent.is_relative_to(mount))):
            most, used = _read_number(group / limit), _read_number(group / usage)
            if most is not None and used is not None:
                left.append(most - used + _read_reclaimable(group / "memory.stat"))
    return left


def _read_reclaimable(stat: Path) -> int:
    """Read the bytes of the group's page cache that the kernel would give up; usage counts them."""
    names = ("total_inactive_file", "inactive_file")
    values = dict(line.split() for line in _read_lines(stat))
    return int(next((values[name] for name in names if name in values), 0))


def _read_number(file: Path) -> int | None:
    text = "".join(_read_lines(file))
    return int(text) if text.isdigit() else None  # "max": no limit


def _read_lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
