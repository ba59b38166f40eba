"""Promotion as two steps: the gates decide, and what they decided is carried out."""

from typing import Annotated

import mlflow
from zenml import log_metadata, step
from zenml.types import MarkdownString

from infra.stages import ZenStages
from regrow.promotion import Decision, Outcome, Policy, carry_out, decide
from regrow.promotion.record import Target


@step(experiment_tracker=True, enable_cache=False)
def decide_promotion(
    name: str, version: str | None, target: Target, policy: Policy
) -> tuple[Annotated[Decision, "decision"], Annotated[MarkdownString, "gates"]]:
    """Ask the gates (regrow.promotion); no version: a rollback."""
    decision = decide(mlflow.MlflowClient(), name, version, target, policy=policy, stages=ZenStages(name))
    log_metadata({"passed": decision.passed, "failed": [gate.name for gate in decision.failed]})
    return decision, MarkdownString(decision.table())


@step(experiment_tracker=True, enable_cache=False)
def promote(decision: Decision, reason: str | None) -> Annotated[Outcome, "promotion"]:
    """Move alias and stage, or refuse; the outcome is an artifact either way (regrow.promotion)."""
    stages = ZenStages(decision.name)
    outcome = carry_out(mlflow.MlflowClient(), decision, stages=stages, reason=reason)
    log_metadata({"status": outcome.status, "forced": outcome.forced, "record": outcome.record or 0})
    return outcome
