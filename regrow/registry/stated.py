"""What has been stated about a version's registrations, and what the version keeps when it is registered again."""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.checkpoint import PROVENANCE
from regrow.errors import InputError
from regrow.registry.names import (
    DIGEST_TAG,
    LICENCES_TAG,
    METRIC_PREFIX,
    RUN_TAG,
    first_line,
    is_fact,
)
from regrow.registry.server import no_bars
from regrow.registry.statement import CARD_KEY, DOCUMENTS_KEY, version_digest

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from regrow.lineage import Statement

_log = logging.getLogger(__name__)


def registrations(client: "MlflowClient", found: Any, run: str) -> list["Statement"]:
    """Return the statements about a version's registrations, the latest last.

    Where this process signs, one without a signature does not count: a killed call may have left it so.

    Args:
        client: of the MLflow server.
        found: the MLflow version.
        run: MLflow run of the present registration; those of earlier ones are looked at as well.

    Raises:
        InputError: the signing key cannot be used.
    """
    from regrow.lineage import SigningSettings

    about = version_digest(found.name, str(found.version), found.tags[DIGEST_TAG])
    signs = SigningSettings.from_environment().signer() is not None
    told = {
        one.id: one
        for each in dict.fromkeys(filter(None, (found.run_id, found.tags.get(RUN_TAG), run)))
        for one in _registrations_in(client, each, signs)
        if one.subject.sha256 == about
    }
    return sorted(told.values(), key=lambda one: (one.finished, one.id))


def _registrations_in(client: "MlflowClient", run: str, signed: bool) -> Iterator["Statement"]:
    """Yield a run's statements about registrations; none where they cannot be had."""
    from regrow.lineage.store import read

    with tempfile.TemporaryDirectory(prefix="regrow-") as scratch, no_bars():
        try:
            there = {one.path for one in client.list_artifacts(run, PROVENANCE)}
            for path in sorted(there):
                is_signed = path.removesuffix(".json") + ".sig" in there
                if fnmatch(path, f"{PROVENANCE}/register-*.json") and (is_signed or not signed):
                    with suppress(InputError):  # an audit says what is wrong with it
                        yield read(Path(client.download_artifacts(run, path, scratch))).statement
        except Exception as error:  # the run was deleted, or whatever the artifact store's client raises
            _log.warning("MLflow run %s: its statements cannot be read (%s)", run, first_line(error))


def kept(tags: Mapping[str, str], told: Sequence["Statement"]) -> dict[str, str]:
    """Return what a version says of its making, and goes on saying where nothing else is given.

    A value that is not among those that were stated was written by somebody else: what was stated last counts, and a
    tag that nobody stated goes, but for versions of an earlier regrow, which stated facts alone.

    Args:
        tags: of the version.
        told: what was stated of it (`registrations`).
    """
    found = {}
    stated_whole = bool(told) and all(CARD_KEY in one.details for one in told)
    for key, value in tags.items():
        if is_fact(key) or key == LICENCES_TAG or key.startswith(METRIC_PREFIX):
            values = [str(one.details[key]) for one in told if key in one.details]
            if not values and stated_whole:
                _log.warning("the version said %s=%s, which was never stated; it is left out", key, value)
                continue
            found[key] = value if value in values or not values else values[-1]
            if found[key] != value:
                _log.warning(
                    "the version said %s=%s, which was never stated; it says %s again", key, value, found[key]
                )
    return found


def is_told(details: Mapping[str, Any], told: Sequence["Statement"]) -> bool:
    """Whether a registration says nothing that was not stated: all as in the last one, and its documents in any.

    Args:
        details: what it says (`details_of`).
        told: what was stated (`registrations`).
    """
    if not told:
        return False
    last = {key: value for key, value in told[-1].details.items() if key != DOCUMENTS_KEY}
    documents: dict[str, Any] = {}
    for one in told:
        documents |= one.details.get(DOCUMENTS_KEY) or {}
    return (
        last == {key: value for key, value in details.items() if key != DOCUMENTS_KEY}
        and details[DOCUMENTS_KEY].items() <= documents.items()
    )
