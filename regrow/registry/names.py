"""Names of tags, files and aliases that the registry's writers and readers share."""

import re
from collections.abc import Mapping
from typing import Any

DIGEST_TAG = "regrow.digest"
SCORES_TAG = "regrow.scores"
# What a version was made from, and how: one digest or identifier each.
FACT_TAGS = (
    DIGEST_TAG,
    "regrow.candidate",
    "regrow.base",
    "regrow.pruned",
    "regrow.plan",
    "regrow.config",
    "regrow.commit",
    "regrow.environment",
    SCORES_TAG,
    "regrow.attestation",
    "regrow.licence",
)
DATA_PREFIX = "regrow.data."
METRIC_PREFIX = "regrow.metric."
LICENCE_TAG = "regrow.licence"
LICENCES_TAG = "regrow.licences"
RUN_TAG = "regrow.run"
# Name of the version of the model in ZenML.
ZENML_TAG = "zenml.model_version"

# The folder of weights inside a stored MLflow model, and where one lies in an MLflow run.
CHECKPOINT = "checkpoint"
FILES = "models"
DOCUMENTS = "registered"

# Which stage of ZenML's Model Control Plane an alias stands for; every other alias stands for none.
STAGES = {"champion": "production", "staging": "staging"}


def is_fact(key: str) -> bool:
    """Whether a tag says what a version is, and so must be the same wherever the version is recorded."""
    return key in FACT_TAGS or key.startswith(DATA_PREFIX)


def is_stated(key: str) -> bool:
    """Whether the statement of a registration tells a tag: facts, licences, numbers, and the run that they are of."""
    return is_fact(key) or key in (LICENCES_TAG, RUN_TAG) or key.startswith(METRIC_PREFIX)


def alias_of(name: str) -> str:
    """The alias that names a candidate of a run; MLflow takes letters, digits, dashes and underscores."""
    return re.sub(r"[^\w-]", "-", name)


def place_of(folder: str, digest: str) -> str:
    """Where what belongs to a checkpoint lies in an MLflow run: `FILES` or `DOCUMENTS`, and the digest."""
    return f"{folder}/{digest[:16]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    text: Any = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def numbers_in(tags: Mapping[str, str]) -> dict[str, float]:
    """The numbers among a version's tags, by name."""
    found = {}
    for key, value in tags.items():
        if key.startswith(METRIC_PREFIX):
            try:
                found[key.removeprefix(METRIC_PREFIX)] = float(value)
            except ValueError:
                continue
    return found
