"""The bundled default, real model and real data, at a reduced size."""

import json

import pytest
import yaml

from tests.pipelines.project import ROOT, Project


def reduced() -> dict:
    """Return the bundled default with so few records, questions and tokens that it is over in minutes."""
    config = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    parameters = config["parameters"]
    parameters["calibration"]["limit"] = 4
    parameters["importance"]["max_tokens"] = 64
    for dataset in parameters["datasets"]:
        dataset["limit"] = 8
    parameters["self_data"]["max_new_tokens"] = 48
    parameters["gate"] = {"min_records": 4, "min_acceptance_rate": 0}
    parameters["tune"] |= {"max_steps": 6, "batch_size": 4}
    parameters["shift"]["limit"] = 4
    evaluation = parameters["evaluation"]
    for task in evaluation["tasks"]:
        task["limit"] = 4
    evaluation["perplexity"]["limit"] = 3
    evaluation["answers"]["max_new_tokens"], evaluation["answers"]["prompts"]["limit"] = 8, 3
    evaluation["speed"] = {"prompt_tokens": 16, "new_tokens": 4, "batch_sizes": [1], "rounds": 1}
    evaluation["draft"] = {"tokens": [2], "new_tokens": 8, "limit": 1, "rounds": 1}
    return config


@pytest.mark.real
def test_the_default_runs_on_the_real_model_at_reduced_size(tmp_path):
    project = Project(tmp_path)
    config = reduced()
    done = project.regrow("run", project.write_config(config), "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    summary = json.loads(done.stdout)
    models = {model["name"]: model for model in summary["models"]}
    assert set(models) == {"base", "pruned", "tuned-science", "tuned-arc", "merged"}
    # Llama architecture, d 576, MLP 1536, 9 heads on 3 KV groups: 3,540,096 weights a block.
    assert models["base"]["parameters"] == 134_515_008
    assert models["base"]["parameters"] - models["pruned"]["parameters"] == 6 * 3_540_096
    # SmolLM2 reads 32 of these passages at a perplexity of 23, and at 47 without a fifth of its blocks; here are three.
    assert 5 < models["base"]["perplexity"] < 80
    assert models["pruned"]["perplexity"] > 1.1 * models["base"]["perplexity"]
    assert set(models["base"]["scores"]) == {"arc_easy", "openbookqa", "piqa", "winogrande"}
    assert all(one["gate"] == "passed" and one["records"] == 8 for one in summary["datasets"])
    assert summary["peak_memory_bytes"] < 10 * 2**30
    code = (
        "from transformers import AutoModelForCausalLM as A, AutoTokenizer as T\n"
        f"folder = {models['merged']['folder']!r}\n"
        "model, tokenizer = A.from_pretrained(folder), T.from_pretrained(folder)\n"
        "ids = tokenizer('The grass grows', return_tensors='pt')\n"
        "print(len(model.generate(**ids, max_new_tokens=4)[0]) > ids.input_ids.shape[1])"
    )
    assert project.python(code) == "True"
