"""What a site adds to a stack file: addresses, pools, images. Never a secret."""

import json
from typing import Any

from pydantic import Field, field_validator

from infra.stacks.merging import merge
from infra.stacks.schema import KINDS, Component, Image, StackFile, Strict
from regrow.errors import InputError
from regrow.parsing import parse

# A component's flavor and settings.
Settled = tuple[str, dict[str, Any]]


class Server(Strict):
    """Where ZenML's server is."""

    url: str = Field(description="http(s)://host[:port]")


Given = dict[str, Any]
_NOTHING: Any = Field({}, description="settings of the component, in ZenML's words")


class Values(Strict):
    """A values file: settings of components, and what pods get."""

    orchestrator: Given = _NOTHING
    artifact_store: Given = _NOTHING
    container_registry: Given = _NOTHING
    image_builder: Given = _NOTHING
    experiment_tracker: Given = _NOTHING
    model_registry: Given = _NOTHING
    step_operators: dict[str, dict[str, Any]] = Field({}, description="by name: one for each GPU pool")
    stages: dict[str, dict[str, Any]] = Field(
        {}, description="laid over the file's stages; `every` over all of them, then those named"
    )
    waiting: dict[str, Any] = Field({}, description="laid over the file's `waiting`")
    images: dict[Image, str] = Field({}, description="image references, such as host/regrow-tune@sha256:...")
    zenml: Server | None = Field(None, description="the ZenML server that the stack is registered with")
    environment: dict[str, str] = Field({}, description="variables of every step; no secrets")
    secrets: list[str] = Field(
        [], description="ZenML secrets whose keys become variables of every step (HF_TOKEN)"
    )

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if any(word in name.upper() for word in ("SECRET", "PASSWORD", "TOKEN", "PRIVATE", "ACCESS_KEY")):
                raise ValueError(
                    f"{name} looks like a secret; put it into a ZenML secret and name that in `secrets`"
                )
        return value

    def of(self, kind: str) -> dict[str, Any]:
        """Return the settings of the one component of a kind."""
        given: dict[str, Any] = getattr(self, kind)
        return given


def combine(given: list[tuple[str, dict[str, Any]]]) -> Values:
    """Check the content of values files, and lay later ones over earlier ones.

    Args:
        given: name and content of each file.

    Raises:
        InputError: a key is unknown or its value of another kind; file and key are named.
    """
    whole: dict[str, Any] = {}
    for name, content in given:
        parse(Values, content, name)
        whole = merge(whole, content)
    return parse(Values, whole, ", ".join(name for name, _ in given))


def settled(stack: StackFile, values: Values) -> dict[tuple[str, str], Settled]:
    """Lay values over a stack file.

    Returns:
        Flavor and settings by kind and name; the name is empty where a stack has only one of the kind.

    Raises:
        InputError: values are missing, or are for a component that the stack has not.
    """
    found: dict[tuple[str, str], Settled] = {}
    missing: list[str] = []

    def settle(component: Component, given: dict[str, Any], kind: str, name: str, where: str) -> None:
        settings = merge(component.settings, given)
        missing.extend(
            f"{where}.{key} ({what})"
            for key, what in component.needs.items()
            if not any(settings.get(one) for one in key.split(" or "))
        )
        found[kind, name] = component.flavor, settings

    for kind in KINDS:
        component = getattr(stack.components, kind)
        if component is None:
            if values.of(kind):
                raise InputError(f"values: {kind}: the stack {stack.name} has none")
            continue
        settle(component, values.of(kind), kind, "", kind)
    operators = stack.components.step_operators
    if values.step_operators and not operators:
        raise InputError(f"values: step_operators: the stack {stack.name} has none")
    # A pool that the file does not know is as its first one, except for what the values say.
    for name in values.step_operators or operators:
        component = operators.get(name) or next(iter(operators.values()))
        settle(
            component, values.step_operators.get(name, {}), "step_operator", name, f"step_operators.{name}"
        )
    if missing:
        raise InputError(
            f"the stack {stack.name} needs a values file with {'; '.join(missing)}; see docs/stacks.md"
        )
    for function, stage in sized(stack, values).stages.items():
        if stage.step_operator and ("step_operator", stage.step_operator) not in found:
            named = ", ".join(values.step_operators)
            raise InputError(
                f"infra/stacks/{stack.name}.yaml: stages.{function}.step_operator {stage.step_operator}: the values "
                f"name only {named}; add step_operators.{stage.step_operator} there"
            )
    return found


def sized(stack: StackFile, values: Values) -> StackFile:
    """Return a stack file with the stages as the values have them.

    Raises:
        InputError: a stage or a key in one is unknown, or out of range.
    """
    if not (values.stages or values.waiting):
        return stack
    whole = stack.model_dump(mode="json", exclude_unset=True)
    whole["waiting"] = merge(whole.get("waiting", {}), values.waiting)
    below = whole.get("stages", {})
    every = values.stages.get("every", {})
    named = {name: given for name, given in values.stages.items() if name != "every"}
    start = below.get("default", {})
    whole["stages"] = {
        name: merge(merge(below.get(name, start), every), named.get(name, {}))
        for name in {"default", *below, *named}
    }
    return parse(StackFile, whole, "values")


def as_text(values: Values) -> str:
    """Return values as canonical JSON, to be kept with the stack."""
    return json.dumps(values.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
