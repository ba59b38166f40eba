from pathlib import Path

import pytest
from pydantic import ValidationError

from regrow.errors import InputError
from regrow.evaluate import EvaluateSpec, TaskSpec, task_texts
from regrow.evaluate.adapters import adapt
from regrow.evaluate.harness import built_tasks
from regrow.evaluate.tasks import choose, find
from tests.evaluate.sets import ARC, HELLASWAG, OE_EVAL, WINOGRANDE, write


def test_choice_of_questions_is_seeded_and_sorted():
    assert choose(10, None, "random", 1) == list(range(10))
    assert choose(10, 3, "first", 1) == [0, 1, 2]
    drawn = choose(1000, 20, "random", 1)
    assert drawn == choose(1000, 20, "random", 1) == sorted(set(drawn))
    assert drawn != choose(1000, 20, "random", 2)
    assert max(drawn) > 500


def test_oe_eval_requests_become_questions_once():
    rows = adapt(OE_EVAL, "oe_eval", "arc_easy")
    assert [row["id"] for row in rows] == ["q1", "q2"]
    assert rows[0] == {
        "id": "q1",
        "question": "What is  cold?\nAnswer: me",
        "choices": {"text": ["ice", "fire", "steam"], "label": ["A", "B", "C"]},
        "answerKey": "A",
    }
    assert adapt(OE_EVAL, "oe_eval", "openbookqa")[1]["question_stem"] == "What is hot?"


@pytest.mark.parametrize(
    ("rows", "task", "message"),
    [
        (OE_EVAL, "piqa", "oe_eval serves"),
        ([{"question": "?"}], "arc_easy", "row 1 is no oe-eval request"),
        (
            [{"doc_id": 0, "doc": {"id": "q", "query": "Q", "choices": ["x", "y"], "gold": 0}}],
            "arc_easy",
            "not wrapped",
        ),
        (
            [
                {
                    "doc_id": 0,
                    "doc": {"id": "q", "query": "Question: Q\nAnswer:", "choices": ["A", "B"], "gold": 0},
                }
            ],
            "arc_easy",
            "_rc_",
        ),
    ],
)
def test_what_is_no_request_is_refused(rows, task, message):
    with pytest.raises(InputError, match=message):
        adapt(rows, "oe_eval", task)


@pytest.mark.parametrize(
    ("name", "rows", "hub_split"),
    [
        ("arc_easy", ARC, "test"),
        ("hellaswag", HELLASWAG, "validation"),
        ("winogrande", WINOGRANDE, "validation"),
    ],
)
def test_prompts_choices_and_metrics_are_lm_evals_own(tmp_path: Path, monkeypatch, name, rows, hub_split):
    """The same rows, once through our redirection and once as if the hub had answered."""
    import datasets
    from lm_eval.tasks import TaskManager

    spec = TaskSpec(name=name, source=str(write(tmp_path / "rows.jsonl", rows)), num_fewshot=0)
    asked = []

    def hub(path, name=None, **kwargs):
        asked.append(path)
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_list(rows) for split in ("train", "validation", "test")}
        )

    with built_tasks(spec, 1) as built:
        ours = built[name][0]
        monkeypatch.setattr(datasets, "load_dataset", hub)
        theirs = TaskManager(include_defaults=False).load([str(find(name))])["tasks"][name]
        assert asked, "the reference must have come through lm-eval's own loading"
        assert ours.VERSION == theirs.VERSION
        assert ours.aggregation() == theirs.aggregation()
        assert len(ours.eval_docs) == len(theirs.eval_docs) == len(rows)
        assert [ours.has_test_docs(), ours.has_validation_docs()] == [
            hub_split == "test",
            hub_split != "test",
        ]
        for mine, other in zip(ours.eval_docs, theirs.eval_docs, strict=True):
            for read in ("doc_to_text", "doc_to_choice", "doc_to_target"):
                assert getattr(ours, read)(mine) == getattr(theirs, read)(other)
        for task in (ours, theirs):
            task.set_config("num_fewshot", 0)
            task.build_all_requests(limit=None, rank=0, world_size=1)
        assert [one.args for one in ours.instances] == [one.args for one in theirs.instances]


def test_few_shot_examples_come_from_their_own_source(tmp_path: Path):
    train = [{**ARC[0], "id": "train", "question": "A solved one?"}] * 3
    spec = TaskSpec(
        name="arc_easy",
        source=str(write(tmp_path / "test.jsonl", ARC)),
        fewshot_source=str(write(tmp_path / "train.jsonl", train)),
        num_fewshot=2,
    )
    with built_tasks(spec, 1) as built:
        task = built["arc_easy"][0]
        task.build_all_requests(limit=None, rank=0, world_size=1)
        prompt = task.instances[0].args[0]
    assert prompt.count("A solved one?") == 2
    assert prompt.endswith(f"Question: {ARC[0]['question']}\nAnswer:")


def test_few_shot_without_examples_is_refused(tmp_path: Path):
    source = str(write(tmp_path / "rows.jsonl", ARC))
    with pytest.raises(ValidationError, match="fewshot_source"):
        TaskSpec(name="arc_easy", source=source, num_fewshot=5)
    # gsm8k asks for five examples by itself.
    rows = [{"question": "1+1?", "answer": "#### 2"}]
    spec = TaskSpec(name="gsm8k", source=str(write(tmp_path / "gsm.jsonl", rows)))
    with pytest.raises(InputError, match="asks for 5 examples"), built_tasks(spec, 1):
        pass


def test_unknown_task_names_its_neighbours(tmp_path: Path):
    spec = TaskSpec(name="arc_eazy", source=str(write(tmp_path / "rows.jsonl", ARC)))
    with pytest.raises(InputError, match=r"did you mean.*arc_easy"), built_tasks(spec, 1):
        pass


def test_texts_hold_questions_with_and_without_choices(tmp_path: Path):
    spec = EvaluateSpec(
        tasks=(
            TaskSpec(name="arc_easy", source=str(write(tmp_path / "arc.jsonl", ARC))),
            TaskSpec(name="winogrande", source=str(write(tmp_path / "wino.jsonl", WINOGRANDE)), limit=1),
        )
    )
    texts = task_texts(spec)
    assert ARC[0]["question"] in texts
    assert f"{ARC[0]['question']} {' '.join(ARC[0]['choices']['text'])}" in texts
    assert any(text.startswith("Ann paid Sue because Ann") for text in texts)
    assert all(text.strip() == text for text in texts)


def test_spec_refuses_what_makes_no_sense():
    with pytest.raises(ValidationError, match="listed twice"):
        EvaluateSpec(tasks=(TaskSpec(name="piqa"), TaskSpec(name="piqa", limit=3)))
    with pytest.raises(ValidationError, match="nothing to evaluate"):
        EvaluateSpec()
    with pytest.raises(ValidationError, match="greater than the window"):
        EvaluateSpec(tasks=(TaskSpec(name="piqa"),), window=8, stride=9)
    with pytest.raises(ValidationError, match="need a source"):
        TaskSpec(name="piqa", adapter="oe_eval")


def test_a_task_from_the_hub_out_of_reach_says_so(monkeypatch, tmp_path: Path):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(InputError, match="give the task a source"), built_tasks(TaskSpec(name="piqa"), 1):
        pass


def test_a_group_is_found_without_the_whole_index():
    from regrow.evaluate.tasks import leaves

    subjects = leaves("mmlu")
    assert len(subjects) == len(set(subjects)) == 57
    assert leaves("arc_easy") == ["arc_easy"]
