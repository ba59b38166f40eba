"""An image of one layer, put into a registry without any container tool."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def push(
    registry: str,
    name: str,
    files: Mapping[str, Path],
    command: Sequence[str],
    links: Mapping[str, str] | None = None,
) -> str:
    """Put an image with the given files into a registry.

    Args:
        registry: host and port; spoken to in plain HTTP.
        name: repository and tag, such as `pause:3.2`.
        files: path in the image -> file of this machine, executable there.
        command: what a container runs.
        links: path in the image -> target of a symbolic link.

    Returns:
        The image's name by its digest. The same files give the same digest.

    Raises:
        requests.RequestException: the registry does not answer or refuses.
    """
    repository, tag = name.split(":")
    base = f"http://{registry}/v2/{repository}"
    layer = _tar(files, links or {})
    packed = gzip.compress(layer, mtime=0)
    config = _json(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(
                os.uname().machine, os.uname().machine
            ),
            "os": "linux",
            "config": {"Entrypoint": list(command), "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    with requests.Session() as session:
        session.trust_env = False  # a proxy of this machine is for the world outside
        for blob in (packed, config):
            _blob(session, base, blob)
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _about(config, "application/vnd.oci.image.config.v1+json"),
                "layers": [_about(packed, "application/vnd.oci.image.layer.v1.tar+gzip")],
            }
        )
        answer = session.put(
            f"{base}/manifests/{tag}", data=manifest, headers={"Content-Type": _MANIFEST}, timeout=30
        )
        answer.raise_for_status()
    return f"{registry}/{repository}@{_digest(manifest)}"


def _blob(session: requests.Session, base: str, blob: bytes) -> None:
    if session.head(f"{base}/blobs/{_digest(blob)}", timeout=30).ok:
        return
    begun = session.post(f"{base}/blobs/uploads/", timeout=30)
    begun.raise_for_status()
    answer = session.put(
        begun.headers["Location"], params={"digest": _digest(blob)}, data=blob, timeout=120,
        headers={"Content-Type": "application/octet-stream"},
    )  # fmt: skip
    answer.raise_for_status()


def _tar(files: Mapping[str, Path], links: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted({*files, *links}):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.mode = 0o755
            if path in links:
                entry.type, entry.linkname = tarfile.SYMTYPE, links[path]
                archive.addfile(entry)
            else:
                content = files[path].read_bytes()
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _about(blob: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(blob), "digest": _digest(blob)}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"
