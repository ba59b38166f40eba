"""Reading the registry: which versions there are, what each says of itself, and what its run holds."""

import json
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regrow.errors import InputError
from regrow.registry.journal import effective, search
from regrow.registry.licences import LicenceChain
from regrow.registry.names import (
    CHECKPOINT,
    DATA_PREFIX,
    DIGEST_TAG,
    DOCUMENTS,
    LICENCES_TAG,
    RUN_TAG,
    SCORES_TAG,
    STAGES,
    first_line,
    numbers_in,
    place_of,
)
from regrow.registry.server import aliases_of, clear_errors, current, folders_of, no_bars, read_text

if TYPE_CHECKING:
    from regrow.evaluate.scores import Scores

_REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:/(?P<number>\d+)|@(?P<alias>[^/@]+))")


class Version(BaseModel):
    """A version of a registered model, as one state: see `regrow.registry.journal`."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="registered model")
    number: int = Field(description="version")
    aliases: tuple[str, ...] = Field(description="aliases that point at it")
    finished: bool = Field(description="false: a killed call has made it and not finished")
    created: datetime = Field(description="when it was made, UTC")
    source: str = Field(description="where its files lie")
    run_id: str | None = Field(description="MLflow run that it belongs to")
    tags: dict[str, str] = Field(description="facts")
    description: str = Field(description="model card")

    @property
    def label(self) -> str:
        """How it is named on the command line."""
        return f"{self.name}/{self.number}"

    @property
    def digest(self) -> str | None:
        """Digest of its checkpoint; none if regrow did not register it."""
        return self.tags.get(DIGEST_TAG)

    @property
    def metrics(self) -> dict[str, float]:
        """Its numbers."""
        return numbers_in(self.tags)

    @property
    def data(self) -> dict[str, str]:
        """Digest of each dataset, by name."""
        return {
            key.removeprefix(DATA_PREFIX): value
            for key, value in sorted(self.tags.items())
            if key.startswith(DATA_PREFIX)
        }

    @property
    def licences(self) -> LicenceChain:
        """Licences of base and data."""
        return LicenceChain.from_tag(self.tags.get(LICENCES_TAG))

    def facts(self) -> dict[str, str]:
        """What `regrow.registry.mismatches` compares with the version in ZenML."""
        stage = next((stage for alias, stage in STAGES.items() if alias in self.aliases), "none")
        return self.tags | {"mlflow_version": str(self.number), "stage": stage}


def models() -> list[str]:
    """Return the names of all registered models.

    Raises:
        InputError: the registry cannot be reached.
    """
    client = current()
    names: list[str] = []
    token = None
    with clear_errors():
        while True:
            page = client.search_registered_models(page_token=token)
            names += [one.name for one in page]
            token = page.token
            if not token:
                return sorted(names)


def versions(name: str) -> list[Version]:
    """Return all versions of a registered model, the newest first.

    Raises:
        InputError: there is no such model, or the registry cannot be reached.
    """
    client = current()
    with clear_errors():
        try:
            aliases = aliases_of(client, name)
        except InputError:
            raise InputError(_no_model(name)) from None
        found = [_version(one, aliases) for one in search(client, name)]
    return sorted(found, key=lambda one: -one.number)


def find(reference: str) -> Version:
    """Return the version that NAME/VERSION or NAME@alias names; `models:/` may stand before it.

    Raises:
        InputError: it names none, or the registry cannot be reached.
    """
    parts = _REFERENCE.fullmatch(reference)
    if not parts:
        raise InputError(f"{reference}: not a version; write NAME/VERSION or NAME@alias")
    there = versions(parts["name"])
    for one in there:
        if str(one.number) == parts["number"] or parts["alias"] in one.aliases:
            return one
    if parts["alias"]:
        known = sorted(alias for one in there for alias in one.aliases)
        raise InputError(f"{reference}: no such alias; {parts['name']} has {', '.join(known) or 'none'}")
    numbers = ", ".join(str(one.number) for one in reversed(there))
    raise InputError(f"{reference}: no such version; {parts['name']} has {numbers or 'none'}")


def scores_of(version: Version) -> "Scores | None":
    """Return the evaluation of a version, item by item, if a run of its holds it: the one it was registered with."""
    from regrow.evaluate.scores import Scores
    from regrow.lineage.values import scores_digest

    places = [
        _document(version, "scores"),
        "evaluate.{}/scores.json".format(version.tags.get("regrow.candidate")),
    ]
    other = None
    for run in runs_of(version):
        stages = [one for one in folders_of(current(), run) if one.startswith("evaluate.")]
        for place in dict.fromkeys([*places, *(f"{stage}/scores.json" for stage in stages)]):
            try:
                found = Scores.model_validate_json(_text(run, place) or "")
            except ValidationError:
                continue
            if found.digest == version.digest:
                # A model that was evaluated again has several.
                if version.tags.get(SCORES_TAG) in (None, scores_digest(found)):
                    return found
                other = other or found
    return other


def document_of(version: Version, name: str) -> Any:
    """Return a document that was registered with a version (`regrow.registry.register`), None if there is none.

    Raises:
        InputError: it is damaged.
    """
    for run in runs_of(version):
        if (text := _text(run, _document(version, name))) is not None:
            try:
                return json.loads(text)
            except ValueError as error:
                where = f"MLflow run {run}, {_document(version, name)}"
                raise InputError(f"{version.label}: {where}: not JSON any more ({error})") from None
    return None


def plan_of(version: Version) -> dict[str, Any] | None:
    """Return the pruning plan of a version, from the files of the model or from its run."""
    for place in (CHECKPOINT, "model"):
        if text := _load(f"{version.source.rstrip('/')}/{place}/plan.json"):
            return _mapping(text)
    if found := document_of(version, "plan"):
        return dict(found)
    for run in runs_of(version):
        if text := _text(run, "prune/plan.json"):
            return _mapping(text)
    return None


def params_of(version: Version) -> dict[str, str]:
    """Return the parameters that the version's run logged."""
    from mlflow.exceptions import MlflowException

    for run in runs_of(version):
        try:
            return dict(current().get_run(run).data.params)
        except MlflowException:
            continue
    return {}


def _version(found: Any, aliases: dict[str, str]) -> Version:
    number = str(found.version)
    tags, description, finished = effective(found.tags, found.description or "", number, aliases)
    return Version(
        name=found.name,
        number=int(number),
        aliases=tuple(sorted(alias for alias, to in aliases.items() if to == number)),
        finished=finished and found.status == "READY",
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, tz=UTC),
        source=found.source or "",
        run_id=found.run_id or None,
        tags=tags,
        description=description,
    )


def _no_model(name: str) -> str:
    import mlflow

    known = ", ".join(models()[:10])
    return f"{name}: no such registered model at {mlflow.get_tracking_uri()}; it has {known or 'none'}"


def runs_of(version: Version) -> list[str]:
    """Return the runs that may hold what belongs to a version: the one that wrote it last, then its own."""
    return list(dict.fromkeys(run for run in (version.tags.get(RUN_TAG), version.run_id) if run))


def _document(version: Version, name: str) -> str:
    return f"{place_of(DOCUMENTS, version.digest or '')}/{name}.json"


def _text(run: str, path: str) -> str | None:
    return read_text(current(), run, path)


def _load(uri: str) -> str | None:
    """A text at a URI; None if it cannot be had."""
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory(prefix="regrow-") as scratch, no_bars():
        try:
            return Path(download_artifacts(uri, dst_path=scratch)).read_text(encoding="utf-8")
        except Exception as error:  # what the store's own client raises is not known here
            _ = first_line(error)
            return None


def _mapping(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
