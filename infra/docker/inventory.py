"""What is installed where this runs, as JSON: `python -m infra.docker.inventory`, in an image.

Nothing but Python itself and dpkg is needed, so that the answer does not depend on what it lists.
"""

import json
import platform
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from typing import Any

_FORMAT = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"


def inventory() -> dict[str, Any]:
    """Return the Debian packages, the Python distributions and what runs them."""
    return {
        "system": platform.freedesktop_os_release(),
        "python": platform.python_version(),
        "debian": _debian(),
        "distributions": sorted(_distributions().values(), key=lambda one: one["name"]),
    }


def _debian() -> list[dict[str, str]]:
    listed = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={_FORMAT}"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.split("\t") for line in listed.splitlines()]
    # "ii": installed, as against removed with its configuration left.
    return [
        {"name": name, "version": version, "architecture": architecture}
        for status, name, version, architecture in rows
        if status.startswith("ii")
    ]


def _distributions() -> dict[str, dict[str, str]]:
    # A distribution may stand twice on the path (a checkout's own and the installed one): the first one counts.
    found: dict[str, dict[str, str]] = {}
    for one in distributions():
        if name := one.metadata["Name"]:
            key = name.lower().replace("_", "-").replace(".", "-")
            found.setdefault(key, {"name": key, "version": one.version, "licence": _licence(one)})
    return found


def _licence(one: Distribution) -> str:
    """Return the SPDX expression, or the short name that stands in the old field; a whole text is no name."""
    said = one.metadata.get("License-Expression") or one.metadata.get("License") or ""
    return said.strip() if said and "\n" not in said and len(said) < 80 else ""


if __name__ == "__main__":
    json.dump(inventory(), sys.stdout)
