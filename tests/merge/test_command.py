import json
from pathlib import Path

import pytest
import yaml

from regrow import cli
from regrow.checkpoint import Checkpoint
from regrow.merge import MergeSpec, merge
from tests.merge.models import data, family


@pytest.fixture
def models(tmp_path: Path):
    return family(tmp_path, 2)


def run(*arguments) -> int:
    try:
        return cli.main(["merge", *map(str, arguments)]) or 0
    except SystemExit as stop:
        return int(stop.code or 0)


def test_options_are_the_specs_fields(tmp_path: Path, models, capfd):
    parent, (a, b) = models
    arguments = ("--method", "dare_ties", "--weights", "0.3,0.7", "--density", "0.5,0.25", "--lambda", "0.9")
    more = ("--base", parent.folder, "--seed", "5", "--dtype", "bfloat16")
    assert run(a.folder, b.folder, *arguments, *more, "--out", tmp_path / "m", "--json") == 0
    said = json.loads(capfd.readouterr().out)
    spec = MergeSpec(
        method="dare_ties", weights=[0.3, 0.7], density=[0.5, 0.25], lambda_=0.9, seed=5, dtype="bfloat16"
    )
    direct = merge([a, b], spec, tmp_path / "direct", base=parent)
    assert said["digest"] == direct.checkpoint.digest
    assert MergeSpec.model_validate(said["spec"]) == spec


def test_a_settings_file_has_gradients_and_options_come_before_it(tmp_path: Path, models):
    _, (a, b) = models
    (tmp_path / "s.yaml").write_text("t: [0, 1]\npatterns: [{pattern: '*norm*', t: 1}]\ndtype: float16\n")
    assert (
        run(a.folder, b.folder, "--settings", tmp_path / "s.yaml", "--dtype", "auto", "--out", tmp_path / "m")
        == 0
    )
    spec = MergeSpec(t=[0, 1], patterns=[{"pattern": "*norm*", "t": 1}])
    assert Checkpoint.open(tmp_path / "m").digest == merge([a, b], spec, tmp_path / "d").checkpoint.digest


def test_a_mergekit_file_is_written_and_run(tmp_path: Path, models, capfd):
    parent, (a, b) = models
    file = tmp_path / "m.yml"
    ties = ("--method", "ties", "--density", "0.5", "--base", parent.folder)
    assert run(a.folder, b.folder, *ties, "--write-mergekit", file, "--out", tmp_path / "m") == 0
    written = yaml.safe_load(file.read_text())
    assert (written["merge_method"], written["out_dtype"]) == ("ties", "float32")
    assert run("--mergekit", file, "--out", tmp_path / "n") == 0
    assert data(Checkpoint.open(tmp_path / "n")) == data(Checkpoint.open(tmp_path / "m"))
    assert run(a.folder, "--mergekit", file, "--out", tmp_path / "o") == 2
    assert "MODEL beside --mergekit" in capfd.readouterr().err
    assert run("--mergekit", file, "--t", "0.3", "--out", tmp_path / "o") == 2
    assert "--t beside --mergekit" in capfd.readouterr().err


def test_slices_must_be_all_blocks(tmp_path: Path, models, capfd):
    _, (a, b) = models
    sources = [{"model": str(m.folder), "layer_range": [0, 4]} for m in (a, b)]
    given = {
        "merge_method": "slerp", "base_model": str(a.folder), "slices": [{"sources": sources}],
        "parameters": {"t": 0.5},
    }  # fmt: skip
    (tmp_path / "m.yml").write_text(yaml.safe_dump(given))
    assert run("--mergekit", tmp_path / "m.yml", "--out", tmp_path / "m") == 2
    assert "slices.layer_range: ends at 4, but the models have 6 blocks" in capfd.readouterr().err


def test_mistakes_are_said_before_models_are_read(tmp_path: Path, capfd):
    nowhere = (tmp_path / "a", tmp_path / "b")
    for arguments, message in (
        ((nowhere[0],), "name at least two models"),
        ((*nowhere, "--method", "ties"), "density: method ties needs it"),
        ((*nowhere, "--method", "ties", "--density", "0.5"), "name it with --base MODEL"),
        ((*nowhere, "--seed", "3"), "seed: method slerp does not have it"),
        ((*nowhere, "--settings", tmp_path / "none.yaml"), "no such file"),
    ):
        assert run(*arguments, "--out", tmp_path / "m") == 2
        assert message in capfd.readouterr().err
