"""What control groups say: the real ones of this machine, and both versions' files as the kernel writes them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from regrow import memory
from regrow.files import write_json

TAKE = (
    "data = bytearray({size}); [data.__setitem__(at, 1) for at in range(0, len(data), 4096)]; print('took')"
)


def test_this_process_has_taken_what_its_group_says():
    found = memory.read()
    if found == memory.Memory():
        pytest.skip("this machine has no control group for memory")
    assert found.kills is not None
    if found.peak is not None:
        assert found.peak > 10 * 2**20
    assert found.limit is None or found.limit > 2**20


@pytest.fixture
def group(tmp_path):
    """A control group of this machine with a limit of 64 MiB."""
    own = [(version, folder) for version, folder, _ in memory._places(Path("/proc/self"))]
    for version, folder in own:
        place = folder / f"regrow-test-{os.getpid()}"
        limit = place / ("memory.max" if version == 2 else "memory.limit_in_bytes")
        try:
            place.mkdir()
            limit.write_text(str(64 * 2**20))
        except OSError:
            place.rmdir() if place.exists() else None
            continue
        yield place
        place.rmdir()
        return
    pytest.skip("this user may not make a control group for memory")


def test_a_process_that_takes_more_than_its_group_may_is_told_of(group):
    code = (
        "import subprocess, sys\nfrom regrow import memory\n"
        f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
        "before = memory.read()\n"
        f"child = subprocess.run([sys.executable, '-c', {TAKE.format(size=200 * 2**20)!r}])\n"
        "after = memory.read()\n"
        "print(child.returncode, before.limit, before.kills, after.kills, memory.words(after, 2**31), sep='|')"
    )
    # So that the kernel takes the child: its parent is small.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )  # fmt: skip
    status, limit, before, after, words = done.stdout.strip().split("|")
    assert int(status) == -signal.SIGKILL
    assert int(limit) == 64 * 2**20
    assert (int(before), int(after)) == (0, 1)
    assert words.startswith("memory of this container: limit 64 MiB, peak 64 MiB, killed by the kernel: 1")
    assert words.endswith("estimated need 2.0 GiB")


def process(folder: Path, group: str, mount: str) -> Path:
    folder.mkdir()
    (folder / "cgroup").write_text(group)
    (folder / "mountinfo").write_text(mount)
    return folder


def test_version_2_takes_the_smallest_limit_on_the_way_up(tmp_path):
    top = tmp_path / "cgroup"
    leaf = top / "kubepods" / "pod" / "container"
    leaf.mkdir(parents=True)
    for name, text in {"memory.max": "max", "memory.current": "1", "memory.peak": "900"}.items():
        (leaf / name).write_text(text + "\n")
    (leaf / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    (leaf.parent / "memory.max").write_text("1000\n")
    mount = f"30 23 0:26 / {top} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    own = process(tmp_path / "one", "0::/kubepods/pod/container\n", mount)
    assert memory.read(own) == memory.Memory(limit=1000, peak=900, kills=2)


def test_version_1_in_a_container_that_sees_only_its_own_part(tmp_path):
    top = tmp_path / "memory"
    top.mkdir()
    (top / "memory.usage_in_bytes").write_text("5\n")
    (top / "memory.max_usage_in_bytes").write_text("700\n")
    (top / "memory.stat").write_text("cache 1\nhierarchical_memory_limit 800\n")
    (top / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    mount = (
        f"30 23 0:26 /kubepods/pod/c {top} ro - cgroup cgroup rw,memory\n"
        "31 23 0:27 / /x ro - cgroup cgroup rw,cpu\n"
    )
    own = process(tmp_path / "one", "5:cpu:/kubepods/pod/c\n4:memory:/kubepods/pod/c\n", mount)
    assert memory.read(own) == memory.Memory(limit=800, peak=700, kills=4)
    (top / "memory.stat").write_text("hierarchical_memory_limit 9223372036854771712\n")
    assert memory.read(own).limit is None


def test_nothing_to_read_is_nothing_known(tmp_path):
    assert memory.read(tmp_path) == memory.Memory()


def test_the_estimate_of_the_last_job_is_found(tmp_path):
    assert memory.estimated(tmp_path) is None
    write_json(tmp_path / "job/a/estimate.json", {"parts": {"weights": 5, "activations": 6}, "seconds": 1})
    assert memory.estimated(tmp_path) == 11
