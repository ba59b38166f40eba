"""Whole runs through accelerate. Each starts a process with torch and TRL: few, and they share results."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.tune import LoraSpec, Recipe, Tuned, tune
from tests.tiny import tiny_checkpoint

# Dropout makes the weights depend on every random number that was drawn: resuming must restore them all.
RECIPE = Recipe(
    lora=LoraSpec(r=4, alpha=16, dropout=0.1), learning_rate=2e-2, max_steps=40, batch_size=4, save_every=4
)


def sentences(path: Path) -> Path:
    rows = [{"instruction": f"Say {i % 5}.", "response": "abc " * (1 + i % 5)} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tune")


@pytest.fixture(scope="module")
def parent(place: Path) -> Checkpoint:
    checkpoint = tiny_checkpoint(place / "parent", dtype=torch.bfloat16, initializer_range=0.15)
    (checkpoint.folder / "LICENSE").write_text("terms")
    (checkpoint.folder / "README.md").write_text("the parent's card")
    return Checkpoint.open(checkpoint.folder)


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    return sentences(place / "data.jsonl")


@pytest.fixture(scope="module")
def tuned(place: Path, parent: Checkpoint, data: Path) -> Tuned:
    return tune(parent, data, RECIPE, place / "tuned")


def test_training_lowers_the_loss(tuned: Tuned):
    losses = [entry["loss"] for entry in tuned.log]
    assert [entry["step"] for entry in tuned.log] == list(range(1, 41))
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
    assert tuned.summary["last_loss"] < tuned.summary["first_loss"]
    last = tuned.log[-1]
    assert set(last) == {
        "step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "seconds"
    }  # fmt: skip
    assert tuned.summary["tokens"] == last["tokens"] > 40 * 4 * 20
    rates = [entry["learning_rate"] for entry in tuned.log]
    assert max(rates) == pytest.approx(2e-2, rel=1e-3) and rates[-1] < 1e-3 and rates[0] < rates[2]


def test_the_result_is_a_plain_model_folder(tuned: Tuned, parent: Checkpoint):
    from transformers import AutoModelForCausalLM

    folder = tuned.folder / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert {n: (i.dtype, i.shape) for n, i in tuned.checkpoint.tensors().items()} == {
        n: (i.dtype, i.shape) for n, i in parent.tensors().items()
    }
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "LICENSE"):
        assert (folder / name).read_bytes() == (parent.folder / name).read_bytes(), name
    assert parent.digest in (folder / "README.md").read_text()
    assert "card" not in (folder / "README.md").read_text()
    assert tuned.checkpoint.digest != parent.digest
    assert 0 <= tuned.summary["merge_difference"] < 3e-2
    assert Tuned.open(tuned.folder) == tuned
    # Nothing of this machine in what is kept, nothing left beside it.
    for file in tuned.folder.rglob("*.json"):
        assert str(tuned.folder.parent) not in file.read_text(), file
    assert not list(tuned.folder.parent.glob(".tuned*"))


def test_the_merged_model_says_what_it_learned(tuned: Tuned, parent: Checkpoint):
    tokenizer = parent.chat_tokenizer()
    turns = [{"role": "user", "content": "Say 3."}, {"role": "assistant", "content": "abc abc abc abc "}]
    ids = torch.tensor([tokenizer.apply_chat_template(turns)["input_ids"]])
    with torch.inference_mode():
        before = parent.load(dtype="float32")(ids, labels=ids).loss
        after = tuned.checkpoint.load(dtype="float32")(ids, labels=ids).loss
    assert after < before - 0.3


def test_killed_and_resumed_equals_unbroken(place: Path, parent: Checkpoint, data: Path, tuned: Tuned):
    out, work = place / "resumed", place / "work"
    ask = (
        "import sys; from pathlib import Path; from regrow.checkpoint import Checkpoint;"
        "from regrow.tune import Recipe, tune; p, d, r, o, w = sys.argv[1:];"
        "tune(Checkpoint.open(p), Path(d), Recipe.model_validate_json(r), Path(o), work=Path(w))"
    )
    arguments = [str(parent.folder), str(data), RECIPE.model_dump_json(), str(out), str(work)]
    asker = subprocess.Popen(
        [sys.executable, "-c", ask, *arguments],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: list(work.glob("*/steps/checkpoint-*/whole")), 120)
        workers = [
            p for p in psutil.Process(asker.pid).children(recursive=True) if "worker" in " ".join(p.cmdline())
        ]
        assert workers
    finally:
        os.killpg(asker.pid, signal.SIGKILL)
        asker.wait()
    # The one who asked died without a word; the worker is in another session and must notice.
    wait_for(lambda: not any(alive(worker) for worker in workers), 15)
    assert not out.exists()

    resumed = tune(parent, data, RECIPE, out, work=work)
    assert 0 < resumed.summary["resumed_from"] < 40
    assert resumed.checkpoint.digest == tuned.checkpoint.digest
    assert [e["loss"] for e in resumed.log] == [e["loss"] for e in tuned.log]
    assert [e["tokens"] for e in resumed.log] == [e["tokens"] for e in tuned.log]
    assert not work.exists()


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_failing_worker_says_why(tmp_path: Path, data: Path):
    parent = tiny_checkpoint(tmp_path / "parent")
    wild = Recipe(learning_rate=1e30, warmup_ratio=0, max_steps=5, batch_size=2)
    with pytest.raises(
        RegrowError, match=r"step \d: the loss is (nan|inf); lower recipe.learning_rate"
    ) as error:
        tune(parent, data, wild, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_before_anything_starts(tmp_path: Path, monkeypatch, tiny, data: Path):
    def started(*_args, **_kwargs):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    columns = tmp_path / "columns.jsonl"
    columns.write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(InputError, match=r"columns\.jsonl: no column instruction"):
        tune(tiny, columns, RECIPE, tmp_path / "out")
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        tune(tiny, tmp_path / "nothing.jsonl", RECIPE, tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="already exists"):
        tune(tiny, data, RECIPE, tmp_path / "there")
    (tiny.folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        tune(tiny, data, RECIPE, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["columns.jsonl", "there", "tiny"]


def test_a_killed_worker_is_named(tmp_path: Path):
    from regrow.tune.job import Job, library_versions
    from regrow.tune.launch import _failure

    job = Job(
        folder=tmp_path, checkpoint=tmp_path, parent="", data="", recipe=RECIPE, dtype="float32", device="cpu",
        processes=1, threads=1, owner=1, versions=library_versions(),
    )  # fmt: skip
    words = ["Traceback", "subprocess.CalledProcessError: Command '[...]' died with <Signals.SIGKILL: 9>."]
    assert "was killed" in str(_failure(job, 1, words))
    assert str(_failure(job, 3, ["cannot allocate"])).endswith("status 3: cannot allocate")


def test_jobs_that_differ_never_share_a_folder(tiny, tmp_path: Path):
    from regrow.tune.launch import _job

    same = [_job(tiny, "d", RECIPE, tmp_path) for _ in range(2)]
    assert same[0].folder == same[1].folder and same[0].folder.parent == tmp_path
    changes = [{"seed": 1}, {"learning_rate": 1e-4}, {"max_steps": 41}, {"lora": LoraSpec(r=8)}]
    others = [_job(tiny, "d", RECIPE.model_copy(update=change), tmp_path) for change in changes]
    others += [_job(tiny, "e", RECIPE, tmp_path)]
    others += [_job(tiny.model_copy(update={"digest": "f"}), "d", RECIPE, tmp_path)]
    assert len({job.folder for job in [same[0], *others]}) == 1 + len(others)
