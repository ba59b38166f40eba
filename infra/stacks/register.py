"""A stack in ZenML: its components and the stack itself, made or brought up to date."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.models import ComponentResponse, StackResponse
from zenml.models.v2.core.stack import StackRequest, StackUpdate
from zenml.stack.flavor import Flavor
from zenml.utils import source_utils
from zenml.utils.secret_utils import is_secret_field, is_secret_reference

from infra.stacks import secrets
from infra.stacks.schema import StackFile
from infra.stacks.values import Values, as_text, combine, settled
from regrow.errors import InputError

# On stacks and components that were made here: the stack file. Others are left alone.
OWNER = "regrow.stack"
_VALUES = "regrow.values"

Done = Literal["registered", "updated", "unchanged"]


@dataclass(frozen=True)
class Wanted:
    """A component as it is to be."""

    kind: StackComponentType
    name: str
    flavor: str
    configuration: dict[str, Any]


@dataclass(frozen=True)
class Change:
    """What became of a component, or of the stack."""

    kind: str
    name: str
    done: Done


def wanted(stack: StackFile, values: Values, name: str | None = None) -> list[Wanted]:
    """Return the components of a stack, checked against the fields of their flavors.

    Args:
        stack: the stack file.
        values: what the site adds.
        name: of the components; step operators have their own.

    Raises:
        InputError: values or ZenML secrets are missing, or a setting is unknown to ZenML or of another kind.
    """
    common = name or f"regrow-{stack.name}"
    found = []
    parts = settled(stack, values)
    secrets.demand(stack, parts, values)  # first: ZenML looks into them when it checks settings
    for (kind, own), (flavor, settings) in parts.items():
        where = f"{kind}s.{own}" if own else kind
        kept = _checked(StackComponentType(kind), flavor, settings, f"{stack.name}: {where}")
        found.append(Wanted(StackComponentType(kind), own or common, flavor, kept))
    return found


def up(
    stack: StackFile, values: Values | None = None, *, name: str | None = None, component: str | None = None
) -> list[Change]:
    """Register what is missing and update what differs; what is right stays as it is.

    Args:
        stack: the stack file.
        values: what the site adds; those of the last time if not given.
        name: of the stack; the file's if not given.
        component: name of its components; `regrow-` and the stack's if not given.

    Raises:
        InputError: values or ZenML secrets are missing, a name is taken by something else, or the values are for
            another ZenML server.
    """
    client = Client()
    name = name or stack.name
    present = find(name)
    values = values if values is not None else kept_values(present)
    _at_its_server(client, values)
    parts = wanted(stack, values, component)
    _names_are_free(parts, present, name, stack.name)
    changes: list[Change] = []
    components: dict[StackComponentType, list[Any]] = {}
    for part in parts:
        one, done = _component(client, stack, part)
        components.setdefault(part.kind, []).append(one.id)
        changes.append(Change(part.kind.value, part.name, done))
    return [*changes, Change("stack", name, _stack(client, stack, name, values, components, present))]


def find(name: str) -> StackResponse | None:
    """Return the registered stack of exactly that name."""
    found = Client().list_stacks(name=name, hydrate=True).items
    return found[0] if found else None


def component(kind: StackComponentType, name: str) -> ComponentResponse | None:
    """Return the registered component of exactly that name."""
    found = Client().list_stack_components(type=kind, name=name, hydrate=True).items
    return found[0] if found else None


def kept_values(stack: StackResponse | None) -> Values:
    """Return the values that a stack was registered with."""
    text = (stack.labels or {}).get(_VALUES) if stack else None
    return (
        combine([(f"the values kept with the stack {stack.name}", json.loads(text))])
        if stack and text
        else Values()
    )


def _checked(kind: StackComponentType, flavor: str, settings: dict[str, Any], where: str) -> dict[str, Any]:
    """Return settings as ZenML keeps them."""
    if flavor == "regrow-kubeflow":
        source_utils.load("infra.kubeflow.flavor.register_flavor")()
    config = Flavor.from_model(Client().get_flavor_by_name_and_type(flavor, kind)).config_class
    _keys_are_known(settings, set(config.model_fields), where)
    _secrets_are_references(settings, config, where)
    for key in ("pod_settings", "orchestrator_pod_settings"):
        if isinstance(pod := settings.get(key), dict):
            # ZenML takes any key there, and passes it over.
            from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings

            _keys_are_known(pod, set(KubernetesPodSettings.model_fields), f"{where}.{key}")
    try:
        kept: dict[str, Any] = config(**settings).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        said = "; ".join(
            ".".join([where, *map(str, one["loc"])]) + f": {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        )
        raise InputError(said) from None
    return kept


def _keys_are_known(settings: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(settings) - known):
        raise InputError(
            f"{where}.{unknown[0]}: ZenML has no such setting; it has {', '.join(sorted(known))}"
        )


def _secrets_are_references(settings: dict[str, Any], config: type[BaseModel], where: str) -> None:
    """Refuse a password in plain: ZenML would show it to all who may see the stack, whose label keeps the values."""
    plain = [
        key
        for key, value in settings.items()
        if value and is_secret_field(config.model_fields[key]) and not is_secret_reference(value)
    ]
    if plain:
        keys = " ".join(f"--{key}=@FILE" for key in plain)
        fields = ", ".join(f'{key}: "{{{{NAME.{key}}}}}"' for key in plain)
        raise InputError(
            f"{where}.{', '.join(plain)}: a secret in plain; put it into a ZenML secret (zenml secret create NAME "
            f"{keys}) and refer to that in the values ({fields})"
        )


def _at_its_server(client: Client, values: Values) -> None:
    here = client.zen_store.url
    if values.zenml and values.zenml.url.rstrip("/") != here.rstrip("/"):
        raise InputError(
            f"values: zenml.url {values.zenml.url}: this client speaks to {here}, an address that pods are given too; "
            f"connect first: zenml login {values.zenml.url}, or ZENML_STORE_URL and ZENML_STORE_API_KEY"
        )


def _names_are_free(parts: list[Wanted], present: StackResponse | None, name: str, owner: str) -> None:
    if present and OWNER not in (present.labels or {}) and not name.startswith("regrow-"):
        raise InputError(
            f"a stack {name} is registered already, and not by regrow; rename it: zenml stack rename {name} NEW"
        )
    for part in parts:
        there = component(part.kind, part.name)
        if there is None or part.name.startswith("regrow-"):
            continue
        kind = part.kind.value
        if OWNER not in (there.labels or {}):
            raise InputError(
                f"a {kind} {part.name} is registered already, and not by regrow; rename it: "
                f"zenml {kind.replace('_', '-')} rename {part.name} NEW"
            )
        if there.labels[OWNER] != owner:
            raise InputError(
                f"the {kind} {part.name} belongs to the stack {there.labels[OWNER]}; name another in the values"
            )


def _component(client: Client, stack: StackFile, part: Wanted) -> tuple[ComponentResponse, Done]:
    there = component(part.kind, part.name)
    if there is not None and there.flavor_name != part.flavor:
        raise InputError(
            f"the {part.kind.value} {part.name} has the flavor {there.flavor_name}, not {part.flavor}; delete it first"
        )
    if there is None:
        made = client.create_stack_component(
            part.name,
            flavor=part.flavor,
            component_type=part.kind,
            configuration=part.configuration,
            labels={OWNER: stack.name},
        )
        return made, "registered"
    if there.configuration == part.configuration:
        return there, "unchanged"
    gone = dict.fromkeys(set(there.configuration) - set(part.configuration))
    changed = client.update_stack_component(there.id, part.kind, configuration=gone | part.configuration)
    return changed, "updated"


def _stack(
    client: Client,
    stack: StackFile,
    name: str,
    values: Values,
    components: dict[StackComponentType, list[Any]],
    present: StackResponse | None,
) -> Done:
    labels = {OWNER: stack.name, _VALUES: as_text(values)}
    environment = stack.environment | values.environment
    named = [client.get_secret(one).id for one in values.secrets]
    if present is None:
        client.zen_store.create_stack(
            StackRequest(
                name=name, description=stack.description, components=components, labels=labels,
                environment=environment, secrets=named,
            )
        )  # fmt: skip
        return "registered"
    before = {kind: [one.id for one in ones] for kind, ones in present.components.items()}
    there = set(present.secrets)
    if (before, present.labels, present.environment or {}, there) == (
        components,
        labels,
        environment,
        set(named),
    ):
        return "unchanged"
    client.zen_store.update_stack(
        present.id,
        StackUpdate(
            description=stack.description, components=components, labels=labels, environment=environment,
            add_secrets=[one for one in named if one not in there],
            remove_secrets=[one for one in there if one not in named],
        ),
    )  # fmt: skip
    return "updated"
