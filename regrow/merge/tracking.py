"""Every candidate of a search as an MLflow run, below one run for the search."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.files import read_json, write_json

if TYPE_CHECKING:
    from regrow.merge.search import Candidate, Search

EXPERIMENT = "regrow-merge-search"


class MlflowRecord:
    """A search in MLflow, at $MLFLOW_TRACKING_URI; a search that is continued goes on in its run."""

    def __init__(self, folder: Path, name: str, facts: Mapping[str, Any]) -> None:
        """Open the run of a search.

        Args:
            folder: of the search; remembers the run.
            name: of the run.
            facts: what the search was asked, as parameters.
        """
        import mlflow
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        self._experiment = _experiment(self._client)
        server = mlflow.get_tracking_uri()
        file = folder / "mlflow.json"
        known = read_json(file) if file.exists() else {}
        self.run_id: str = known.get("run_id", "") if known.get("server") == server else ""
        if not self.run_id:
            run = self._client.create_run(
                self._experiment, tags={"regrow.stage": "merge-search"}, run_name=name
            )
            self.run_id = run.info.run_id
            for key, value in facts.items():
                self._client.log_param(self.run_id, key, _text(value))
            write_json(file, {"server": server, "run_id": self.run_id})

    def __call__(self, candidate: "Candidate") -> None:
        """Log a candidate: its parameters, its score, its score on each task."""
        tags = {"mlflow.parentRunId": self.run_id, "regrow.digest": candidate.scores.digest}
        run = self._client.create_run(self._experiment, tags=tags, run_name=f"candidate-{candidate.number}")
        child = run.info.run_id
        for key, value in candidate.spec.model_dump(mode="json", exclude_none=True).items():
            self._client.log_param(child, key, _text(value))
        self._client.log_metric(child, "value", candidate.value)
        for task, score in candidate.scores.scores.items():
            self._client.log_metric(child, f"score.{task}", score.value)
        if candidate.scores.perplexity is not None:
            self._client.log_metric(child, "perplexity", candidate.scores.perplexity)
        self._client.set_terminated(child)

    def finish(self, search: "Search") -> None:
        """Log the course of the search, and its best candidate."""
        best = float("-inf")
        for candidate in search.candidates:
            best = max(best, candidate.value)
            self._client.log_metric(self.run_id, "value", candidate.value, step=candidate.number)
            self._client.log_metric(self.run_id, "best", best, step=candidate.number)
        spec = search.best.spec.model_dump(mode="json", exclude_none=True)
        self._client.log_dict(self.run_id, spec, "best.yaml")
        self._client.log_dict(self.run_id, search.model_dump(mode="json"), "search.json")
        self._client.set_terminated(self.run_id)


def _experiment(client: Any) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id if found else client.create_experiment(EXPERIMENT))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
