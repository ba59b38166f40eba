"""The orchestrator as a step's container sees it, where Kubeflow's packages are not."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from zenml.enums import ExecutionMode, StackComponentType

from infra.kubeflow import flavor
from infra.kubeflow.pod import RUN_ID, InsidePod
from regrow.errors import InputError


@pytest.fixture
def inside(monkeypatch):
    monkeypatch.setattr(flavor, "find_spec", lambda _name: None)  # as in the images
    made = flavor.KubeflowFlavor()
    assert made.implementation_class is InsidePod
    now = datetime.now(UTC)
    return made.implementation_class(
        name="kubeflow", id=uuid4(), config=made.config_class(), flavor=made.name,
        type=StackComponentType.ORCHESTRATOR, user=None, created=now, updated=now,
    )  # fmt: skip


def test_a_step_learns_which_run_it_belongs_to(inside, monkeypatch):
    monkeypatch.setenv(RUN_ID, "compress-1")
    assert inside.get_orchestrator_run_id() == "compress-1"
    monkeypatch.delenv(RUN_ID)
    with pytest.raises(InputError, match="no step of a Kubeflow pipeline"):
        inside.get_orchestrator_run_id()


def test_it_takes_the_mode_of_the_compress_pipeline(inside):
    assert ExecutionMode.FAIL_FAST in inside.supported_execution_modes


def test_nothing_is_submitted_from_there(inside):
    with pytest.raises(InputError, match=r"pip install 'regrow\[kubeflow\]'"):
        inside.submit_pipeline(None, None, {}, {})
