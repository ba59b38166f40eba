"""What MLflow is told of drift, speed and drafting, and how the dashboard shows them."""

import math

import pytest

from regrow import report
from regrow.evaluate import Drift, Health, Measures, Speculation, Speed
from regrow.evaluate.speculative import Drafting
from regrow.evaluate.speed import Timing

HEALTH = Health(answers=2, empty=0.0, unfinished=0.5, looping=0.5, repetition=0.25, length=30.0)
DRIFT = Drift(
    name="a <b>",
    model="m",
    base="b",
    questions="q",
    skipped=0,
    encoder=None,
    similarity=None,
    same=(True, False),
    tokens=(10, 30),
    agreement=(1.0, 0.6),
    kl=(0.0, 0.4),
    health=HEALTH,
    base_health=HEALTH,
    settings={},
)


def speed(name, seconds):
    return Speed(
        name=name,
        digest=name,
        parameters=1000,
        checkpoint_bytes=2000,
        memory_bytes=None,
        flops_per_token=5,
        flops_counted=None,
        prompt_tokens=10,
        new_tokens=2,
        dtype="float32",
        device="cpu",
        threads=1,
        timings=(Timing(batch_size=4, prefill=(seconds,), step=(seconds,)),),
    )


MEASURES = Measures(
    speeds=(speed("base", 0.2), speed("pruned", 0.1)),
    drafts=(
        Speculation(
            name="pruned",
            draft="d",
            target="t",
            prompts=1,
            rates=(10.0,),
            target_seconds=0.1,
            draft_seconds=0.05,
            settings={},
            runs=(
                Drafting(
                    tokens=2,
                    passes=4,
                    new_tokens=8,
                    drafted=8,
                    accepted=4,
                    refused=2,
                    differing=0,
                    verify_seconds=0.12,
                    rates=(15.0,),
                ),
            ),
        ),
    ),
)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """What tells MLflow; importing a step opens ZenML's store, which must not be the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZENML_CONFIG_PATH", str(tmp_path_factory.mktemp("zenml")))
        from steps.tracking import facts

        return facts


def test_drift_is_logged(facts):
    found = facts(DRIFT)
    assert found.metrics["agreement.value"] == 0.7
    assert math.isclose(found.metrics["kl.value"], 0.3)
    assert found.metrics["health.looping"] == 0.5
    assert Drift.model_validate_json(found.texts["drift.json"]) == DRIFT


def test_speed_and_drafting_are_logged(facts):
    found = facts(MEASURES)
    assert found.metrics["speed.pruned.batches.4.decode_speedup.value"] == 2.0
    assert found.metrics["draft.pruned.drafts.2.speedup.value"] == 1.5
    assert math.isclose(found.metrics["draft.pruned.drafts.2.alpha"], 4 / 6)
    assert math.isclose(found.metrics["draft.pruned.drafts.2.verify_cost"], 1.2)
    assert Measures.model_validate_json(found.texts["measures.json"]) == MEASURES


def test_pages_show_the_figures_and_no_markup_of_a_name():
    page = report.drift_page(DRIFT)
    assert "0.300" in page
    assert "a &lt;b&gt;" in page
    assert "a <b>" not in page
    assert "pruned" in report.measures_page(MEASURES)
