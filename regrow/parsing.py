"""Values from files and command lines become models, and what is wrong with them becomes one line."""

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from regrow.errors import InputError

T = TypeVar("T")


def parse(kind: type[T], value: Any, where: str) -> T:
    """Check `value` against a model, or against a union of some.

    Raises:
        InputError: in one line, every key that is unknown, missing or out of range.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        problems = [
            f"{_place(one['loc'])}: {_what(one['type'], one['msg'])}"
            for one in error.errors(include_url=False)
        ]
        raise InputError(f"{where}.{'; '.join(problems)}") from None


def _place(path: tuple[int | str, ...]) -> str:
    """Name a field as it stands in the file: without the alternatives of a recipe, which pydantic names too."""
    from regrow.tune.recipe import RECIPE_TAGS

    return ".".join(str(part) for part in path if part not in RECIPE_TAGS) or "value"


def _what(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    if kind == "missing":
        return "missing"
    return message.removeprefix("Value error, ").replace("\n", " ")
