"""Statements as OpenLineage events, for a catalogue that collects them (Marquez, DataHub, ...).

Nothing is sent unless `OPENLINEAGE_URL`, or another transport of the OpenLineage client, is configured. An event that
cannot be sent costs the picture in the catalogue, never the stage: the statement itself is beside the result. After
the first failure a process sends nothing more, so that a catalogue that is away is waited for once.
"""

import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import NAMESPACE_URL, uuid5

from regrow.lineage.statement import Resource, Statement

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient

_log = logging.getLogger(__name__)
NAMESPACE = os.environ.get("OPENLINEAGE_NAMESPACE", "regrow")
PRODUCER = "https://regrow.dev"
SECONDS = 3.0
# A server that does not answer will not a moment later; one that is busy may.
_RETRY = {"total": 1, "connect": 0, "read": 0}
# Whether this process has failed to send, and sends no more.
_failed = threading.Event()


def emit(statement: Statement) -> bool:
    """Send the start and the end of a stage, with what went in and what came out.

    A dataset's name is its kind and its digest, so that the output of one stage is the input of the next by name.

    Returns:
        Whether events were sent; false when no transport is configured, or when it failed, now or before in this
        process. The first failure is logged as a warning.
    """
    if not _configured() or _failed.is_set():
        return False
    try:
        client = _client()
        _send(client, statement)
        if not client.close(timeout=SECONDS):
            raise TimeoutError(f"no answer within {SECONDS:g} s")
    except ImportError as error:
        reason = f'{error}; pip install "regrow[pipeline]" or openlineage-python'
    except Exception as error:  # whatever a transport raises: HTTP errors, refused connections, Kafka's own
        reason = str(error)
    else:
        return True
    _failed.set()
    _log.warning(
        "OpenLineage: the event of stage %s was not sent (%s); this process sends no more",
        statement.stage,
        reason,
    )
    return False


def _client() -> "OpenLineageClient":
    """Return a client that loses little time with a server that is away, unless the settings say otherwise."""
    import attr
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.http import HttpTransport

    client = OpenLineageClient()
    if not isinstance(client.transport, HttpTransport):
        return client
    said = client.config.transport or {}
    if not said.get("type"):  # without one, the client takes the URL alone
        said = {}
    patience = {"timeout": SECONDS, "retry": client.transport.config.retry | _RETRY}
    more = {name: value for name, value in patience.items() if name not in said}
    return OpenLineageClient(transport=HttpTransport(attr.evolve(client.transport.config, **more)))


def _configured() -> bool:
    variables = (
        "OPENLINEAGE_URL",
        "OPENLINEAGE_CONFIG",
        "OPENLINEAGE__TRANSPORT__TYPE",
        "OPENLINEAGE__TRANSPORT",
    )
    return any(os.environ.get(name) for name in variables) or Path("openlineage.yml").exists()


def _send(client: "OpenLineageClient", statement: Statement) -> None:
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import dataset_version_dataset

    def named(resources: Iterable[Resource]) -> list[tuple[str, dict[str, object]]]:
        return [
            (
                f"{one.name}/{one.sha256}" if one.sha256 else one.uri or one.name,
                {
                    "version": dataset_version_dataset.DatasetVersionDatasetFacet(
                        datasetVersion=one.sha256 or one.uri or ""
                    )
                },
            )
            for one in resources
        ]

    run = Run(runId=str(uuid5(NAMESPACE_URL, statement.id)))
    job = Job(namespace=NAMESPACE, name=statement.stage)
    inputs = [InputDataset(namespace=NAMESPACE, name=n, facets=f) for n, f in named(statement.materials)]
    # The first subject is the result; the others are its files.
    outputs = [OutputDataset(namespace=NAMESPACE, name=n, facets=f) for n, f in named([statement.subject])]
    times = statement.predicate.run_details.metadata
    for state, time in ((RunState.START, times.started_on), (RunState.COMPLETE, times.finished_on)):
        client.emit(
            RunEvent(
                eventType=state,
                eventTime=time or "",
                run=run,
                job=job,
                producer=PRODUCER,
                inputs=inputs,
                outputs=outputs if state is RunState.COMPLETE else [],
            )
        )
