"""The promotion's own statement (`regrow.lineage`): beside those of the other stages in the version's MLflow run."""

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.checkpoint import PROVENANCE
from regrow.promotion.outcome import Decision
from regrow.promotion.record import Begun
from regrow.registry.names import first_line

if TYPE_CHECKING:
    from regrow.promotion.facts import VersionFacts

log = logging.getLogger(__name__)


def state(facts: "VersionFacts", decision: Decision, line: Begun) -> None:
    """State that a version was promoted, by which rules, and on the grounds of what.

    The record is what counts: a statement that cannot be kept is logged, and the promotion holds.
    """
    from regrow.lineage import Resource, describe_value, record

    checkpoint = Resource(
        name="checkpoint",
        digest={"sha256": facts.digest},
        annotations={"attestation": facts.tags["regrow.attestation"]}
        if "regrow.attestation" in facts.tags
        else {},
    )
    materials = [checkpoint]
    if scores := facts.tags.get("regrow.scores"):
        materials.append(describe_value("scores", scores))
    subject = describe_value(
        "promotion",
        line.hash,
        model=line.model,
        version=line.to.version,
        target=line.target,
        line=line.number,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="regrow-promote-") as scratch:
            record(
                "promote",
                (Path(scratch), [subject]),
                materials,
                parameters=decision.rules.model_dump(mode="json"),
                details={
                    "kind": line.kind,
                    "who": line.who,
                    "from": line.source.model_dump(mode="json") if line.source else None,
                    "gates": [gate.model_dump(mode="json") for gate in decision.gates],
                    "forced": line.forced,
                    "reason": line.reason,
                },
            )
            if facts.run_id is not None:
                facts.client.log_artifacts(facts.run_id, str(Path(scratch) / PROVENANCE), PROVENANCE)
    except Exception as error:  # whatever the artifact store's client raises
        log.warning(
            "%s: the statement of line %d is not kept: %s", line.model, line.number, first_line(error)
        )
