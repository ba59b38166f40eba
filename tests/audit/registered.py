"""A model made by the real stages, evaluated, stated and registered in an MLflow database of its own."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrow.audit import resolve
from regrow.checkpoint import Checkpoint
from regrow.evaluate.scores import Scores, TaskScore
from regrow.files import canonical_digest
from regrow.lineage import AuditResult, Verifier, audit_folder, chain
from regrow.lineage.values import scores_digest, state_scores
from regrow.registry import Registered, RegistrySpec, register

CONFIG = {"prune": {"blocks": 1}, "merge": {"method": "linear"}}


@dataclass
class World:
    """What a test has: the client, the model and its version."""

    client: Any
    model: Checkpoint
    registered: Registered
    scores: Scores

    @property
    def reference(self) -> str:
        return f"models:/{self.registered.name}/{self.registered.version}"

    def tag(self, key: str, value: str) -> None:
        self.client.set_model_version_tag(self.registered.name, self.registered.version, key, value)

    def untag(self, key: str) -> None:
        self.client.delete_model_version_tag(self.registered.name, self.registered.version, key)

    def artifact(self, path: str) -> Path:
        """The file behind an artifact of the version's run, to be tampered with."""
        root = self.client.get_run(self.registered.run_id).info.artifact_uri
        return Path(root.removeprefix("file://")) / path

    @property
    def documents(self) -> Path:
        return self.artifact(f"registered/{self.model.digest[:16]}")


def audit(
    target: str, verifier: Verifier | None = None, zenml: Callable[..., Any] | None = None
) -> AuditResult:
    """What `regrow audit` finds."""
    with resolve(target, zenml=zenml, verifier=verifier) as found:
        return audit_folder(
            found.folder, verifier=verifier, around=found.around, others=found.others, target=found.name
        )


def evaluation(model: Checkpoint, *items: float) -> Scores:
    """What a model scored."""
    value = sum(items) / len(items)
    task = TaskScore(metric="acc,none", value=value, stderr=0.25, samples=len(items), items=items)
    return Scores(
        name="merged", digest=model.digest, parameters=model.parameters, flops_per_token=1, perplexity=20.0,
        perplexity_tokens=100, settings={"batch_size": 4}, seconds=1.0, scores={"arc_easy": task},
    )  # fmt: skip


def run_with(client: Any, model: Checkpoint, scores: Scores, folder: Path) -> str:
    """Make a run that holds an evaluation as the pipeline keeps it."""
    experiment = client.get_experiment_by_name("audited")
    run = client.create_run(
        experiment.experiment_id if experiment else client.create_experiment("audited")
    ).info.run_id
    client.log_metric(run, "evaluate.merged.arc_easy.acc_none", scores.scores["arc_easy"].value)
    client.log_text(run, scores.model_dump_json(), "evaluate.merged/scores.json")
    folder.mkdir()
    state_scores(scores, model, folder)
    client.log_artifacts(run, str(folder / "provenance"), "provenance")
    return str(run)


def make(folder: Path, made: Path, database: Path) -> World:
    """Register a copy of the model in `made`, in a copy of the empty database."""
    import mlflow

    shutil.copyfile(database, folder / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    shutil.copytree(made, folder / "merged")
    model = Checkpoint.open(folder / "merged")
    scores = evaluation(model, 1, 0, 1, 0)
    stages = {one.stage: one for one in chain(model.folder)}
    plan = next(one for one in stages["prune"].materials if one.name == "plan")
    client = mlflow.MlflowClient()
    run = run_with(client, model, scores, folder / "stated")
    done = register(
        model, RegistrySpec(name="tiny"), run_id=run, metrics={"recovery": 0.9},
        tags={
            "regrow.candidate": "merged",
            "regrow.base": str(stages["load_model"].subject.sha256),
            "regrow.pruned": str(stages["prune"].subject.sha256),
            "regrow.plan": str(plan.sha256),
            "regrow.config": canonical_digest(CONFIG),
            "regrow.scores": scores_digest(scores),
        },
        documents={"config": CONFIG, "scores": scores},
    )  # fmt: skip
    return World(client, model, done, scores)
