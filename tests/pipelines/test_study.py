"""A study end to end, through ZenML and MLflow, on a tiny model."""

import json
from typing import Any

import pytest

from tests.pipelines.project import Project, tiny_config

pytestmark = pytest.mark.processes


def study_config(project: Project) -> dict[str, Any]:
    parameters = tiny_config(project)["parameters"]
    for name in ("registry", "shift", "prune"):
        del parameters[name]
    for dataset in parameters["datasets"]:
        dataset.pop("tune", None)
    parameters["evaluation"]["answers"] = {
        "prompts": parameters["datasets"][0] | {"name": "questions", "limit": 3},
        "max_new_tokens": 6,
        "encoder": None,
    }
    budget = parameters.pop("tune") | {"max_steps": 2}
    return {
        "parameters": parameters
        | {
            "blocks": [1, 2],
            "seeds": [4],
            "tune": budget,
            "arms": [
                {"name": "none"},
                {"name": "SFT", "tune": {"responses": "reference"}},
                {"name": "own words, merged", "tune": {"responses": "self"}, "data": "each"},
            ],
        }
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("study"))
    config = project.write_config(study_config(project), "tiny-study.yaml")
    done = project.regrow("study", config, "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    return project, config, json.loads(done.stdout)


def test_every_cell_is_evaluated_and_the_result_lies_in_its_folder(finished):
    project, _, printed = finished
    cells = [(one["cell"]["blocks"], one["cell"]["arm"], one["cell"]["seed"]) for one in printed["outcomes"]]
    arms = [("none", None), ("SFT", 4), ("own words, merged", 4)]
    assert cells == [(blocks, arm, seed) for blocks in (1, 2) for arm, seed in arms]
    digests = [one["scores"]["digest"] for one in printed["outcomes"]]
    assert len({printed["base"]["digest"], *digests}) == 1 + len(cells)
    folder = project.folder / "runs/studies/tiny-study"
    assert json.loads((folder / "study.json").read_text()) == printed
    table = (folder / "study.md").read_text()
    assert "| own words, merged |" in table and "## Drift from the unpruned model" in table
    assert "own words, merged" in (folder / "report.html").read_text()
    assert not (project.folder / "runs/work").exists()


def test_arms_share_cuts_and_data_and_merged_models_share_the_budget(finished):
    project, _, printed = finished
    code = (
        "import json\nfrom zenml.client import Client\n"
        "run = Client().get_pipeline_run(Client().list_pipeline_runs(sort_by='desc:created').items[0].id)\n"
        "print(json.dumps({name: step.spec.upstream_steps for name, step in run.steps.items()}))"
    )
    upstream = json.loads(project.python(code).splitlines()[-1])
    names = sorted(upstream)
    assert [name for name in names if name.startswith("prune")] == ["prune_1", "prune_2"]
    assert [name for name in names if name.startswith("generate")] == [
        "generate_self_data_plants",
        "generate_self_data_water",
    ]
    assert [name for name in names if name.startswith("mix_data")] == [
        "mix_data_mixed_all",
        "mix_data_plants_all",
        "mix_data_water_all",
    ]
    # Nothing in a cell waits for another cell.
    assert set(upstream["fine_tune_2_blocks_SFT_seed_4"]) == {"prune_2", "mix_data_mixed_all"}
    steps = {
        one["cell"]["arm"]: [run["summary"]["steps"] for run in one["tunings"]] for one in printed["outcomes"]
    }
    assert steps == {"none": [], "SFT": [2], "own words, merged": [1, 1]}


def test_the_same_command_takes_everything_from_the_cache_and_another_arm_runs_alone(finished):
    project, _, first = finished
    config = json.loads(json.dumps(study_config_again(project)))
    config["parameters"]["arms"].append({"name": "slow", "tune": {"learning_rate": 1.0e-5}})
    done = project.regrow("study", project.write_config(config, "tiny-study.yaml"), "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    again = json.loads(done.stdout)
    kept = [one for one in again["outcomes"] if one["cell"]["arm"] != "slow"]
    assert kept == first["outcomes"]
    assert len(again["outcomes"]) == len(first["outcomes"]) + 2
    started = [line for line in done.stderr.splitlines() if "has started" in line and "fine_tune" in line]
    assert len(started) == 2 and all("slow" in line for line in started)


def study_config_again(project: Project) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((project.folder / "tiny-study.yaml").read_text())


def test_a_study_that_cannot_run_ends_with_one_line_and_status_2(tmp_path):
    project = Project(tmp_path)
    config = study_config(project)
    config["parameters"]["arms"][1]["tune"]["respones"] = "self"
    done = project.regrow("study", project.write_config(config))
    assert done.returncode == 2
    assert "arms.SFT.tune.respones: unknown key" in done.stderr.strip().splitlines()[-1]


MANY = """
from typing import Annotated
from zenml import pipeline, step

@step
def one(number: int) -> Annotated[int, "number"]:
    return number

@step
def last(numbers: list[int]) -> Annotated[int, "total"]:
    return sum(numbers)

@pipeline
def many(count: int) -> None:
    last([one(number, id=f"one_{number}") for number in range(count)])
"""


def test_a_step_may_have_more_inputs_than_zenml_remembers_steps(tmp_path):
    project = Project(tmp_path)
    (project.folder / "many.py").write_text(MANY)
    code = (
        "import logging; logging.disable(logging.INFO)\n"
        "from pipelines import launch\nfrom many import many\n"
        "run = launch.run_to_end(many, {'count': 104}, {}, None, launch.use_stack(None))\n"
        "print(run.steps['last'].outputs['total'][0].load())\n"
    )
    assert project.python(code).splitlines()[-1] == str(sum(range(104)))
