import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from regrow.checkpoint import Checkpoint
from tests.local_hub import COMMIT, local_hub
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[2]

CLIENT = """
import json, sys
from pathlib import Path
from regrow.errors import InputError
from regrow.source import ModelSpec, read_rows, resolve_model
answers = []
for source in sys.argv[1:]:
    kind, _, source = source.partition(" ")
    try:
        if kind == "model":
            answers.append(resolve_model(ModelSpec(source=source), Path("out")).digest)
        else:
            answers.append(read_rows(source))
    except InputError as error:
        answers.append(f"InputError {error}")
print(json.dumps(answers))
"""
HUB_ENV = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
UNREACHABLE = [f"model hub:org/model@{COMMIT}", f"data hub:org/data@{COMMIT}"]


def client(folder: Path, *sources: str, **env: str) -> subprocess.Popen:
    environment = {**os.environ, **HUB_ENV, "HF_HOME": str(folder / "hf"), **env}
    command = [sys.executable, "-c", CLIENT, *sources]
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answers(process: subprocess.Popen) -> list:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture(scope="module", autouse=True)
def unreachable(tmp_path_factory):
    """Clients of a hub that does not answer: they retry for half a minute, so they start first."""
    running = []
    for source in UNREACHABLE:
        env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        running.append(client(tmp_path_factory.mktemp("unreachable"), source, **env))
    yield running
    for process in running:
        process.kill()


def test_hub_online_then_offline(tmp_path):
    model, data = tmp_path / "model", tmp_path / "data"
    tiny = tiny_checkpoint(model)
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    (model / "modeling_tiny.py").write_text("raise SystemExit")
    data.mkdir()
    (data / "train.jsonl").write_text('{"a": 1}\n')
    (data / "test.jsonl").write_text('{"a": 2}\n')
    other = "f" * 40
    sources = [
        f"model hub:org/model@{COMMIT}",
        f"data hub:org/data@{COMMIT}",
        f"data hub:org/data@{COMMIT}#default/test",
        f"model hub:org/model@{other}",
        f"model hub:org/none@{COMMIT}",
        f"model hub:org/gated@{COMMIT}",
        f"data hub:org/data@{other}",
        f"data hub:org/none@{COMMIT}",
        f"data hub:org/data@{COMMIT}#/nope",
        "data hub:org/data@v1",
    ]
    repositories = {"models/org/model": model, "models/org/gated": model, "datasets/org/data": data}
    with local_hub(repositories) as (address, requests):
        online = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        found = answers(client(tmp_path, *sources, **online))
        asked = len(requests)
        offline = online | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        again = answers(client(tmp_path, *sources, **offline))
        assert len(requests) == asked, "offline mode must not ask the hub"
    digest = Checkpoint.open(tmp_path / "out").digest
    assert found[:3] == again[:3] == [digest, [{"a": 1}], [{"a": 2}]]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tiny.folder / "model.safetensors"
    ).read_bytes()
    assert not (tmp_path / "out" / "model.safetensors").is_symlink()
    assert not [line for line in requests if ".bin" in line or "modeling_tiny" in line]
    for answer, message in zip(
        found[3:],
        ["no revision", "no such model", "gated", "doesn't exist", "doesn't exist", '"nope"', "full commit"],
        strict=True,
    ):
        assert answer.startswith("InputError hub:org/") and message in answer, answer
    for answer, message in zip(
        again[3:],
        [
            "out of reach",
            "out of reach",
            "out of reach",
            "another revision",
            "out of reach",
            '"nope"',
            "full commit",
        ],
        strict=True,
    ):
        assert answer.startswith("InputError hub:org/") and message in answer, answer


def test_hub_out_of_reach_says_how_to_go_on(unreachable):
    for process in unreachable:
        (answer,) = answers(process)
        assert answer.startswith("InputError hub:org/")
        for part in ("out of reach", "HF_HUB_OFFLINE=1", "HF_HOME", COMMIT, "local folder"):
            assert part in answer
