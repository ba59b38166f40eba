"""The steps of a plan against those of the pipelines themselves, as ZenML wires them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from infra.stacks.schema import load
from infra.stacks.values import combine, sized
from regrow.capacity import device, make
from regrow.capacity.plan import Plan
from regrow.config import CompressConfig, read_config
from regrow.study import StudyConfig
from tests.pipelines.project import ROOT, Project, tiny_config
from tests.pipelines.test_study import study_config

WIRED = """
import json, sys
from pathlib import Path

from regrow.config import CompressConfig, read_config
from regrow.study import StudyConfig

name, kind = {name!r}, {kind}
config, _ = read_config(Path(name), kind)
if kind is StudyConfig:
    from pipelines.study import study as pipeline
    pipeline.prepare(config=config)
else:
    from pipelines.compress import compress as pipeline
    pipeline.prepare(**{{field: getattr(config, field) for field in kind.model_fields}}, tune_pods={pods})
found = {{
    key: [one.step.name, sorted(one.upstream_steps)] for key, one in pipeline.invocations.items()
}}
Path("wired.json").write_text(json.dumps(found))
"""


def in_pods(count: int, **resources):
    """The Kubernetes stack of a site whose tuning is shared by so many pods."""
    tuning = {"pods": count, "resources": {"gpus": 1, **resources}}
    return sized(load("kubernetes"), combine([("values", {"stages": {"fine_tune": tuning}})]))


def planned(path: Path, kind: type, folder: Path, **how) -> Plan:
    config, whole = read_config(path, kind)
    return make(config, whole, device("h100"), folder, **how)


def check(project: Project, name: str, kind: type, folder: Path, pods: int = 1, **how) -> Plan:
    project.python(WIRED.format(name=name, kind=kind.__name__, pods=pods))
    wired = json.loads((project.folder / "wired.json").read_text())
    plan = planned(project.folder / name, kind, folder, **how)
    found = {one.step.name: [one.step.stage, sorted(one.step.after)] for one in plan.steps}
    assert found == wired
    return plan


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Project:
    made = Project(tmp_path)
    monkeypatch.chdir(made.folder)
    return made


@pytest.mark.processes
def test_a_run_has_the_steps_of_the_pipeline(project: Project, tmp_path: Path):
    whole = tiny_config(project)
    name = project.write_config(whole)
    check(project, name, CompressConfig, tmp_path / "a")
    whole["parameters"]["evaluation"] |= {
        "answers": {"prompts": whole["parameters"]["datasets"][0] | {"name": "questions", "tune": None}},
        "speed": {},
    }
    whole["parameters"]["evaluation"]["answers"]["prompts"].pop("tune")
    plan = check(project, project.write_config(whole, "more.yaml"), CompressConfig, tmp_path / "b")
    assert sum(one.step.stage == "measure_drift" for one in plan.steps) == 4
    plan = check(project, name, CompressConfig, tmp_path / "c", pods=2, stack=in_pods(2))
    assert sum(one.step.stage == "collect_tuning" for one in plan.steps) == 2


@pytest.mark.processes
def test_a_study_has_the_steps_of_the_pipeline(project: Project, tmp_path: Path):
    whole = study_config(project)
    whole["parameters"]["arms"].append({"name": "logits", "tune": {"method": "distill"}})
    whole["parameters"]["records"] = [None, 8]
    check(project, project.write_config(whole), StudyConfig, tmp_path / "plan")


def test_a_run_fetches_what_its_inputs_are_and_a_cache_saves_the_rest(tmp_path: Path):
    plan = planned(ROOT / "configs/demo.yaml", CompressConfig, tmp_path)
    by_name = {one.step.name: one for one in plan.steps}
    for one in plan.steps:
        assert set(one.need.fetched) <= set(one.step.after)
    base, pruned = (by_name[name].need.stored for name in ("load_model", "prune"))
    assert base == 2 * 134_515_008
    assert sum(by_name["register"].need.fetched.values()) == base + 4 * pruned
    assert by_name["merge"].need.moved == 4 * pruned  # two tuned ones, their parent, and the merged one
    assert plan.moved_once < plan.moved / 2


def test_pods_that_share_a_training_are_given_its_models_and_leave_the_result(tmp_path: Path):
    path = ROOT / "configs/llama-3.1-8b.yaml"
    one, two = (
        planned(path, CompressConfig, tmp_path, stack=in_pods(count, gpus=gpus, memory="32Gi"))
        for count, gpus in ((1, 2), (2, 1))
    )
    alone = next(step for step in one.steps if step.step.stage == "fine_tune")
    name = alone.step.name
    parts = {
        step.step.stage: step
        for step in two.steps
        if step.step.name.endswith(name) and step.step.name != name
    } | {"fine_tune": next(step for step in two.steps if step.step.name == name)}
    laid_out, tuned, collected = (parts[key] for key in ("lay_out_tuning", "fine_tune", "collect_tuning"))
    assert (laid_out.devices, tuned.devices, collected.devices) == (0, 2, 0)
    # What moves through the artifact store moves before and after, while nobody holds a GPU.
    assert laid_out.need.fetched == alone.need.fetched and laid_out.seconds > 30
    assert collected.need.stored == alone.need.stored and collected.need.disk_bytes > 0
    assert tuned.need.moved == 0 and tuned.device_hours < alone.device_hours
    by_name = {step.step.name: step for step in two.steps}
    assert set(by_name[tuned.step.name].step.after) == {laid_out.step.name}
    assert collected.step.name in by_name["merge"].step.after
    # Of two processes in one pod both load the parent there.
    assert alone.need.host["parents"] == 2 * tuned.need.host["parents"]


def test_memory_is_that_of_one_pod(tmp_path: Path):
    path = ROOT / "configs/llama-3.1-8b.yaml"
    said = {}
    for count, gpus in ((1, 4), (4, 1)):
        plan = planned(path, CompressConfig, tmp_path, stack=in_pods(count, gpus=gpus, memory="24Gi"))
        tuned = next(step for step in plan.steps if step.step.stage == "fine_tune")
        said[count] = tuned.warnings
    assert len(said[1]) == 1 and "of host memory, asks for 24.0 GiB" in said[1][0]
    assert said[4] == []


def test_a_study_shares_its_trainings_between_pods_too(tmp_path: Path):
    plan = planned(ROOT / "configs/study-smollm2.yaml", StudyConfig, tmp_path, stack=in_pods(2))
    by_name = {one.step.name: one for one in plan.steps}
    trained = [name for name, one in by_name.items() if one.step.stage == "fine_tune"]
    assert trained and all(by_name[f"lay_out_{name}"].step.after for name in trained)
    assert all(by_name[f"collect_{name}"].step.after == (f"lay_out_{name}", name) for name in trained)
    evaluated = [one for one in plan.steps if one.step.stage == "evaluate"]
    assert not {one for step in evaluated for one in step.step.after} & set(trained)


def test_a_study_of_a_hundred_arms_is_shorter_on_more_gpus(tmp_path: Path):
    plan = planned(ROOT / "configs/study-100-arms.yaml", StudyConfig, tmp_path)
    stages = [one.step.stage for one in plan.steps]
    assert stages.count("fine_tune") == 100 and stages.count("evaluate") == 101
    assert stages.count("generate_self_data") == 2 and stages.count("prune") == 1
    fleets = plan.fleets()
    hours = [fleets[count] / 3600 for count in (1, 4, 16, 64)]
    assert hours == sorted(hours, reverse=True)
    for count, taken in zip((1, 4, 16, 64), hours, strict=True):
        assert max(plan.longest_way / 3600, plan.device_hours / count) <= taken + 1e-6
    assert hours[0] < 1.1 * plan.device_hours
    priced = replace(plan, price=2.0)
    assert priced.cost == pytest.approx(2.0 * plan.device_hours) and plan.cost is None
    names = [one.step.name for one in plan.steps]
    assert len(set(names)) == len(names)
    assert yaml.safe_load((ROOT / "configs/study-100-arms.yaml").read_text())["parameters"]["blocks"] == [6]
