"""Versions that bring everything along: a chain with a data gate's verdict, stated scores, a registration."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regrow.checkpoint import Checkpoint
from regrow.evaluate.scores import Scores
from regrow.lineage import material, record
from regrow.lineage.values import scores_digest, state_scores
from regrow.quality import GateSpec, pages, pass_gate
from regrow.registry import RegistrySpec, register
from regrow.source import ModelSpec, resolve_model
from tests.promotion.world import NAME, right, scores
from tests.quality.rows import rows, saved
from tests.tiny import tiny_checkpoint

BASE = right(124)


@dataclass(frozen=True)
class Made:
    """Two models that were tuned on one set, their base, and what the gate said of the set."""

    base: Checkpoint
    tuned: tuple[Checkpoint, Checkpoint]
    data: str
    verdict: str


def make(folder: Path) -> Made:
    """Make them in a folder; training itself is left out."""
    tiny_checkpoint(folder / "source")
    base = resolve_model(ModelSpec(source=str(folder / "source"), license="Apache-2.0"), folder / "base")
    passage = pass_gate(
        saved(folder, rows({})), GateSpec(), "fruit", folder / "accepted", folder / "documents"
    )
    data = passage.accepted_or_stop()
    tuned = []
    for seed in (1, 2):
        one = tiny_checkpoint(folder / f"tuned-{seed}", seed=seed)
        record(
            "tune",
            one,
            [material(base, "checkpoint"), material(data.folder, "dataset", digest=data.digest)],
            parameters={"seed": seed},
            inherit=[base.folder, data.folder],
        )
        tuned.append(one)
    return Made(base, (tuned[0], tuned[1]), data.digest, pages(passage.result)["gate.json"])


class Attested:
    """The versions in MLflow, and what somebody could change about them."""

    def __init__(self, world: Any, made: Made) -> None:
        self.world, self.made, self.client = world, made, world.client

    def version(self, number: int, items: list[float]) -> str:
        """Evaluate and register one of the two models as the pipeline does."""
        model = self.made.tuned[number - 1]
        run = self.client.create_run(self.world.experiment).info.run_id
        own, base = self.measured(number, items), scores("base", self.made.base.digest, arc=BASE)
        for one, checkpoint in ((own, model), (base, self.made.base)):
            self.client.log_text(run, one.model_dump_json(), f"evaluate.{one.name}/scores.json")
            stated = self.world.folder / f"stated-{number}-{one.name}"
            stated.mkdir()
            state_scores(one, checkpoint, stated)
            self.client.log_artifacts(run, str(stated / "provenance"), "provenance")
        self.client.log_text(run, self.made.verdict, "validate_data.fruit/gate.json")
        done = register(
            model, RegistrySpec(name=NAME), run_id=run, metrics={}, documents={"scores": own},
            tags={
                "regrow.candidate": "merged", "regrow.base": self.made.base.digest, "regrow.data.fruit": self.made.data,
                "regrow.scores": scores_digest(own),
            },
        )  # fmt: skip
        return str(done.version)

    def measured(self, number: int, items: list[float]) -> Scores:
        """What one of the two models scored."""
        return scores("merged", self.made.tuned[number - 1].digest, arc=items)

    def run(self, version: str) -> str:
        return str(self.client.get_model_version(NAME, version).run_id)

    def tag(self, version: str, key: str, value: str) -> None:
        self.client.set_model_version_tag(NAME, version, key, value)

    def put(self, version: str, one: Scores) -> None:
        """Put other scores in place of those that were measured."""
        run, text = self.run(version), one.model_dump_json()
        self.client.log_text(run, text, f"evaluate.{one.name}/scores.json")
        if one.name == "merged":
            self.client.log_text(run, text, f"registered/{one.digest[:16]}/scores.json")

    def forget(self, version: str, stage: str) -> None:
        """Take a stage's statements out of the version's run."""
        folder = self.client.get_run(self.run(version)).info.artifact_uri.removeprefix("file://")
        if stage == "*":
            shutil.rmtree(Path(folder) / "provenance")
        for file in Path(folder).glob(f"provenance/{stage}-*"):
            file.unlink()
