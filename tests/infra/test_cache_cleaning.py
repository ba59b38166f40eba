"""The script of components/cleaning, run on a folder."""

import os
import subprocess
import time
from pathlib import Path

from infra.kubernetes.kubectl import OVERLAYS

SCRIPT = OVERLAYS.parent / "components" / "cleaning" / "clean.sh"
DAY = 86400


def age(path: Path, days: float, *, read: float | None = None) -> None:
    """Make a file or folder look changed, and last read, that long ago."""
    now = time.time()
    os.utime(path, (now - (days if read is None else read) * DAY, now - days * DAY))


def entry(path: Path, days: float, *, read: float | None = None) -> Path:
    path.mkdir(parents=True)
    file = path / "weights file.safetensors"
    file.write_bytes(b"weights")
    age(file, days, read=read)
    age(path, days)
    return path


def clean(cache: Path) -> str:
    done = subprocess.run(
        ["sh", str(SCRIPT)],
        env={"PATH": os.environ["PATH"], "CACHE": str(cache), "WORK_DAYS": "14", "CACHE_DAYS": "30"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_what_nobody_uses_goes_and_the_rest_stays(tmp_path):
    gone = [
        entry(tmp_path / "work" / "run-1", 15),
        entry(tmp_path / "regrow" / "artifacts" / "old one", 31),
        entry(tmp_path / "huggingface" / "hub" / "models--org--name", 40),
    ]
    stay = [
        entry(tmp_path / "work" / "run-2", 13),
        entry(tmp_path / "regrow" / "artifacts" / "new", 29),
        entry(tmp_path / "regrow" / "artifacts" / "read", 90, read=3),
        entry(tmp_path / "regrow" / "models" / "deep" / "er", 1),
    ]
    age(tmp_path / "regrow" / "models" / "deep", 99)  # a change below does not touch the folder's own time
    said = clean(tmp_path)
    assert not any(path.exists() for path in gone) and all(path.exists() for path in stay)
    assert [line.split()[1] for line in said.splitlines() if line.startswith("remove")] == [
        "work/run-1", "regrow/artifacts/old", "huggingface/hub/models--org--name",
    ]  # fmt: skip
    assert not (tmp_path / ".removed").exists()
    assert clean(tmp_path).count("remove") == 0


def test_an_empty_cache_and_a_killed_cleaning(tmp_path):
    entry(tmp_path / ".removed" / "half", 1)
    assert "remove" not in clean(tmp_path)
    assert list(tmp_path.iterdir()) == []
