"""Where a result came from: statements about every stage, carried by what they are about.

A stage makes a statement (`attest`) about its result and embeds it into the result's folder, with those of
its materials (`embed`). Each statement names the statements of its materials, so the chain is bound by
digests from the result to the sources; `audit_folder` recomputes and checks it.
"""

from regrow.lineage.audit import audit_folder
from regrow.lineage.describe import (
    describe_checkpoint,
    describe_folder,
    describe_value,
    material,
)
from regrow.lineage.environment import lock_digest
from regrow.lineage.make import attest
from regrow.lineage.record import record
from regrow.lineage.result import AuditResult, Check, Failure, Findings, Link, Origin, Other
from regrow.lineage.signing import SigningSettings, Verifier
from regrow.lineage.statement import STAGES, Resource, Statement
from regrow.lineage.store import about, chain, embed
from regrow.lineage.values import scores_digest, state_importance, state_scores

__all__ = [
    "STAGES",
    "AuditResult",
    "Check",
    "Failure",
    "Findings",
    "Link",
    "Origin",
    "Other",
    "Resource",
    "SigningSettings",
    "Statement",
    "Verifier",
    "about",
    "attest",
    "audit_folder",
    "chain",
    "describe_checkpoint",
    "describe_folder",
    "describe_value",
    "embed",
    "lock_digest",
    "material",
    "record",
    "scores_digest",
    "state_importance",
    "state_scores",
]
