"""What a registered stack lacks, in plain words."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import requests
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.models import StackResponse

from infra.stacks import secrets
from infra.stacks.findings import Finding, missing, ok
from infra.stacks.register import component, find, kept_values, wanted
from infra.stacks.schema import StackFile
from infra.stacks.values import Values, settled, sized
from regrow.errors import InputError, RegrowError

_SECONDS = 10


@dataclass(frozen=True)
class Looked:
    """A stack that is looked at."""

    stack: StackFile
    name: str
    values: Values
    registered: StackResponse
    component: str | None


def check(stack: StackFile, *, name: str | None = None, component_name: str | None = None) -> list[Finding]:
    """Look at a stack's ZenML, components, cluster, store, registry and servers.

    Args:
        stack: the stack file.
        name: of the stack in ZenML; the file's if not given.
        component_name: of its components; `regrow-` and the stack's if not given.

    Returns:
        Everything that was looked at; what cannot be reached is a finding, not an error.
    """
    name = name or stack.name
    try:
        found = [_zenml(stack)]
    except Exception as error:  # whatever keeps ZenML's client from its server
        return [
            missing(
                "zenml", f"ZenML does not answer: {_short(error)}", "zenml login URL, or mend ZENML_STORE_URL"
            )
        ]
    registered = find(name)
    if registered is None:
        return [
            *found,
            missing("stack", f"the stack {name} is not registered", f"regrow stack up {stack.name}"),
        ]
    looked = Looked(stack, name, kept_values(registered), registered, component_name)
    parts: list[Callable[[Looked], Iterator[Finding]]] = [_secrets, _components]
    if stack.remote:
        from infra.stacks import cluster, images

        parts += [
            _store,
            _tracker,
            lambda one: images.look(sized(one.stack, one.values), one.registered, one.values),
            lambda one: cluster.look(sized(one.stack, one.values), one.registered),
        ]
    else:
        parts += [_store]
    for part in parts:
        found += part(looked)
    return found


def _zenml(stack: StackFile) -> Finding:
    store = Client().zen_store
    store.get_store_info()
    if stack.remote and store.is_local_store():
        return missing(
            "zenml", f"pods cannot reach ZenML's database {store.url} on this machine", "zenml login URL"
        )
    return ok("zenml", f"ZenML answers at {store.url}")


def _secrets(looked: Looked) -> Iterator[Finding]:
    try:
        parts = settled(looked.stack, looked.values)
    except InputError:
        return  # the components say it
    lacking = secrets.missing(parts, looked.values)
    for name in secrets.referred(parts, looked.values):
        if name in lacking:
            yield missing("secrets", f"ZenML's secret {name} is not there or not whole", lacking[name])
        else:
            yield ok("secrets", f"ZenML holds the secret {name}")


def _components(looked: Looked) -> Iterator[Finding]:
    again = f"regrow stack up {looked.stack.name}"
    try:
        parts = wanted(looked.stack, looked.values, looked.component)
    except InputError as error:
        yield missing("components", str(error), f"{again} --values FILE")
        return
    attached = {one.id for ones in looked.registered.components.values() for one in ones}
    for part in parts:
        what = f"{part.kind.value} {part.name}"
        there = component(part.kind, part.name)
        if there is None or there.id not in attached:
            yield missing("components", f"the {what} is not registered, or not in the stack", again)
        elif there.configuration != part.configuration or there.flavor_name != part.flavor:
            differ = sorted(
                key
                for key in {*there.configuration, *part.configuration}
                if there.configuration.get(key) != part.configuration.get(key)
            )
            yield missing(
                "components", f"the {what} is not as its file and values say: {', '.join(differ)}", again
            )
        else:
            yield ok("components", f"the {what} is up to date")


def _store(looked: Looked) -> Iterator[Finding]:
    path = looked.registered.components[StackComponentType.ARTIFACT_STORE][0].configuration["path"]
    try:
        from zenml.artifact_stores import BaseArtifactStore
        from zenml.stack import StackComponent

        store = StackComponent.from_model(looked.registered.components[StackComponentType.ARTIFACT_STORE][0])
        assert isinstance(store, BaseArtifactStore)
        if not store.exists(path) and not path.startswith("s3:"):
            store.makedirs(path)
        trial = f"{path.rstrip('/')}/.regrow-check-{uuid4().hex}"
        with store.open(trial, "wb") as stream:
            stream.write(b"written by regrow stack check")
        store.remove(trial)
    except Exception as error:
        yield missing(
            "artifact_store",
            f"{path} cannot be written to from here: {_short(error)}",
            "see address, keys and bucket",
        )
        return
    yield ok("artifact_store", f"{path} can be written to")


def _tracker(looked: Looked) -> Iterator[Finding]:
    for one in looked.registered.components.get(StackComponentType.EXPERIMENT_TRACKER, []):
        if not (uri := one.configuration.get("tracking_uri")):
            continue
        try:
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=_SECONDS)
            if answer.text.strip() != "OK":
                raise RegrowError(f"another answer than MLflow's (status {answer.status_code})")
        except (requests.RequestException, RegrowError) as error:
            yield missing(
                "experiment_tracker",
                f"MLflow does not answer at {uri}: {_short(error)}",
                "start it, or mend tracking_uri",
            )
        else:
            yield ok("experiment_tracker", f"MLflow answers at {uri}")


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
