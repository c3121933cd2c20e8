"""Memory that is free: what the system calls available, within the limits of its containers."""

from pathlib import Path

import pytest

from vision_peft.data.loading.memory import measure_free_memory


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:       2000 kB\nMemFree:         100 kB\nMemAvailable:   1000 kB\n"}


def test_free_memory_is_what_linux_calls_available(tmp_path: Path) -> None:
    assert measure_free_memory(write(tmp_path, MEMINFO)) == 1000 * 1024
    assert measure_free_memory(tmp_path / "another system") == 2 * 2**30
    assert 0 < measure_free_memory() < 2**50


@pytest.mark.parametrize(
    ("groups", "free"),
    [
        ({"a/b/memory.max": "max", "a/b/memory.current": "9"}, 1_024_000),
        ({"a/b/memory.max": "500000", "a/b/memory.current": "200000"}, 300_000),
        (
            {
                "a/b/memory.max": "500000",
                "a/b/memory.current": "200000",
                "a/b/memory.stat": "anon 5\ninactive_file 50000\n",
            },
            350_000,
        ),
        ({"a/memory.max": "400000", "a/memory.current": "390000", "a/b/memory.max": "max"}, 10_000),
        ({"a/b/memory.max": "5000", "a/b/memory.current": "6000"}, 0),
        ({"a/b/memory.max": "9000000", "a/b/memory.current": "6000"}, 1_024_000),
    ],
)
def test_a_container_s_limit_counts_where_it_is_lower(tmp_path: Path, groups: dict[str, str], free: int) -> None:
    files = {f"sys/fs/cgroup/{name}": text for name, text in groups.items()}
    write(tmp_path, {**MEMINFO, "proc/self/cgroup": "1:cpu:/x\n0::/a/b\n", **files})
    assert measure_free_memory(tmp_path) == free


def test_the_limit_of_the_older_kind_of_group_counts_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:cpu,memory:/job\n1:name=systemd:/\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "300000",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "100000",
        "sys/fs/cgroup/memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 7\n",
    }
    assert measure_free_memory(write(tmp_path, {**MEMINFO, **files})) == 200_007
