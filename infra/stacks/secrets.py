"""The ZenML secrets that a stack refers to: which they are, and how a missing one is made."""

from collections.abc import Mapping

from zenml.client import Client
from zenml.utils.secret_utils import is_secret_reference, parse_secret_reference

from infra.stacks.schema import StackFile
from infra.stacks.values import Settled, Values
from regrow.errors import InputError

# What ZenML's artifact store and container registry look for in the secret that they are given.
_KEYS = {
    "artifact_store": ("aws_access_key_id", "aws_secret_access_key"),
    "container_registry": ("username", "password"),
}


def referred(parts: Mapping[tuple[str, str], Settled], values: Values) -> dict[str, set[str]]:
    """Return the secrets that components and steps need, and the keys that they need of each."""
    found: dict[str, set[str]] = {name: set() for name in values.secrets}
    for (kind, _), (_, settings) in parts.items():
        for key, value in settings.items():
            if key == "authentication_secret" and value:
                found.setdefault(value, set()).update(_KEYS.get(kind, ()))
            elif is_secret_reference(value):
                reference = parse_secret_reference(value)
                found.setdefault(reference.name, set()).add(reference.key)
    return found


def missing(parts: Mapping[tuple[str, str], Settled], values: Values) -> dict[str, str]:
    """Return the secrets, or keys of one, that ZenML does not hold, each with the command that makes them."""
    client = Client()
    found = {}
    for name, keys in referred(parts, values).items():
        one = next(iter(client.list_secrets(name=name).items), None)
        if one is None:
            given = "".join(f" --{key}=..." for key in sorted(keys)) or " --NAME=..."
            found[name] = f"zenml secret create {name}{given}"
            continue
        # Names of keys come with the secret, and only for those who may read it.
        there = set(client.get_secret(one.id).values)
        if lacking := sorted(keys - there):
            found[name] = f"zenml secret update {name}{''.join(f' --{key}=...' for key in lacking)}"
    return found


def demand(stack: StackFile, parts: Mapping[tuple[str, str], Settled], values: Values) -> None:
    """Raise unless ZenML holds every secret that a stack refers to.

    Raises:
        InputError: names the missing ones, and the commands that make them.
    """
    if lacking := missing(parts, values):
        commands = "".join(f"\n  {command}" for command in lacking.values())
        raise InputError(
            f"the stack {stack.name} refers to ZenML secrets that are not there or not whole: {', '.join(lacking)}. "
            f"Make them (a value @file is read from the file, so that it stays out of your shell's history):{commands}"
        )
