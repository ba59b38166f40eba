"""Every recipe on tiny models of three families: the loss falls, and what is left is what was trained."""

import signal
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from regrow.checkpoint import Checkpoint
from regrow.tune.recipe import BitFit, Distill, Full, HeadAndLastK, Lora, Prefix, Sft
from tests.families import FAMILIES
from tests.tiny import tiny_checkpoint
from tests.tune.training import recipe_of, sentences, train

KINDS = {
    "lora": Lora(r=4),
    "rslora": Lora(kind="rslora", r=4, alpha=8),
    "dora": Lora(kind="dora", r=4),
    "some blocks": Lora(r=4, blocks=(1, 3)),
    "full": Full(),
    "full, some blocks": Full(blocks=(3,)),
    "head_and_last_k": HeadAndLastK(k=2),
    "bitfit": BitFit(),
    "prefix": Prefix(tokens=8),
}
DISTILL = {
    "online": {},
    "top_k": {"teacher": "top_k", "top_k": 16},
    "deep": {"hidden_states": True, "embeddings": True},
    "warm": {"temperature": 2.0, "responses": "reference"},
}


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma2"])
def models(request, tmp_path_factory) -> tuple[Checkpoint, Checkpoint]:
    """Student and teacher; qwen2 has biases and no tied head, gemma2 softens its logits."""
    place = tmp_path_factory.mktemp(request.param)
    settings = FAMILIES[request.param] | {
        "initializer_range": 0.15,
        "tie_word_embeddings": request.param != "qwen2",
    }
    student = tiny_checkpoint(place / "student", family=request.param, num_hidden_layers=4, **settings)
    return student, tiny_checkpoint(place / "teacher", family=request.param, seed=1, **settings)


@pytest.fixture(autouse=True)
def _signals():
    """A run takes over SIGINT and SIGTERM of its process; give them back to the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_and_only_what_is_named_changes(tmp_path: Path, models, kind):
    student, _ = models
    spec = KINDS[kind]
    rate = {"bitfit": 3e-2, "prefix": 0.3}.get(kind, 1e-2)
    run = train(
        student, sentences(tmp_path / "d.jsonl"), recipe_of(trainable=spec, learning_rate=rate), tmp_path
    )
    assert run.losses[-1] < 0.9 * run.losses[0]
    assert run.result["trainable_parameters"] == sum(w.numel() for w in run.weights().values()) > 0
    if kind == "prefix":
        assert not (run.folder / "merged").exists()
        adapted = PeftModel.from_pretrained(student.load(dtype="float32"), run.folder / "adapter").eval()
        assert mean_loss(adapted, student) < 0.9 * mean_loss(student.load(dtype="float32"), student)
        return
    before, after = weights_of(student), weights_of(run.merged)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if may_change(name, kind, before)}
    assert run.result["merged_loss"] == pytest.approx(run.result["tuned_loss"], rel=1e-4)
    assert run.result["merged_loss"] < run.result["parent_loss"]


def weights_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.folder / "model.safetensors")


def may_change(name: str, kind: str, weights: dict[str, torch.Tensor]) -> bool:
    linear = "proj.weight" in name
    if kind in ("lora", "rslora", "dora"):
        return linear
    if kind == "some blocks":
        return linear and (".1." in name or ".3." in name)
    if kind == "full":
        return True
    if kind == "full, some blocks":
        return ".layers." not in name or ".3." in name
    if kind == "head_and_last_k":
        head = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
        return name == head or ".2." in name or ".3." in name
    biases = any(one.endswith(".bias") for one in weights)
    return name.endswith(".bias") if biases else "norm" in name


@pytest.mark.parametrize("variant", DISTILL)
def test_distillation_brings_the_student_closer(tmp_path: Path, models, variant):
    student, teacher = models
    column = DISTILL[variant].get("responses", "response").replace("self", "response")
    data = sentences(tmp_path / "d.jsonl", column=column)
    shared = recipe_of(learning_rate=1e-2, trainable=Lora(r=8)).model_dump(exclude={"method", "responses"})
    run = train(student, data, Distill(**shared | DISTILL[variant]), tmp_path, teacher=teacher)
    assert run.losses[-1] < 0.9 * run.losses[0]
    assert run.losses[-1] > 0
    assert run.result["merged_loss"] == pytest.approx(run.result["tuned_loss"], rel=1e-4)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tmp_path: Path, models):
    student, _ = models
    shared = recipe_of(max_steps=2).model_dump(exclude={"method"})
    run = train(student, sentences(tmp_path / "d.jsonl"), Distill(**shared), tmp_path, teacher=student)
    assert run.losses[0] == pytest.approx(0, abs=1e-5)


def test_top_k_of_the_whole_vocabulary_is_the_online_loss(tmp_path: Path, models):
    student, teacher = models
    data = sentences(tmp_path / "d.jsonl")
    shared = recipe_of(max_steps=4).model_dump(exclude={"method"})
    online = train(student, data, Distill(**shared), tmp_path / "a", teacher=teacher)
    whole = Distill(**shared | {"teacher": "top_k", "top_k": student.config["vocab_size"]})
    written = train(student, data, whole, tmp_path / "b", teacher=teacher)
    assert written.losses == pytest.approx(online.losses, rel=2e-3)


def test_the_loss_is_that_of_stock_transformers(tmp_path: Path, models):
    student, _ = models
    data = sentences(tmp_path / "d.jsonl", count=8)
    run = train(student, data, recipe_of(max_steps=1), tmp_path)
    assert run.losses == [pytest.approx(mean_loss(student.load(dtype="float32"), student), rel=1e-5)]


def mean_loss(model, parent: Checkpoint) -> float:
    """Nats per response token of the first eight examples, by the model's own loss."""
    tokenizer = parent.chat_tokenizer()
    total, count = 0.0, 0
    for i in range(8):
        turns = [{"role": "user", "content": f"Say {i % 5}."}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        turns += [{"role": "assistant", "content": "abc " * (1 + i % 5)}]
        ids = tokenizer.apply_chat_template(turns)["input_ids"]
        labels = torch.tensor([[-100] * len(prompt) + ids[len(prompt) :]])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=labels).loss
        total += float(loss) * (len(ids) - len(prompt))
        count += len(ids) - len(prompt)
    return total / count


class TestASplitStepIsTheSameStep:
    """How a step is divided into forward passes must not show, in loss or weights."""

    def runs(self, tmp_path: Path, models, recipe: Sft, changes: dict[str, dict]) -> dict:
        student, _ = models
        data = sentences(tmp_path / "d.jsonl")
        return {
            name: train(student, data, recipe.model_copy(update=change), tmp_path / name)
            for name, change in changes.items()
        }

    @pytest.mark.parametrize("trainable", [Lora(r=4), HeadAndLastK(k=1)])
    def test_gradient_accumulation(self, tmp_path: Path, models, trainable):
        runs = self.runs(
            tmp_path, models, recipe_of(trainable=trainable, max_steps=6),
            {"1x8": {}, "2x4": {"micro_batch_size": 4}, "4x2": {"micro_batch_size": 2}},
        )  # fmt: skip
        assert [run.job.accumulation for run in runs.values()] == [1, 2, 4]
        assert differing(runs) == []

    def test_packed_is_unpadded(self, tmp_path: Path, models):
        runs = self.runs(
            tmp_path, models, recipe_of(max_steps=6),
            {"alone": {"micro_batch_size": 1}, "padded": {}, "packed": {"packing": True},
             "packed by four": {"packing": True, "micro_batch_size": 4}},
        )  # fmt: skip
        assert differing(runs) == []

    def test_computing_activations_twice(self, tmp_path: Path, models):
        for trainable in (Lora(r=4), Full()):
            runs = self.runs(
                tmp_path / trainable.kind, models, recipe_of(max_steps=3, trainable=trainable),
                {"kept": {}, "twice": {"gradient_checkpointing": True}},
            )  # fmt: skip
            assert differing(runs) == []


def differing(runs: dict) -> list[str]:
    """What of the runs' losses and weights is not the first one's."""
    first, *others = runs.values()
    assert first.losses[-1] < first.losses[0]
    found = []
    for run in others:
        found += ["losses"] * (run.losses != pytest.approx(first.losses, rel=1e-4))
        weights = run.weights()
        # AdamW divides by the gradient's own size: where that is next to nothing, rounding decides the sign.
        found += [
            name
            for name, weight in first.weights().items()
            if not torch.allclose(weights[name], weight, rtol=1e-2, atol=2e-3)
        ]
    return found
