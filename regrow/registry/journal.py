"""What a write to the registry is going to do, said before it does it, so that a killed one can be completed.

MLflow sets one tag, one alias, one description at a time. Before the first of them a version gets the tag
`regrow.pending` with all that is to come; it goes when everything is there. In between, a version reads as it
was before until the alias has arrived, and as it will be from then on: never half of each.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regrow.registry.server import aliases_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PENDING_TAG = "regrow.pending"


class Entry(BaseModel):
    """A write that has begun."""

    model_config = ConfigDict(frozen=True)

    alias: str = Field(description="alias that is to point at the version")
    was: str | None = Field(description="version that the alias pointed at before; null: at none")
    created: bool = Field(description="whether the version itself is part of the write")
    tags: dict[str, str] = Field(default_factory=dict, description="tags as they will be")
    before: dict[str, str | None] = Field(default_factory=dict, description="the same tags as they were")
    description: str | None = Field(None, description="description as it will be; null: stays")
    before_description: str = Field("", description="description as it was")

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> "Entry | None":
        """Return the write that a version's tags say has begun, if any."""
        try:
            return cls.model_validate_json(tags[PENDING_TAG]) if PENDING_TAG in tags else None
        except ValidationError:
            return None


def effective(
    tags: Mapping[str, str], description: str, version: str, aliases: Mapping[str, str]
) -> tuple[dict[str, str], str, bool]:
    """Return a version's tags and description as one state, and whether the version counts.

    Args:
        tags: as MLflow holds them.
        description: the same.
        version: the version's number.
        aliases: the registered model's aliases: version by name.

    Returns:
        Tags, description, and false for a version that a killed call has created but not finished.
    """
    shown = {key: value for key, value in tags.items() if key != PENDING_TAG}
    if PENDING_TAG not in tags:
        return shown, description, True
    entry = Entry.of(tags)
    if entry is None:
        return shown, description, False
    if str(aliases.get(entry.alias)) == version:
        return shown | entry.tags, description if entry.description is None else entry.description, True
    for key, value in entry.before.items():
        shown.pop(key, None)
        if value is not None:
            shown[key] = value
    if entry.description is not None:
        description = entry.before_description
    return shown, description, not entry.created


def finish(client: "MlflowClient", found: Any, entry: Entry, *, force: bool) -> str:
    """Do what is left of a write. Every part may have been done before.

    Args:
        client: of the registry.
        found: the MLflow version, as read after the write had begun.
        entry: the write.
        force: move the alias wherever it points now; otherwise only if it is where it was when the write began.

    Returns:
        What became of the alias, in words.
    """
    name, number = found.name, str(found.version)
    for key, value in entry.tags.items():
        if found.tags.get(key) != value:
            client.set_model_version_tag(name, number, key, value)
    if entry.description is not None and found.description != entry.description:
        client.update_model_version(name, number, entry.description)
    said = f"alias {entry.alias} points at it"
    now = aliases_of(client, name).get(entry.alias)
    if now != number:
        if force or now == entry.was:
            client.set_registered_model_alias(name, entry.alias, number)
        else:
            said = f"alias {entry.alias} was moved to version {now or 'none'} since, and stays there"
    client.delete_model_version_tag(name, number, PENDING_TAG)
    return said


def recover(client: "MlflowClient", name: str) -> list[str]:
    """Complete what earlier, killed calls have begun in a registered model.

    Returns:
        A sentence for each.
    """
    said = []
    for found in sorted(search(client, name), key=lambda one: int(one.version)):
        if PENDING_TAG not in found.tags:
            continue
        entry = Entry.of(found.tags)
        if entry is None:
            said.append(
                f"{name} version {found.version}: the tag {PENDING_TAG} cannot be read and was left; look at the "
                "version and delete the tag or the version"
            )
            continue
        done = finish(client, found, entry, force=False)
        what = "made" if entry.created else "updated"
        said.append(f"{name} version {found.version} was half {what} by an earlier call; completed: {done}")
    return said


def search(client: "MlflowClient", name: str) -> list[Any]:
    """Return all versions of a registered model."""
    found: list[Any] = []
    token = None
    quote = '"' if "'" in name else "'"
    while True:
        page = client.search_model_versions(f"name = {quote}{name}{quote}", page_token=token)
        found += page
        token = page.token
        if not token:
            return [one for one in found if one.name == name]
