"""Promotion as a pipeline: the decision of the gates and the outcome are artifacts of ZenML."""

import mlflow
from zenml import Model, pipeline
from zenml.client import Client

import steps
from pipelines import launch
from regrow.promotion import Outcome, Policy
from regrow.promotion.facts import VersionFacts
from regrow.promotion.record import Target
from regrow.registry.names import ZENML_TAG


@pipeline(enable_cache=False)
def promote(name: str, version: str | None, target: Target, policy: Policy, reason: str | None) -> None:
    """Ask the gates, and do what they say."""
    decision, _ = steps.decide_promotion(name, version, target, policy)
    steps.promote(decision, reason)


def run_promote(
    name: str,
    version: str | None,
    target: Target,
    *,
    policy: Policy | None = None,
    reason: str | None = None,
    stack: str | None = None,
) -> Outcome:
    """Run the pipeline and return the outcome, which it keeps also where the gates refuse.

    Args:
        name: registered model.
        version: number of the MLflow version, or `@alias`; None for a rollback.
        target: the alias to give it.
        policy: the gates; the default ones if not given.
        reason: why gates that fail are passed over.
        stack: a registered ZenML stack; the local stack of this folder if not given.

    Raises:
        InputError: there is no such version or stack, or alias and record do not agree.
        PromotionConflictError: another promotion came first.
        RegrowError: something could not be moved, or the run failed.
    """
    root = launch.use_stack(stack)
    parameters = {
        "name": name, "version": version, "target": target, "policy": policy or Policy(), "reason": reason,
    }  # fmt: skip
    run = launch.run_to_end(promote, parameters, {}, _model(name, version), root)
    outputs = run.steps["promote"].outputs
    outcome: Outcome = outputs["promotion"][0].load()
    return outcome


def _model(name: str, version: str | None) -> Model | None:
    """Return the version in ZenML that the run belongs to; a rollback's is found out in the run itself."""
    if version is None:
        return None
    # What the steps will speak to: the stack's server with its user, not what this shell names.
    if (tracker := Client().active_stack.experiment_tracker) is not None:
        tracker.configure_mlflow()
    facts = VersionFacts.of(mlflow.MlflowClient(), name, version)
    return Model(name=name, version=facts.tags[ZENML_TAG]) if facts.zenml else None
