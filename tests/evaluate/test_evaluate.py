import json
import socket
from pathlib import Path

import pytest
import torch

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.evaluate import EvaluateSpec, TaskSpec, evaluate, recovery_interval
from regrow.evaluate.table import table
from regrow.source import TextSpec
from tests.evaluate.sets import ARC, write
from tests.tiny import tiny_checkpoint


@pytest.fixture
def spec(tmp_path: Path) -> EvaluateSpec:
    texts = write(
        tmp_path / "texts.jsonl", [{"text": f"Sentence {i} about the sea and the sky."} for i in range(5)]
    )
    return EvaluateSpec(
        tasks=(TaskSpec(name="arc_easy", source=str(write(tmp_path / "arc.jsonl", ARC)), limit=4),),
        perplexity=TextSpec(name="texts", source=str(texts)),
        window=32,
        batch_size=2,
        dtype="float32",
    )


def plain_answers(checkpoint: Checkpoint, rows: list[dict]) -> tuple[list[int], list[int]]:
    """The answer with the highest (length-normalised) log-likelihood, by the obvious computation."""
    model, tokenizer = checkpoint.load(), checkpoint.tokenizer()
    raw, normalised = [], []
    for row in rows:
        prompt = f"Question: {row['question']}\nAnswer:"
        sums = []
        for choice in row["choices"]["text"]:
            context, whole = (tokenizer(text)["input_ids"] for text in (prompt, f"{prompt} {choice}"))
            with torch.no_grad():
                log = torch.log_softmax(model(torch.tensor([whole])).logits[0].float(), -1)
            sums.append(sum(float(log[i - 1, whole[i]]) for i in range(len(context), len(whole))))
        gold = row["choices"]["label"].index(row["answerKey"])
        raw.append(int(max(range(len(sums)), key=sums.__getitem__) == gold))
        lengths = [len(choice) for choice in row["choices"]["text"]]
        normalised.append(int(max(range(len(sums)), key=lambda i: sums[i] / lengths[i]) == gold))
    return raw, normalised


def test_scores_are_those_of_the_plain_computation(tiny, spec, tmp_path: Path, monkeypatch):
    def no_network(*arguments):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    scores = evaluate("base", tiny, spec, tmp_path / "cache")
    score = scores.scores["arc_easy"]
    lines = next((tmp_path / "cache").rglob("*.samples.jsonl")).read_text().splitlines()
    rows = [json.loads(line)["row"] for line in lines]
    assert len(rows) == score.samples == 4
    raw, normalised = plain_answers(tiny, [ARC[row] for row in rows])
    assert list(score.items) == normalised
    assert [json.loads(line)["acc"] for line in lines] == raw
    assert score.value == sum(normalised) / 4
    assert score.metric == "acc_norm,none"
    assert score.version == "1.0"
    assert scores.perplexity > 1
    assert scores.perplexity_tokens > 50
    assert scores.parameters == tiny.parameters


def test_a_second_time_costs_nothing(tiny, spec, tmp_path: Path, monkeypatch):
    first = evaluate("base", tiny, spec, tmp_path / "cache")
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: pytest.fail("the model was loaded again"))
    assert evaluate("merged", tiny, spec, tmp_path / "cache") == first.model_copy(update={"name": "merged"})


def test_further_texts_stand_beside_the_first(tiny, spec, tmp_path: Path):
    other = write(tmp_path / "other.jsonl", [{"text": f"XYZ {i} qqq zzz {i} vvv www." * 3} for i in range(4)])
    more = spec.model_copy(update={"more_texts": (TextSpec(name="other", source=str(other)),)})
    found = evaluate("base", tiny, more, tmp_path / "cache")
    alone = spec.model_copy(update={"perplexity": TextSpec(name="other", source=str(other))})
    assert found.more_perplexities == {"other": evaluate("base", tiny, alone).perplexity}
    assert found.perplexity == evaluate("base", tiny, spec, tmp_path / "cache").perplexity
    assert found.summary()["more_perplexities"] == found.more_perplexities
    assert f"{found.more_perplexities['other']:,.2f}" in table([found])


def test_texts_need_names_of_their_own(spec):
    texts = spec.perplexity.model_dump(mode="json")
    with pytest.raises(ValueError, match="the name texts is used twice"):
        EvaluateSpec(perplexity=texts, more_texts=[texts])
    with pytest.raises(ValueError, match="give the first texts as `perplexity`"):
        EvaluateSpec(tasks=spec.tasks, more_texts=[texts])


def test_a_killed_run_continues_with_the_next_task(tiny, spec, tmp_path: Path, monkeypatch):
    from regrow.evaluate import harness

    second = TaskSpec(name="arc_challenge", source=spec.tasks[0].source)
    both = spec.model_copy(update={"tasks": (*spec.tasks, second)})
    run, ran = harness.run_task, []

    def killed_at_the_second(lm, task, *rest):
        ran.append(task.name)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return run(lm, task, *rest)

    monkeypatch.setattr(harness, "run_task", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate("base", tiny, both, tmp_path / "cache")
    scores = evaluate("base", tiny, both, tmp_path / "cache")
    assert ran == ["arc_easy", "arc_challenge", "arc_challenge"]
    monkeypatch.setattr(harness, "run_task", run)
    assert {name: one.items for name, one in scores.scores.items()} == {
        name: one.items for name, one in evaluate("base", tiny, both).scores.items()
    }


def test_changed_questions_settings_or_weights_are_evaluated_anew(tiny, spec, tmp_path: Path):
    cache = tmp_path / "cache"

    def results() -> int:
        return len([path for path in cache.rglob("arc_easy-*.json") if "samples" not in path.name])

    evaluate("base", tiny, spec, cache)
    evaluate("base", tiny, spec.model_copy(update={"batch_size": 1}), cache)
    assert results() == 2
    write(tmp_path / "arc.jsonl", [{**row, "question": row["question"] + "!"} for row in ARC])
    evaluate("base", tiny, spec, cache)
    assert results() == 3
    evaluate("base", tiny_checkpoint(tmp_path / "other", seed=1), spec, cache)
    assert results() == 4


def test_a_copy_in_another_place_is_the_same_question(tiny, spec, tmp_path: Path):
    evaluate("base", tiny, spec, tmp_path / "cache")
    moved = spec.tasks[0].model_copy(update={"source": str(write(tmp_path / "moved.jsonl", ARC))})
    evaluate("base", tiny, spec.model_copy(update={"tasks": (moved,)}), tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("arc_easy-*.samples.jsonl"))) == 1


def test_a_ruined_model_gets_scores(tiny, spec, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    path = tiny.folder / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"].fill_(float("nan"))
    base = evaluate("base", tiny, spec)
    save_file(weights, path, metadata={"format": "pt"})
    ruined = evaluate("pruned", Checkpoint.open(tiny.folder), spec, tmp_path / "cache")
    assert ruined.perplexity == float("inf")
    assert 0 <= ruined.scores["arc_easy"].value <= 1
    if base.mean:
        assert recovery_interval(ruined, base).method == "paired bootstrap"


def test_an_unknown_metric_names_those_there_are(tiny, spec):
    task = spec.tasks[0].model_copy(update={"metric": "bleu"})
    with pytest.raises(InputError, match="no bleu; the task has acc,none, acc_norm,none"):
        evaluate("base", tiny, spec.model_copy(update={"tasks": (task,)}))


def test_a_group_on_local_questions(tiny, tmp_path: Path):
    """Two subjects of mmlu through its tag, each from its own file."""
    from regrow.evaluate.tasks import leaves

    subjects = leaves("mmlu_stem")
    assert "mmlu_astronomy" in subjects
    for i, subject in enumerate(subjects):
        rows = [
            {"question": f"{subject} {n}?", "subject": "x", "choices": ["1", "2", "3", "4"], "answer": n % 4}
            for n in range(1 + i % 2)
        ]
        write(tmp_path / f"{subject.removeprefix('mmlu_')}.jsonl", rows)
    task = TaskSpec(name="mmlu_stem", source=str(tmp_path / "{subset}.jsonl"), num_fewshot=0)
    score = evaluate("base", tiny, EvaluateSpec(tasks=(task,), dtype="float32")).scores["mmlu_stem"]
    assert score.samples == len(score.items) == sum(1 + i % 2 for i in range(len(subjects)))
    assert score.value == pytest.approx(sum(score.items) / len(score.items))
