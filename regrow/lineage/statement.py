"""An in-toto statement: what was made, from what, by which build.

The format is in-toto Statement v1 with SLSA's provenance v1 as its predicate. A statement's file holds its
canonical JSON and nothing else, so the SHA-256 of the file is the statement's id, and `sha256sum` can check it.
"""

import json
import re
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from regrow.errors import InputError

STATEMENT_TYPE: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Literal["https://slsa.dev/provenance/v1"] = "https://slsa.dev/provenance/v1"
BUILDER = "https://regrow.dev/builder/v1"
STAGES = (
    "load_model",
    "importance",
    "prune",
    "distill",
    "validate",
    "mix",
    "tune",
    "fuse",
    "merge",
    "evaluate",
    "shift",
    "drift",
    "speed",
    "register",
    "promote",
)
_BUILD_TYPE = re.compile(r"https://regrow\.dev/stage/([a-z][a-z0-9_]*)/v1")
# Kinds of result that are folders and carry their own statements.
FOLDER_KINDS = ("checkpoint", "dataset")
# SLSA asks for it, even when empty.
_MUST_BE_THERE = ("externalParameters", "digest")


class _Part(BaseModel):
    """A part of a statement: absent fields stay absent, unknown ones are kept, so that reading loses nothing."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value
            for name, value in serialize(self).items()
            if value is not None and (value != {} or name in _MUST_BE_THERE)
        }


class Resource(_Part):
    """A thing that has a digest: in-toto's ResourceDescriptor."""

    name: str = Field(min_length=1, description="kind of the result, or the path of a file in it")
    digest: dict[str, str] = Field(description="hexadecimal digest by algorithm, such as sha256")
    uri: str | None = Field(None, description="where it came from, such as hub:org/name@revision")
    annotations: dict[str, Any] = Field(default_factory=dict, description="size, tensors, attestation, ...")

    @property
    def sha256(self) -> str | None:
        """The SHA-256, if that is how it is named."""
        return self.digest.get("sha256")

    @property
    def attestation(self) -> str | None:
        """Id of the statement about this resource, where it is known."""
        found = self.annotations.get("attestation")
        return found if isinstance(found, str) else None


class BuildDefinition(_Part):
    """What was asked for."""

    build_type: str = Field(alias="buildType", pattern=_BUILD_TYPE.pattern)
    external_parameters: dict[str, Any] = Field(
        default_factory=dict, alias="externalParameters", description="the specification"
    )
    internal_parameters: dict[str, Any] = Field(
        default_factory=dict, alias="internalParameters", description="seeds, engine, counts"
    )
    resolved_dependencies: list[Resource] = Field(
        default_factory=list, alias="resolvedDependencies", description="the materials"
    )


class Builder(_Part):
    """What built it."""

    id: str
    version: dict[str, str] = Field(default_factory=dict)
    builder_dependencies: list[Resource] = Field(default_factory=list, alias="builderDependencies")


class Metadata(_Part):
    """When, and which run."""

    invocation_id: str | None = Field(None, alias="invocationId")
    started_on: str | None = Field(None, alias="startedOn", description="RFC 3339, UTC")
    finished_on: str | None = Field(None, alias="finishedOn", description="RFC 3339, UTC")


class RunDetails(_Part):
    """The run that built it."""

    builder: Builder
    metadata: Metadata = Field(default_factory=Metadata)


class Predicate(_Part):
    """SLSA provenance v1."""

    build_definition: BuildDefinition = Field(alias="buildDefinition")
    run_details: RunDetails = Field(alias="runDetails")


class Statement(_Part):
    """An in-toto Statement v1 about the result of one stage."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(STATEMENT_TYPE, alias="_type")
    subjects: list[Resource] = Field(alias="subject", min_length=1, description="the result; then its files")
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = Field(PREDICATE_TYPE, alias="predicateType")
    predicate: Predicate

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a statement.

        Raises:
            InputError: not a statement, or not in its canonical form, so that its id would be in doubt.
        """
        data = text.encode() if isinstance(text, str) else text
        try:
            statement = cls.model_validate(json.loads(data))
            same = statement.to_json().encode() == data
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise InputError(f"not a statement ({place}: {first['msg']})") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON ({error})") from None
        if not same:
            raise InputError("not in canonical form (sorted keys, no spaces, no key twice)")
        return statement

    def to_json(self) -> str:
        """The canonical JSON: sorted keys, no spaces, UTF-8, no newline at the end."""
        return canonical(self.model_dump(mode="json", by_alias=True))

    @cached_property
    def id(self) -> str:
        """SHA-256 of the canonical JSON, which is that of the statement's file."""
        return sha256(self.to_json().encode()).hexdigest()

    @property
    def stage(self) -> str:
        """Name of the stage, such as prune."""
        found = _BUILD_TYPE.fullmatch(self.predicate.build_definition.build_type)
        assert found is not None
        return found[1]

    @property
    def subject(self) -> Resource:
        """The result itself."""
        return self.subjects[0]

    @property
    def files(self) -> dict[str, Resource]:
        """The files of a result that is a folder, by relative path."""
        return {one.name: one for one in self.subjects[1:]}

    @property
    def materials(self) -> list[Resource]:
        """What it was made from."""
        return self.predicate.build_definition.resolved_dependencies

    @property
    def parameters(self) -> dict[str, Any]:
        """The specification that was carried out."""
        return self.predicate.build_definition.external_parameters

    @property
    def details(self) -> dict[str, Any]:
        """Seeds, engine, counts."""
        return self.predicate.build_definition.internal_parameters

    @property
    def finished(self) -> str:
        """When it was made, RFC 3339; empty where not said."""
        return self.predicate.run_details.metadata.finished_on or ""

    @property
    def file_name(self) -> str:
        """Name of its file in `provenance/`."""
        return f"{self.stage}-{self.id[:16]}.json"


def canonical(value: Any) -> str:
    """Write a JSON value in the form that digests are taken of.

    Raises:
        InputError: a number that JSON does not have (NaN, infinity), or no JSON value.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"statement: a value that JSON cannot hold ({error})") from None
