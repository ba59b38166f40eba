"""Debian as an image without a registry: mmdebstrap makes it from Debian's packages."""

import subprocess
import tempfile
from pathlib import Path

from infra.docker.builders import Builder
from infra.servers.programs import find
from regrow.errors import RegrowError

NAME = "localhost/regrow-rootfs"
_LATEST = f"{NAME}:latest"
_SUITE = "bookworm"
_DOCKERFILE = 'FROM scratch\nADD rootfs.tar /\nCMD ["/bin/sh"]\n'


def make(builder: Builder) -> str:
    """Make a root file system, put it into the builder's store and return its reference.

    Its packages are those that Debian has today; the tag is the image's id, so that what is built on it names it.

    Raises:
        InputError: mmdebstrap is not here.
        RegrowError: it failed.
    """
    program = find("mmdebstrap", "mmdebstrap")
    with tempfile.TemporaryDirectory(prefix="regrow-rootfs-") as scratch:
        folder = Path(scratch)
        tarball = folder / "rootfs.tar"
        command = [program, "--variant=minbase", "--include=ca-certificates", _SUITE, str(tarball)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " / ".join(done.stderr.strip().splitlines()[-3:])
            raise RegrowError(f"mmdebstrap failed: {said}")
        (folder / "Dockerfile").write_text(_DOCKERFILE, encoding="utf-8")
        builder.build(folder, folder / "Dockerfile", [_LATEST])
    reference = existing(builder)
    assert reference is not None, "the builder does not know what it has built"
    return reference


def existing(builder: Builder) -> str | None:
    """Return the reference of the newest one in the builder's store."""
    if not builder.has(_LATEST):
        return None
    short = builder.ask(["images", "--format", "{{.ID}}", _LATEST]).split()[0][:12]
    reference = f"{NAME}:{short}"
    builder.ask(["tag", _LATEST, reference])
    return reference
