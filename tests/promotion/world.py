"""A registry in miniature: a real MLflow database, versions with files, scores, verdicts and licences."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from regrow.checkpoint import Checkpoint, digest_of
from regrow.evaluate.scores import Scores, TaskScore
from regrow.lineage.values import scores_digest
from regrow.promotion import Attestation, NonInferiority, Policy, Rules
from regrow.quality import GateResult
from regrow.registry import write_around
from regrow.registry.licences import LicenceChain
from tests.lineage.models import small_files

NAME = "grass"
# The gates but attestation, which has tests of its own.
UNATTESTED = Attestation(required=False)
POLICY = Policy(
    staging=Rules(attestation=UNATTESTED),
    champion=Rules(attestation=UNATTESTED, non_inferiority=NonInferiority(margin=0.05)),
)
# What crash points and races need no more than: a decision is made, and it says yes.
EASY = Policy(
    staging=Rules(attestation=UNATTESTED, data_gate="ignored", licences=None),
    champion=Rules(attestation=UNATTESTED, data_gate="ignored", licences=None),
)


def task_score(items: list[float]) -> TaskScore:
    mean = sum(items) / len(items)
    return TaskScore(
        metric="acc,none", value=mean, stderr=0.02, samples=len(items), items=tuple(items), questions="q"
    )


def right(count: int, of: int = 200) -> list[float]:
    """Items of which the first `count` are right."""
    return [1.0] * count + [0.0] * (of - count)


def scores(name: str, digest: str, **tasks: list[float]) -> Scores:
    return Scores(
        name=name,
        digest=digest,
        parameters=10,
        flops_per_token=10,
        perplexity=None,
        perplexity_tokens=0,
        scores={task: task_score(items) for task, items in tasks.items()},
        settings={"seed": 0},
        seconds=1.0,
    )


class World:
    """One registered model in a database of its own."""

    def __init__(self, folder: Path, template: Path) -> None:
        import mlflow

        self.folder = folder
        shutil.copyfile(template, folder / "mlflow.db")
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.client = mlflow.MlflowClient(self.uri)
        self.client.create_registered_model(NAME)
        self.experiment = self.client.create_experiment("runs", artifact_location=str(folder / "artifacts"))

    def copied(self, folder: Path) -> "World":
        """Return the same state of affairs in a database of its own; files and artifacts are shared."""
        import mlflow

        other = World.__new__(World)
        other.__dict__.update(self.__dict__)
        shutil.copyfile(self.folder / "mlflow.db", folder / "mlflow.db")
        other.folder, other.uri = folder, f"sqlite:///{folder}/mlflow.db"
        other.client = mlflow.MlflowClient(other.uri)
        return other

    def files(self, seed: int) -> tuple[Path, str]:
        """Write a stored checkpoint; return it with its digest."""
        folder = self.folder / "stored" / str(seed)
        inside = folder / "checkpoint"
        small_files(inside)
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": 1,
            "seed": seed,
        }
        (inside / "config.json").write_text(json.dumps(config))
        save_file({"weight": np.full((4, 4), seed, dtype=np.float32)}, inside / "model.safetensors")
        write_around(Checkpoint.open(inside), folder)
        return folder, digest_of(inside)

    def version(
        self,
        seed: int,
        *,
        tasks: dict[str, list[float]] | None = None,
        base: dict[str, list[float]] | None = None,
        gates: dict[str, bool] | None = None,
        licence: str | None = "Apache-2.0",
        tags: dict[str, str] | None = None,
    ) -> str:
        """Register a version; return its number."""
        source, digest = self.files(seed)
        run = self.client.create_run(self.experiment).info.run_id
        tags = {"regrow.digest": digest, "regrow.base": "b" * 64, "regrow.candidate": "merged"} | (tags or {})
        tasks = {"arc": right(120)} if tasks is None else tasks
        base = {"arc": right(124)} if base is None else base
        for one in (scores("base", "b" * 64, **base), scores("merged", digest, **tasks)):
            if one.scores:
                if one.name == "merged":
                    tags["regrow.scores"] = scores_digest(one)
                self.client.log_text(run, one.model_dump_json(), f"evaluate.{one.name}/scores.json")
        for dataset, passed in ({"sums": True} if gates is None else gates).items():
            verdict = GateResult(passed=passed, dataset=dataset, digest="d" * 64, records=40, expectations=[])
            self.client.log_text(run, verdict.model_dump_json(), f"validate_data.{dataset}/gate.json")
            tags[f"regrow.data.{dataset}"] = "d" * 64
        licences = LicenceChain.of(licence, {"sums": "MIT"})
        tags |= {"regrow.licence": licences.strictest, "regrow.licences": licences.to_tag()}
        made = self.client.create_model_version(NAME, str(source), run_id=run, tags=tags)
        return str(made.version)

    def simple(self, seed: int, **tags: str) -> str:
        """Register a version with files and no more."""
        source, digest = self.files(seed)
        run = self.client.create_run(self.experiment).info.run_id
        made = self.client.create_model_version(
            NAME, str(source), run_id=run, tags={"regrow.digest": digest} | tags
        )
        return str(made.version)

    def alias(self, alias: str) -> str | None:
        found = self.client.get_registered_model(NAME).aliases.get(alias)
        return None if found is None else str(found)


class FileStages:
    """Stages of versions in a file, by ZenML's rules: a version has one, and who holds it makes room."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _read(self) -> dict[str, str]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def stage(self, version: str) -> str:
        return self._read().get(version, "none")

    def holder(self, stage: str) -> str | None:
        return next((version for version, one in self._read().items() if one == stage), None)

    def move(self, version: str, stage: str) -> None:
        now = {
            key: "archived" if one == stage and stage != "none" else one for key, one in self._read().items()
        }
        self.path.write_text(json.dumps(now | {version: stage}))
