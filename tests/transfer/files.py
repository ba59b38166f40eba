"""Files of random bytes, and what a manifest says of them."""

from hashlib import sha256
from pathlib import Path

import numpy as np

from regrow.transfer import Wanted

MIB = 2**20


def folder_of(place: Path, **sizes: int) -> Path:
    """Write files of so many random bytes; a name's double underscore is a folder's slash."""
    source = np.random.Generator(np.random.SFC64(len(sizes)))
    for name, size in sizes.items():
        file = place / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source.bytes(size))
    return place


def wanted_of(folder: Path) -> dict[str, Wanted]:
    return {
        file.relative_to(folder).as_posix(): Wanted(
            file.stat().st_size, sha256(file.read_bytes()).hexdigest()
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }
