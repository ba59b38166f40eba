"""The programs that build, push and run images: buildah and podman without a daemon, docker with one."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from regrow.errors import InputError, RegrowError

BUILDERS = ("buildah", "podman", "docker")
_CA = "/run/secrets/ca"


@dataclass(frozen=True)
class Builder:
    """One of the programs.

    Attributes:
        name: which.
        program: its path.
    """

    name: str
    program: str

    def build(
        self,
        context: Path,
        dockerfile: Path,
        references: Sequence[str],
        *,
        arguments: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        layout: str = "oci",
        ca: Path | None = None,
    ) -> None:
        """Build an image.

        Args:
            context: staged folder.
            dockerfile: what is done with it.
            references: names that the image gets.
            arguments: build arguments.
            labels: of the image.
            layout: `oci` or `docker`, the format of its manifest; docker's own builder knows its own only.
            ca: certificates that the package index is checked with, for the time of the build only.

        Raises:
            RegrowError: the build failed; its output is above.
        """
        command = [self.program, "build", "--network", "host", "--file", str(dockerfile)]
        environment = dict(os.environ)
        if self.name == "docker":
            environment["DOCKER_BUILDKIT"] = "1"  # the classic builder knows no mounts
        else:
            # chroot asks nothing of the kernel, so that it works inside a pod as well.
            isolation = os.environ.get("BUILDAH_ISOLATION", "chroot")
            command += ["--layers", "--isolation", isolation, "--format", layout]
        arguments = dict(arguments or {})
        if ca is not None:
            command += ["--secret", f"id=ca,src={ca}"]
            arguments["SSL_CERT_FILE"] = _CA
        for name, value in arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        for name, value in (labels or {}).items():
            command += ["--label", f"{name}={value}"]
        for reference in references:
            command += ["--tag", reference]
        self._show([*command, str(context)], environment)

    def push(self, reference: str, *, insecure: bool = False) -> str:
        """Push an image and return the digest that the registry knows it by.

        Raises:
            RegrowError: the registry does not answer or refuses.
        """
        if self.name == "docker":
            self._show([self.program, "push", reference])
            digests = self.ask(
                ["image", "inspect", "--format", '{{join .RepoDigests "\\n"}}', reference]
            ).split()
            repository = reference.rpartition(":")[0]
            return next(one for one in digests if one.startswith(f"{repository}@")).partition("@")[2]
        with tempfile.TemporaryDirectory() as folder:
            told = Path(folder) / "digest"
            tls = ["--tls-verify=false"] if insecure else []
            self._show(
                [self.program, "push", *tls, "--digestfile", str(told), reference, f"docker://{reference}"]
            )
            return told.read_text(encoding="utf-8").strip()

    def run(self, reference: str, command: Sequence[str], *, insecure: bool = False) -> str:
        """Run a command in an image, pulled when it is not there, and return what it writes.

        Raises:
            RegrowError: there is no such image, or the command failed.
        """
        tls = ["--tls-verify=false"] if insecure else []
        if self.name == "docker":
            return self.ask(["run", "--rm", "--network", "none", reference, *command])
        if self.name == "podman":
            return self.ask(["run", *tls, "--rm", "--network", "none", reference, *command])
        container = self.ask(["from", *tls, reference]).strip()
        try:
            return self.ask(["run", "--isolation", "chroot", container, "--", *command])
        finally:
            with suppress(RegrowError):
                self.ask(["rm", container])

    def has(self, reference: str) -> bool:
        """Tell whether the image is in this machine's own store."""
        try:
            self.ask(["inspect", "--type", "image", reference])
        except RegrowError:
            return False
        return True

    def ask(self, arguments: Sequence[str]) -> str:
        """Return what the program answers.

        Raises:
            RegrowError: it failed; the message has its last words.
        """
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines()[-3:]
            raise RegrowError(f"{self.name} {arguments[0]}: {' / '.join(said) or 'failed'}")
        return done.stdout

    def _show(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        # What a builder says goes to the error channel: the command's own output is the references.
        done = subprocess.run(command, env=environment, stdout=2, check=False)
        if done.returncode:
            raise RegrowError(
                f"{self.name} {command[1]} ended with exit status {done.returncode}; what it said is above"
            )


def find_builder(name: str | None = None) -> Builder:
    """Return the builder that is named, or the first one that is there.

    Raises:
        InputError: it is not there, or none is.
    """
    for one in (name,) if name else BUILDERS:
        if program := shutil.which(one):
            found = Builder(one, program)
            if one != "docker" or name or _answers(found):
                return found
    if name:
        raise InputError(f"{name} is not on this machine; --builder takes one of {', '.join(BUILDERS)}")
    raise InputError(
        "nothing here builds images: apt-get install buildah (Debian, Ubuntu; needs no daemon), or podman, or docker"
    )


def _answers(docker: Builder) -> bool:
    try:
        docker.ask(["info"])
    except RegrowError:
        return False
    return True
