"""Whether the values name the images of a stack, and whether a registry answers and holds them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlparse

import requests
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.models import StackResponse

from infra.stacks.findings import Finding, missing, note, ok
from infra.stacks.schema import StackFile
from infra.stacks.values import Values
from regrow.errors import InputError

_SECONDS = 10
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


def demand_named(stack: str, images: Mapping[Any, str], users: Iterable[tuple[str, str]]) -> None:
    """Refuse a run of which an image is not named; ZenML would build one from the checkout, and cannot.

    The Dockerfile wants the context that only `infra.docker` lays out.

    Args:
        stack: its name.
        images: the references that the values name.
        users: the images of the run, each with a stage that uses it.

    Raises:
        InputError: names the images, the stages that want them, and the remedy.
    """
    lacking = _unnamed(images, users)
    if lacking:
        said = "; ".join(f"{name} (for {', '.join(stages)})" for name, stages in lacking.items())
        raise InputError(
            f"the values of the stack {stack} name no image {said}: {_remedy(lacking)}; or give the run configuration "
            "a `docker` section of its own"
        )


def _unnamed(images: Mapping[Any, str], users: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the stages that use an image that is not named, by image."""
    found: dict[str, list[str]] = {}
    for name, stage in users:
        if name not in images and stage not in (stages := found.setdefault(name, [])):
            stages.append(stage)
    return found


def _remedy(names: Iterable[str]) -> str:
    return (
        f"python -m infra.docker build {' '.join(names)} --registry HOST --push, then put the references that it "
        "writes to runs/images.json under `images` of the values file and give it to regrow stack up"
    )


def look(stack: StackFile, registered: StackResponse, values: Values) -> Iterator[Finding]:
    """Ask the stack's registry for itself, and every image's registry for the image."""
    users = [("base", "the orchestrator")] if stack.stages else []
    users += [(stage.image, name) for name, stage in stack.stages.items()]
    for name, stages in _unnamed(values.images, users).items():
        yield missing("images", f"{name}: the values name none, for {', '.join(stages)}", _remedy([name]))
    for engine, name in (
        (engine, name) for stage in stack.stages.values() for engine, name in stage.engines.items()
    ):
        if name not in values.images:
            yield note(
                "images", f"{name}: the values name none; only generation with the engine {engine} wants it"
            )
    for one in registered.components.get(StackComponentType.CONTAINER_REGISTRY, []):
        host = urlparse(f"//{one.configuration['uri'].split('://')[-1]}").netloc
        login = _login(one.configuration.get("authentication_secret"))
        base = _base(host, login)
        if base is None:
            yield missing(
                "container_registry",
                f"no registry answers at {host}",
                "start it, or mend container_registry.uri",
            )
            return
        yield ok("container_registry", f"the registry {host} answers")
        for name, reference in values.images.items():
            yield _image(name, reference, host, base, login)


def _image(name: str, reference: str, host: str, base: str, login: tuple[str, str] | None) -> Finding:
    place, digest, tag = _parts(reference)
    where, _, repository = place.partition("/")
    if where != host:
        return note(
            "images", f"{name}: {reference} lies in another registry than the stack's; not looked for"
        )
    try:
        answer = requests.head(
            f"{base}/v2/{repository}/manifests/{digest or tag}",
            headers={"Accept": _MANIFESTS},
            auth=login,
            timeout=_SECONDS,
        )
    except requests.RequestException as error:
        return missing("images", f"{name}: {reference}: {type(error).__name__}", "start the registry")
    if answer.status_code in (401, 403):
        return note("images", f"{name}: {reference}: the registry wants a login; not looked for")
    if answer.status_code != requests.codes.ok:
        return missing(
            "images",
            f"{name}: {reference} is not in the registry",
            f"python -m infra.docker build {name} --registry HOST --push",
        )
    return ok("images", f"{name}: {reference}")


def _parts(reference: str) -> tuple[str, str, str]:
    """Return a reference's place, digest and tag."""
    place, _, digest = reference.partition("@")
    head, _, last = place.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{head}/{last}", digest, tag or "latest"


def _base(host: str, login: tuple[str, str] | None) -> str | None:
    """Return the address by which a registry answers; one without TLS is for test clusters."""
    for scheme in ("https", "http"):
        try:
            answer = requests.get(f"{scheme}://{host}/v2/", auth=login, timeout=_SECONDS)
        except requests.RequestException:
            continue
        # A proxy on the way answers too, but not like a registry.
        if (
            answer.ok
            or "Docker-Distribution-Api-Version" in answer.headers
            or "WWW-Authenticate" in answer.headers
        ):
            return f"{scheme}://{host}"
    return None


def _login(secret: str | None) -> tuple[str, str] | None:
    if not secret:
        return None
    try:
        found = Client().get_secret(secret).secret_values
        return found["username"], found["password"]
    except KeyError:
        return None
