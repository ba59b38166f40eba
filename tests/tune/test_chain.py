"""Recipes of two runs, through accelerate like any other."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regrow.checkpoint import Checkpoint
from regrow.tune import Tuned, tune
from regrow.tune.change import change_by_block, most_changed
from regrow.tune.fuse import fuse
from regrow.tune.recipe import Continual, Freeze, Lora, Replay, Sft, TeacherCorrection
from tests.tiny import scale_weight, tiny_checkpoint
from tests.tune.training import recipe_of, sentences


@pytest.mark.processes
def test_a_corrected_teacher_teaches_and_an_interrupted_chain_keeps_its_first_phase(tmp_path: Path):
    student = tiny_checkpoint(tmp_path / "student", num_hidden_layers=4, initializer_range=0.15)
    teacher = tiny_checkpoint(tmp_path / "teacher", initializer_range=0.15, seed=1)
    data = sentences(tmp_path / "d.jsonl")
    shared = recipe_of(max_steps=8, save_every=2).model_dump(exclude={"method"})
    recipe = TeacherCorrection(**shared, correction=recipe_of(max_steps=5))
    seen: list[int] = []

    def stop_in_the_second_phase(entry: dict) -> None:
        seen.append(entry["step"])
        if len(seen) == 5 + 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(student, data, recipe, tmp_path / "out", teacher=teacher, follower=stop_in_the_second_phase)
    assert seen == [1, 2, 3, 4, 5, 1, 2, 3, 4] and not (tmp_path / "out").exists()

    again: list[int] = []
    done = tune(
        student,
        data,
        recipe,
        tmp_path / "out",
        teacher=teacher,
        follower=lambda entry: again.append(entry["step"]),
    )
    assert again[0] > 2 and again[-1] == 8  # the first phase is not trained again, the second goes on
    assert done == Tuned.open(tmp_path / "out")
    assert (done.summary["method"], done.summary["parent"]) == ("teacher_correction", student.digest)
    correction = done.summary["phases"]["correction"]
    assert correction["parent"] == teacher.digest
    assert done.summary["teacher"] == correction["checkpoint"] != teacher.digest
    assert correction["last_loss"] < correction["first_loss"]
    assert done.summary["last_loss"] < done.summary["first_loss"]
    kept = {path.name for path in (done.folder / "phases" / "correction").iterdir()}
    assert kept == {"adapter", "log.jsonl", "summary.json"}
    assert not list(tmp_path.glob(".out*/*"))


@pytest.mark.parametrize("source", ["generated", pytest.param("records", marks=pytest.mark.processes)])
def test_two_phases_with_replay_and_frozen_blocks(tmp_path: Path, source: str):
    parent = tiny_checkpoint(tmp_path / "parent", num_hidden_layers=4, initializer_range=0.15)
    first, second = sentences(tmp_path / "a.jsonl", count=20), tmp_path / "b.jsonl"
    second.write_text(
        "".join(
            json.dumps({"instruction": f"Sag {i}.", "response": "xyz " * (i % 3 + 1)}) + "\n"
            for i in range(30)
        )
    )
    recipe = Continual(
        first=recipe_of(max_steps=6), second=recipe_of(max_steps=4),
        replay=Replay(share=0.25, source=source, max_new_tokens=6), freeze=Freeze(most_changed=1, blocks=(0,)),
    )  # fmt: skip
    done = tune(parent, [first, second], recipe, tmp_path / "out")
    phases = done.summary["phases"]
    assert phases["second"]["parent"] == phases["first"]["checkpoint"]
    replayed = 10 if source == "records" else 5  # only five questions differ
    assert phases["second"]["examples"] == 30 + replayed
    moving = phases["second"]["recipe"]["trainable"]["blocks"]
    assert 2 <= len(moving) <= 3 and 0 not in moving

    fuse(parent, done.folder / "phases" / "first" / "adapter", tmp_path / "first")
    between = Checkpoint.open(tmp_path / "first")
    assert between.digest != parent.digest
    before = load_file(between.folder / "model.safetensors")
    after = load_file(done.checkpoint.folder / "model.safetensors")
    for name in before:
        block = next((b for b in range(4) if f".layers.{b}." in name), None)
        trained = block in moving and "proj" in name
        assert torch.equal(before[name], after[name]) != trained, name
    assert set(most_changed(parent, between, 1)) <= set(range(4)) - set(moving)


def test_change_is_told_by_block(tmp_path: Path):
    parent = tiny_checkpoint(tmp_path / "a")
    other = tiny_checkpoint(tmp_path / "b")
    other = scale_weight(other, "model.layers.2.mlp.up_proj.weight", 1.5)
    other = scale_weight(other, "model.layers.5.mlp.up_proj.weight", 1.1)
    changes = change_by_block(parent, other)
    assert [change > 0 for change in changes] == [False, False, True, False, False, True]
    weights = load_file(parent.folder / "model.safetensors")
    size = sum(float(w.square().sum()) for name, w in weights.items() if ".layers.2." in name) ** 0.5
    moved = 0.5 * float(weights["model.layers.2.mlp.up_proj.weight"].norm())
    assert changes[2] == pytest.approx(moved / size, rel=1e-4)
    assert most_changed(parent, other, 1) == [2] and most_changed(parent, other, 2) == [2, 5]
    assert most_changed(parent, other, 0) == []


def test_phases_need_their_own_recipes_only(tmp_path: Path):
    recipe = Continual(first=Sft(trainable=Lora(r=2)))
    assert recipe.second.trainable.r == 16 and recipe.replay.share == 0.1
