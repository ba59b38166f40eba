from enum import Enum

from regrow.registry import mismatches

MLFLOW = {
    "regrow.digest": "a" * 64,
    "regrow.data.plants": "b" * 64,
    "regrow.metric.recovery": "0.9",
    "mlflow_version": "3",
    "stage": "staging",
}
ZENML = {"regrow.digest": "a" * 64, "regrow.data.plants": "b" * 64, "mlflow_version": "3", "stage": "staging"}


class Stage(Enum):
    STAGING = "staging"


def found(mlflow: dict, zenml: dict) -> list[tuple]:
    return [(one.key, one.mlflow, one.zenml) for one in mismatches(mlflow, zenml)]


def test_two_that_agree_have_no_mismatch():
    assert found(MLFLOW, ZENML) == []
    assert found(MLFLOW, ZENML | {"mlflow_version": 3, "stage": Stage.STAGING, "seconds": 12}) == []


def test_each_fact_that_differs_is_named():
    assert found(MLFLOW, ZENML | {"regrow.digest": "c" * 64}) == [("regrow.digest", "a" * 64, "c" * 64)]
    assert found(MLFLOW, ZENML | {"mlflow_version": 4}) == [("mlflow_version", "3", "4")]


def test_a_fact_that_one_side_does_not_tell_is_a_mismatch():
    less = {key: value for key, value in ZENML.items() if key != "regrow.data.plants"}
    assert found(MLFLOW, less) == [("regrow.data.plants", "b" * 64, None)]
    assert found(less, ZENML) == [("regrow.data.plants", None, "b" * 64)]
    assert "MLflow says nothing" in mismatches(less, ZENML)[0].sentence()


def test_no_stage_in_zenml_is_no_stage_alias_in_mlflow():
    assert found(MLFLOW | {"stage": "none"}, ZENML | {"stage": None}) == []
    assert found(MLFLOW, ZENML | {"stage": None}) == [("stage", "staging", "none")]


def test_a_former_champion_that_zenml_has_archived_has_no_stage_alias_in_mlflow():
    assert found(MLFLOW | {"stage": "none"}, ZENML | {"stage": "archived"}) == []
    assert found(MLFLOW, ZENML | {"stage": "archived"}) == [("stage", "staging", "archived")]
    assert found(MLFLOW | {"stage": "none"}, ZENML | {"stage": "production"}) == [
        ("stage", "none", "production")
    ]
