from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from regrow.tune import trainer
from regrow.tune.job import Job, library_versions
from regrow.tune.recipe import LoraSpec, Recipe
from regrow.tune.trainer import FrozenHeadLoss, Trainer, checkpoints
from tests.tiny import tiny_checkpoint


@pytest.mark.parametrize("with_bias", [False, True])
def test_frozen_head_is_cross_entropy(monkeypatch, with_bias):
    monkeypatch.setattr(trainer, "_CHUNK", 4)
    torch.manual_seed(0)
    hidden = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    weight, labels = torch.randn(17, 6, dtype=torch.float64), torch.randint(17, (11,))
    bias = torch.randn(17, dtype=torch.float64) if with_bias else None
    want = F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="sum")
    (slope,) = torch.autograd.grad(3 * want, hidden)
    got = FrozenHeadLoss.apply(hidden, weight, bias, labels)
    (got_slope,) = torch.autograd.grad(3 * got, hidden)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_slope, slope)


def test_loss_and_gradients_are_those_of_trl_and_of_the_model(tmp_path: Path):
    from trl import SFTTrainer

    from regrow.tune.worker import _load, _lora, _settings

    parent = tiny_checkpoint(tmp_path / "parent", initializer_range=0.2)
    job = Job(
        folder=tmp_path, checkpoint=parent.folder, parent=parent.digest, data="",
        recipe=Recipe(lora=LoraSpec(r=4), batch_size=2), dtype="float32", device="cpu", processes=1, threads=1,
        owner=1, versions=library_versions(),
    )  # fmt: skip
    from datasets import Dataset

    rows = {
        "input_ids": [[3, 9, 10, 11, 12, 13, 4], [3, 20, 21, 22]],
        "completion_mask": [[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1]],
    }
    ours = Trainer(
        model=_load(job), args=_settings(job), train_dataset=Dataset.from_dict(rows),
        processing_class=parent.chat_tokenizer(), peft_config=_lora(job), job=job, earlier=[],
    )  # fmt: skip
    assert ours._plain_head
    for name, weight in ours.model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    batch = next(iter(ours.get_train_dataloader()))
    assert (batch["labels"] != -100).sum() == 6

    def slopes(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, [w for w in ours.model.parameters() if w.requires_grad]))

    mine = ours.compute_loss(ours.model, dict(batch))
    for other in (
        SFTTrainer.compute_loss(ours, ours.model, dict(batch)),
        ours.model(**{k: batch[k] for k in ("input_ids", "attention_mask", "labels")}).loss,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
        again = ours.compute_loss(ours.model, dict(batch))
        for a, b in zip(slopes(again), slopes(other), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    assert ours.tokens == 3 * 11


def test_only_whole_checkpoints_count(tmp_path: Path):
    for step in (5, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-5" / "whole").touch()
    (tmp_path / "checkpoint-10" / "whole").touch()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-10"]
    assert checkpoints(tmp_path / "none") == []
