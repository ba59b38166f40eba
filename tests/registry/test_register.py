import json
from pathlib import Path

import pytest

from regrow.checkpoint import Checkpoint, digest_of
from regrow.errors import InputError
from regrow.registry import LicenceChain, RegistrySpec, find, register, versions
from tests.registry.stored import store, weights_below
from tests.tiny import tiny_checkpoint

SPEC = RegistrySpec(name="tiny-regrown")


def test_a_registered_version_loads_by_alias_generates_and_keeps_its_digest(server, tiny, tmp_path):
    import mlflow

    done = register(tiny, SPEC, tags={"regrow.base": "abc"}, metrics={"recovery": 0.9})
    pipeline = mlflow.transformers.load_model(done.uri)
    assert isinstance(pipeline("Grass", max_new_tokens=4)[0]["generated_text"], str)
    version = server.get_model_version_by_alias("tiny-regrown", "challenger")
    assert version.version == int(done.version) or str(version.version) == done.version
    assert version.tags["regrow.digest"] == tiny.digest
    assert version.tags["regrow.base"] == "abc"
    assert server.get_run(done.run_id).data.metrics["recovery"] == 0.9
    assert server.get_run(done.run_id).info.status == "FINISHED"
    fetched = Path(mlflow.artifacts.download_artifacts(done.uri, dst_path=str(tmp_path / "back")))
    assert digest_of(fetched / "checkpoint") == tiny.digest
    assert Checkpoint.open(fetched / "checkpoint").parameters == tiny.parameters


def test_the_registration_is_stated_beside_the_version_once(server, tiny, tmp_path):
    from regrow.lineage import chain

    done = register(tiny, SPEC, tags={"regrow.base": "abc"}, metrics={})
    register(tiny, SPEC, tags={"regrow.base": "abc"}, metrics={})
    server.download_artifacts(done.run_id, "provenance", str(tmp_path))
    (statement,) = chain(tmp_path)
    assert statement.stage == "register"
    assert statement.subject.annotations == {"model": "tiny-regrown", "number": done.version}
    assert statement.materials[0].sha256 == tiny.digest == statement.details["regrow.digest"]
    assert statement.details["regrow.base"] == "abc"


def test_a_version_points_at_the_stored_checkpoint_and_no_weights_are_copied(server, tiny, tmp_path):
    import mlflow

    folder = store(tiny, tmp_path / "store" / "one")
    before = weights_below(tmp_path)
    done = register(tiny, SPEC, tags={}, metrics={}, stored=str(folder))
    assert weights_below(tmp_path) == before and len(before) == 1
    version = server.get_model_version_by_alias("tiny-regrown", "challenger")
    assert version.source == done.source == str(folder)
    assert server.get_run(done.run_id).info.run_id == version.run_id
    answers = mlflow.pyfunc.load_model(done.uri).predict(["Grass"], params={"max_new_tokens": 2})
    assert answers[0].startswith("Grass")
    assert mlflow.transformers.load_model(done.uri).model.num_parameters() == tiny.parameters
    assert digest_of(folder / "checkpoint") == tiny.digest  # MLflow's loading leaves it as it is


def test_a_file_uri_is_a_local_path(server, tiny, tmp_path):
    folder = store(tiny, tmp_path / "a folder")
    assert register(tiny, SPEC, tags={}, metrics={}, stored=folder.as_uri()).source == str(folder)


def test_a_folder_with_another_checkpoint_is_refused(server, two_models, tmp_path):
    folder = store(two_models[1], tmp_path / "other")
    with pytest.raises(InputError, match="holds the checkpoint"):
        register(two_models[0], SPEC, tags={}, metrics={}, stored=str(folder))
    assert versions("tiny-regrown") == []


def test_what_was_stored_before_it_was_an_mlflow_model_goes_into_the_run(server, tiny, tmp_path):
    tiny.copy_to(tmp_path / "old" / "checkpoint")
    done = register(tiny, SPEC, tags={}, metrics={}, stored=str(tmp_path / "old"))
    assert done.run_id in done.source
    assert len(weights_below(tmp_path)) == 1  # linked


def test_the_same_checkpoint_is_not_stored_twice_and_another_moves_the_alias(server, tiny, tmp_path):
    first = register(tiny, SPEC, tags={}, metrics={})
    again = register(tiny, SPEC, tags={}, metrics={})
    assert again == first
    other = register(tiny_checkpoint(tmp_path / "other", seed=1), SPEC, tags={}, metrics={})
    assert other.version != first.version
    assert str(server.get_model_version_by_alias("tiny-regrown", "challenger").version) == other.version


def test_registering_again_brings_new_facts_and_the_metrics_history_does_not_grow(server, tiny):
    first = register(tiny, SPEC, tags={"regrow.scores": "one"}, metrics={"recovery": 0.9})
    register(tiny, SPEC, tags={"regrow.scores": "one"}, metrics={"recovery": 0.9})
    assert len(server.get_metric_history(first.run_id, "recovery")) == 1
    register(tiny, SPEC, tags={"regrow.scores": "two"}, metrics={"recovery": 0.8})
    found = find("tiny-regrown@challenger")
    assert (found.number, found.tags["regrow.scores"], found.metrics) == (1, "two", {"recovery": 0.8})
    assert "| recovery | 0.8 |" in found.description


def test_a_version_whose_files_are_gone_is_not_used_again(server, tiny, tmp_path):
    import shutil

    register(tiny, SPEC, tags={}, metrics={}, stored=str(store(tiny, tmp_path / "store")))
    shutil.rmtree(tmp_path / "store")
    done = register(tiny, SPEC, tags={}, metrics={}, stored=str(store(tiny, tmp_path / "again")))
    assert done.version == "2" and done.source == str(tmp_path / "again")


def test_a_version_says_what_it_was_made_from_and_under_which_licences(server, tiny):
    licences = LicenceChain.of("Apache-2.0", {"plants": "CC-BY-SA-4.0", "water": None})
    register(
        tiny,
        SPEC,
        tags={"regrow.data.plants": "d" * 64, "regrow.plan": "e" * 64},
        metrics={},
        licences=licences,
        documents={"config": {"prune": {"blocks": 2}}},
    )
    found = find("tiny-regrown/1")
    assert found.tags["regrow.licence"] == "unknown"
    assert found.licences == licences
    assert found.data == {"plants": "d" * 64}
    assert len(found.tags["regrow.environment"]) == 64
    assert "Most restrictive licence that is known: CC-BY-SA-4.0 (share alike)" in found.description
    assert "Licence unknown of: water." in found.description
    assert f"| pruning plan | `{'e' * 64}` |" in found.description
    run = server.list_artifacts(found.run_id, f"registered/{tiny.digest[:16]}")
    assert [Path(one.path).name for one in run] == ["README.md", "config.json", "environment.json"]
    stored = json.loads(
        Path(
            server.download_artifacts(found.run_id, f"registered/{tiny.digest[:16]}/environment.json")
        ).read_text()
    )
    assert stored["mlflow"].startswith("3.")


def test_a_model_of_another_maker_does_not_stand_in_the_way(server, tiny):
    server.create_registered_model("tiny-regrown")
    server.create_model_version("tiny-regrown", tiny.folder.as_uri())
    assert register(tiny, SPEC, tags={}, metrics={}).version == "2"
    assert versions("tiny-regrown")[1].digest is None


def test_an_unreachable_server_is_one_line(tiny, monkeypatch):
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(InputError, match=r"MLflow at http://127.0.0.1:9: .*check the tracking URI"):
            register(tiny, SPEC, tags={}, metrics={})
    finally:
        mlflow.set_tracking_uri(before)
