"""A checkout of the project in a folder of its own, run as a user runs it: by the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[2]
PARTS = ("regrow", "steps", "pipelines", "materializers", "infra", "configs", "pyproject.toml", ".zen")


class Project:
    """A copy of the checkout with its own HOME: nothing of the user's ZenML or MLflow is touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(
                    ROOT / part,
                    self.folder / part,
                    ignore=shutil.ignore_patterns("__pycache__", "config.yaml"),
                )
            else:
                self.folder.mkdir(exist_ok=True)
                shutil.copyfile(ROOT / part, self.folder / part)

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ZENML", "MLFLOW"))}
        return kept | {
            "HOME": str(self.home),
            # Downloaded wheels are shared with the user's cache: they are pinned by digest.
            "REGROW_CACHE": os.environ.get("REGROW_CACHE", str(Path.home() / ".cache" / "regrow")),
            "PYTHONPATH": str(self.folder),
            "ZENML_ANALYTICS_OPT_IN": "false",
            "GX_ANALYTICS_ENABLED": "False",
            "ZENML_LOGGING_COLORS_DISABLED": "true",
            "OMP_WAIT_POLICY": "passive",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "regrow.cli", *arguments]

    def regrow(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def regrow_until(self, sign: str, *arguments: str, seconds: float = 600) -> str:
        """Start the command and kill its process group (SIGKILL) when its log shows `sign`."""
        log = self.folder / "killed.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while sign not in log.read_text() and time.monotonic() < deadline:
            assert process.poll() is None, f"ended before {sign!r}:\n{log.read_text()[-3000:]}"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert sign in log.read_text(), log.read_text()[-3000:]
        return log.read_text()

    def python(self, code: str) -> str:
        # A file, not `-c`: ZenML finds the source root by the main module's.
        script = self.folder / "snippet.py"
        script.write_text(code)
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write_config(self, config: dict[str, Any], name: str = "test.yaml") -> str:
        (self.folder / name).write_text(yaml.safe_dump(config, sort_keys=False))
        return name

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / "runs/latest/summary.json").read_text())
        return summary


def tiny_config(project: Project) -> dict[str, Any]:
    """Write a tiny model and two small sets into the project; return a configuration that uses them."""
    data = project.folder / "data"
    data.mkdir()
    tiny_checkpoint(data / "model")
    for name, topic in (("plants", "grass"), ("water", "rain")):
        rows = [
            {
                "q": f"Question {i}: what does {topic} number {i} do?",
                "a": f"The {topic} number {i} comes back after {i} days.",
            }
            for i in range(12)
        ]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [
        {"text": f"A field of {word} lies under the evening sky, and {word} grows." * 3} for word in WORDS
    ]
    (data / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    questions = [
        {
            "id": str(i),
            "question": f"Which of these is a {word}?",
            "choices": {"text": [word, "stone", "cloud", "lamp"], "label": ["A", "B", "C", "D"]},
            "answerKey": "A",
        }
        for i, word in enumerate(WORDS)
    ]
    (data / "arc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    columns = {"instruction": "q", "reference": "a"}
    sets = [
        {"name": name, "source": f"data/{name}.jsonl", "adapter": "columns", "columns": columns}
        for name in ("plants", "water")
    ]
    tune = {"max_steps": 4, "batch_size": 4, "max_length": 256, "save_every": 1}
    sets[1]["tune"] = tune | {"method": "distill"}  # the teacher is the run's unpruned model
    text = {"source": "data/texts.jsonl", "column": "text"}
    return {
        "parameters": {
            "model": {"source": "data/model"},
            "calibration": {"name": "texts", **text},
            "importance": {"max_tokens": 64},
            "prune": {"blocks": 2},
            "datasets": sets,
            "self_data": {"max_new_tokens": 12, "shard_size": 4},
            "gate": {"min_acceptance_rate": 0.0, "min_records": 4},
            "shift": {"encoder": None},  # the default one is 83 MB; tests/selfdata/test_shift.py runs it
            "tune": tune,
            "evaluation": {
                "tasks": [{"name": "arc_easy", "source": "data/arc.jsonl"}],
                "perplexity": {"name": "texts", **text},
                "window": 64,
            },
            "registry": {"name": "tiny-regrow"},
        }
    }


WORDS = ["clover", "barley", "heather", "thistle", "willow", "moss", "fern", "reed"]
