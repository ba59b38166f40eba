"""The MLflow registry: a checkpoint becomes a registered version that `mlflow.transformers` loads.

The stored checkpoint is itself an MLflow model (`layout`) and the version points at it (`writing`), so that weights are
kept once and the digest of the folder inside the registry is the checkpoint's own. A killed call leaves the old
state or the new one (`journal`).
"""

from regrow.registry.diff import Change, Difference, Part, diff, paired
from regrow.registry.layout import write_around, write_mlflow_model
from regrow.registry.licences import LicenceChain, LicenceLink, licence_of, licences_of
from regrow.registry.names import (
    DATA_PREFIX,
    DIGEST_TAG,
    FACT_TAGS,
    LICENCE_TAG,
    LICENCES_TAG,
    METRIC_PREFIX,
    STAGES,
)
from regrow.registry.reconcile import Mismatch, mismatches
from regrow.registry.versions import Version, document_of, find, models, plan_of, scores_of, versions
from regrow.registry.writing import Registered, RegistrySpec, register

__all__ = [
    "DATA_PREFIX",
    "DIGEST_TAG",
    "FACT_TAGS",
    "LICENCES_TAG",
    "LICENCE_TAG",
    "METRIC_PREFIX",
    "STAGES",
    "Change",
    "Difference",
    "LicenceChain",
    "LicenceLink",
    "Mismatch",
    "Part",
    "Registered",
    "RegistrySpec",
    "Version",
    "diff",
    "document_of",
    "find",
    "licence_of",
    "licences_of",
    "mismatches",
    "models",
    "paired",
    "plan_of",
    "register",
    "scores_of",
    "versions",
    "write_around",
    "write_mlflow_model",
]
