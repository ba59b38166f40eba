"""What a registry is asked before anything is built: whether the image is there already."""

import base64
import json
import os
import re
import tomllib
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from regrow.errors import InputError, RegrowError

_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.index.v1+json",
    )
)


def check_address(registry: str) -> None:
    """Refuse what is no address of a registry.

    Raises:
        InputError: it has a scheme, or no host.
    """
    if not re.fullmatch(r"[\w.-]+(:\d+)?(/[\w./-]+)?", registry):
        raise InputError(f"--registry {registry}: expected HOST:PORT or HOST/FOLDER, without a scheme")


def is_insecure(registry: str) -> bool:
    """Tell whether registries.conf (CONTAINERS_REGISTRIES_CONF) says that this registry speaks plain HTTP."""
    path = Path(os.environ.get("CONTAINERS_REGISTRIES_CONF", "/etc/containers/registries.conf"))
    if not path.is_file():
        return False
    listed = tomllib.loads(path.read_text(encoding="utf-8")).get("registry", [])
    host = registry.partition("/")[0]
    return any(one.get("insecure") and host in (one.get("location"), one.get("prefix")) for one in listed)


def digest_of(reference: str, *, insecure: bool = False) -> str | None:
    """Return the digest of an image by its tag, or None when the registry has none of that name.

    A registry that asks for a login gets the one in the containers' auth file, if it is a plain one; otherwise this
    answers None, and the build goes on: what the registry has already is not pushed again either way.

    Raises:
        RegrowError: the registry does not answer.
    """
    host, _, rest = reference.partition("/")
    repository, _, tag = rest.rpartition(":")
    url = f"{'http' if insecure else 'https'}://{host}/v2/{repository}/manifests/{tag}"
    headers = {"Accept": _ACCEPT, **_login(host)}
    request = Request(url, method="HEAD", headers=headers)  # noqa: S310 - http(s), written above
    try:
        with build_opener(_NoRedirect).open(request, timeout=20) as answer:
            return answer.headers.get("Docker-Content-Digest")
    except HTTPError as error:
        if error.code in (401, 403, 404):
            return None
        raise RegrowError(f"{host}: the registry answers {error.code} to {urlsplit(url).path}") from error
    except (URLError, OSError) as error:
        why = getattr(error, "reason", error)
        hint = "" if insecure else "; --insecure if it speaks plain HTTP"
        raise RegrowError(f"{host}: the registry does not answer ({why}){hint}") from error


class _NoRedirect(HTTPRedirectHandler):
    """A login is for the host that was named."""

    def redirect_request(self, *_: object) -> None:
        return None


def _login(host: str) -> dict[str, str]:
    named = os.environ.get("REGISTRY_AUTH_FILE")
    places = [Path(named)] if named else [Path.home() / ".docker" / "config.json"]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and not named:
        places.insert(0, Path(runtime) / "containers" / "auth.json")
    for place in places:
        if place.is_file():
            entry = json.loads(place.read_text(encoding="utf-8")).get("auths", {}).get(host, {})
            if entry.get("auth"):
                base64.b64decode(entry["auth"], validate=True)
                return {"Authorization": f"Basic {entry['auth']}"}
    return {}
