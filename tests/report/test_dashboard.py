"""The same pages in ZenML's dashboard, and configurations that a page shows."""

from pathlib import Path

import pytest

from regrow import report
from regrow.config import CompressConfig, read_config
from regrow.report.render import as_yaml
from regrow.study import StudyConfig, StudyResult

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_document_is_drawn_by_its_page():
    from zenml.materializers.materializer_registry import materializer_registry

    import materializers
    from regrow.evaluate import Drift, Measures

    for kind, stored_by, draw in (
        (StudyResult, materializers.StudyMaterializer, report.study_page),
        (Drift, materializers.DriftMaterializer, report.drift_page),
        (Measures, materializers.MeasuresMaterializer, report.measures_page),
    ):
        assert materializer_registry[kind] is stored_by
        assert stored_by.draw is draw


@pytest.mark.parametrize(("name", "kind"), [("demo", CompressConfig), ("study-smollm2", StudyConfig)])
def test_a_configuration_as_the_page_shows_it_is_read_as_the_same(tmp_path: Path, name: str, kind: type):
    config, _ = read_config(CONFIGS / f"{name}.yaml", kind)
    shown = tmp_path / "config.yaml"
    shown.write_text(as_yaml({"parameters": config.model_dump(mode="json")}), encoding="utf-8")
    assert read_config(shown, kind)[0] == config


def test_a_study_survives_being_stored(study: StudyResult):
    """The artifact store holds JSON: what is loaded draws the same page."""
    loaded = StudyResult.model_validate_json(study.model_dump_json())
    assert report.study_page(loaded) == report.study_page(study)
