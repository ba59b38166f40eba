"""A checkpoint to and from a real S3 store: regrow, plain boto3, and whole files by ZenML's `fileio.copy`.

    python -m benchmarks.transfer [--gib 2] [--shards 4] [--runs 3] [--folder DIR]

The store is SeaweedFS on this machine, so that client and server share its cores: processor seconds of the client say
more than MB/s. regrow's download includes the SHA-256 of every file; the others' are what they are, bytes on disk.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.digest import make

_URI = "s3://zenml/benchmark"
_WAYS = ("regrow", "boto3", "fileio.copy")


def store() -> object:
    """Return ZenML's S3 artifact store with the keys of the environment."""
    from datetime import UTC, datetime
    from uuid import uuid4

    from zenml.enums import StackComponentType
    from zenml.integrations.s3.artifact_stores import S3ArtifactStore
    from zenml.integrations.s3.flavors import S3ArtifactStoreConfig

    config = S3ArtifactStoreConfig(
        path="s3://zenml/benchmark",
        key=os.environ["AWS_ACCESS_KEY_ID"],
        secret=os.environ["AWS_SECRET_ACCESS_KEY"],
        client_kwargs={"endpoint_url": os.environ["AWS_ENDPOINT_URL_S3"]},
    )
    now = datetime.now(tz=UTC)
    return S3ArtifactStore(
        name="s3", id=uuid4(), config=config, flavor="s3", type=StackComponentType.ARTIFACT_STORE, user=None,
        created=now, updated=now,
    )  # fmt: skip


def work(way: str, direction: str, folder: Path, target: Path) -> None:
    """Upload `folder`, or download it into `target`, and print seconds, processor seconds and peak memory."""
    import resource
    import time
    from concurrent.futures import ThreadPoolExecutor

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    uri = f"{_URI}/{way}"
    artifacts = store()  # which also makes it known to fileio
    if way == "regrow":
        from materializers.folders import remote_of
        from regrow.transfer import Wanted, fetch, send

        remote = remote_of(artifacts, uri)
        wanted = {file.name: Wanted(file.stat().st_size) for file in files}

        def go() -> None:
            if direction == "up":
                send(remote, folder, uri)
            else:
                fetch(remote, uri, wanted, target)

    elif way == "boto3":
        import boto3

        client = boto3.client("s3")

        def one(file: Path) -> None:
            key = f"benchmark/{way}/{file.name}"
            if direction == "up":
                client.upload_file(str(file), "zenml", key)
            else:
                client.download_file("zenml", key, str(target / file.name))

        def go() -> None:
            for file in files:  # in parts at one time, as it does by itself
                one(file)

    else:
        from zenml.io import fileio

        def copy(file: Path) -> None:
            pair = (str(file), f"{uri}/{file.name}")
            if direction == "up":
                fileio.copy(*pair, overwrite=True)
            else:
                fileio.copy(pair[1], str(target / file.name))

        def go() -> None:
            with ThreadPoolExecutor(max_workers=8) as pool:
                list(pool.map(copy, files))

    target.mkdir(parents=True, exist_ok=True)
    before, used, wall = _peak(), time.process_time(), time.perf_counter()
    go()
    found = {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - used,
        "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }
    print(json.dumps(found))


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure all in turn, each in a process of its own, and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="a disk for data and store")
    parser.add_argument(
        "--one", nargs=4, metavar=("WAY", "up|down", "FOLDER", "TARGET"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.one:
        work(given.one[0], given.one[1], Path(given.one[2]), Path(given.one[3]))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        measure(Path(scratch), given.gib, given.shards, given.runs)


def measure(scratch: Path, gib: float, shards: int, runs: int) -> None:
    """Start a store, and measure."""
    import shlex
    import shutil

    servers = [sys.executable, "-m", "infra.servers"]
    place = ["--folder", str(scratch / "servers")]
    subprocess.run([*servers, "up", "s3", *place], check=True, stdout=subprocess.DEVNULL)
    try:
        said = subprocess.run(
            [*servers, "env", "s3", *place], check=True, capture_output=True, text=True
        ).stdout
        pairs = [
            shlex.split(line)[1].split("=", 1) for line in said.splitlines() if line.startswith("export")
        ]
        environment = os.environ | dict(pairs)
        folder, target = scratch / "model", scratch / "copy"
        folder.mkdir()
        make(folder, gib, shards)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        found: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in range(runs):
            for direction in ("up", "down"):
                for way in _WAYS:
                    shutil.rmtree(target, ignore_errors=True)
                    command = [sys.executable, "-m", "benchmarks.transfer", "--one", way, direction]
                    done = subprocess.run(
                        [*command, str(folder), str(target)], env=environment, check=True, capture_output=True,
                        text=True,
                    )  # fmt: skip
                    found.setdefault((direction, way), []).append(json.loads(done.stdout.splitlines()[-1]))
    finally:
        subprocess.run([*servers, "down", *place], check=False, stdout=subprocess.DEVNULL)
    print(
        f"| {gib:g} GiB in {shards} files, median of {runs} | seconds | MB/s | client's CPU seconds | peak MiB |"
    )
    print("| --- | --- | --- | --- | --- |")
    for (direction, way), rows in found.items():
        seconds, cpu, mib = (statistics.median(row[key] for row in rows) for key in ("seconds", "cpu", "mib"))
        print(f"| {direction}: {way} | {seconds:.1f} | {size / 1e6 / seconds:.0f} | {cpu:.1f} | {mib:.0f} |")


if __name__ == "__main__":
    main()
