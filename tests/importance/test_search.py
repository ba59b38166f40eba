"""Criteria that leave blocks out, against cutting the model for real."""

import json
import math

import pytest
import torch

from regrow.errors import InputError
from regrow.evaluate.spec import TaskSpec
from regrow.importance import ImportanceSpec, SearchSpec, choose_blocks, compute
from regrow.importance.search import _Trials
from regrow.prune import PruneSpec, apply, make_plan
from tests.families import FAMILIES, SPREAD
from tests.tiny import scale_weight, tiny_checkpoint

TEXTS = [
    "A short text.",
    "Somewhat longer than the first text, to force padding.",
    "Grass grows back after the cut.",
]


def real_perplexity(base, drop, folder) -> float:
    """Of the pruned files, one text at a time."""
    if drop:
        base = apply(base, make_plan(base, PruneSpec(drop=drop)), folder)
    model, tokenizer = base.load(dtype="float32"), base.tokenizer()
    loss, tokens = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            count = ids.shape[1] - 1
            loss += float(model(ids, labels=ids).loss) * count
            tokens += count
    return math.exp(loss / tokens)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "smollm3", "gpt_neox"])
def test_a_run_left_out_is_a_run_cut_out(tmp_path, family):
    base = tiny_checkpoint(tmp_path / "base", family=family, **FAMILIES[family], initializer_range=0.1)
    spec = ImportanceSpec(batch_size=2, search=SearchSpec(criteria=("perplexity",), sizes=(1, 3)))
    found = compute(base, TEXTS, spec).search
    assert found.intact == pytest.approx(real_perplexity(base, None, tmp_path), rel=1e-4)
    for size, row in found.perplexity.items():
        assert len(row) == 6 - size + 1
        for start in (0, 2, 6 - size):
            drop = list(range(start, start + size))
            assert row[start] == pytest.approx(
                real_perplexity(base, drop, tmp_path / f"{size}-{start}"), rel=1e-4
            )


def test_greedy_takes_the_least_loss_each_time(tmp_path):
    base = tiny_checkpoint(tmp_path / "base", **SPREAD)
    spec = ImportanceSpec(batch_size=2, search=SearchSpec(criteria=("greedy",), sizes=(3,)))
    importance = compute(base, TEXTS, spec)
    order, after = importance.search.greedy, importance.search.greedy_perplexity
    removed: list[int] = []
    for step, (block, value) in enumerate(zip(order, after, strict=True)):
        trials = {
            one: real_perplexity(base, sorted([*removed, one]), tmp_path / f"{step}-{one}")
            for one in range(6)
            if one not in removed
        }
        assert block == min(trials, key=lambda one: trials[one])
        assert value == pytest.approx(trials[block], rel=1e-4)
        removed.append(block)
    assert choose_blocks(importance, 6, "greedy", 2).removed == tuple(sorted(order[:2]))


@pytest.fixture
def questions(tmp_path):
    rows = [
        {
            "id": str(i),
            "question": f"What is {i} and {i}?",
            "choices": {"text": ["grass", str(2 * i), "rain", "sun"], "label": ["A", "B", "C", "D"]},
            "answerKey": "B",
        }
        for i in range(8)
    ]
    path = tmp_path / "arc.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TaskSpec(name="arc_easy", source=str(path))


def test_a_task_without_runs_scores_as_the_cut_model_does(tmp_path, questions):
    from regrow.evaluate import EvaluateSpec, evaluate

    base = tiny_checkpoint(tmp_path / "base", **SPREAD)
    search = SearchSpec(criteria=("task",), sizes=(2,), task=questions)
    importance = compute(base, TEXTS, ImportanceSpec(search=search))
    row = importance.search.task[2]
    assert len(row) == 5
    for start in (0, 3):
        pruned = apply(base, make_plan(base, PruneSpec(drop=[start, start + 1])), tmp_path / f"{start}")
        scores = evaluate("pruned", pruned, EvaluateSpec(tasks=(questions,), batch_size=8))
        assert row[start] == scores.scores["arc_easy"].value
    best = choose_blocks(importance, 6, "task", 2)
    assert best.score == max(row)


def test_an_interrupted_search_continues(tmp_path, monkeypatch):
    base = tiny_checkpoint(tmp_path / "base", **SPREAD)
    search = SearchSpec(criteria=("perplexity", "greedy"), sizes=(1, 2))
    spec = ImportanceSpec(batch_size=1, search=search)
    expected = compute(base, TEXTS, spec)
    count = [0]
    real = _Trials.loss

    def dies(self, *arguments):
        count[0] += 1
        # 3 of the intact model, 3 texts x 11 runs, then greedy: 3 x 6 in the first step, 3 x 5 in the second.
        if count[0] == 3 + 33 + 18 + 4:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(_Trials, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        compute(base, TEXTS, spec, tmp_path / "work")
    count[0] = 1000
    assert compute(base, TEXTS, spec, tmp_path / "work") == expected
    assert count[0] - 1000 == 3 + 15, "the intact model, and greedy's second step"


def test_a_ruined_model_is_infinitely_perplexed(tmp_path):
    base = tiny_checkpoint(tmp_path / "base", tie_word_embeddings=False)
    base = scale_weight(base, "lm_head.weight", 1e6)
    spec = ImportanceSpec(search=SearchSpec(criteria=("perplexity",), sizes=(1,)))
    result = compute(base, TEXTS, spec)
    assert math.inf in result.search.perplexity[1]
    result.save(tmp_path / "importance.json")
    from regrow.importance import LayerImportance

    assert LayerImportance.read(tmp_path / "importance.json") == result


@pytest.mark.parametrize("sizes", [(6,), (2, 9)])
def test_sizes_outside_the_model_are_refused(tiny, sizes):
    spec = ImportanceSpec(search=SearchSpec(criteria=("perplexity",), sizes=sizes))
    with pytest.raises(InputError, match="choose 1 to 5"):
        compute(tiny, TEXTS, spec)
