"""Whole runs through accelerate. Each starts a process with torch and TRL: few, and they share results."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from regrow.checkpoint import PROVENANCE, Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.tune import Launch, Tuned, tune
from regrow.tune.recipe import Continual, Distill, Lora, Sft, TeacherCorrection
from tests.tiny import tiny_checkpoint
from tests.tune.training import sentences

# Dropout makes the weights depend on every random number that was drawn: resuming must restore them all.
SETTINGS = {
    "trainable": Lora(r=4, alpha=16, dropout=0.1), "learning_rate": 2e-2, "max_steps": 40, "batch_size": 4,
    "save_every": 4,
}  # fmt: skip
RECIPE = Sft(**SETTINGS)


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
def followed() -> list[dict]:
    return []


@pytest.fixture(scope="module")
def tuned(place: Path, parent: Checkpoint, data: Path, followed: list[dict]) -> Tuned:
    return tune(parent, data, RECIPE, place / "tuned", follower=followed.append)


def test_training_lowers_the_loss(tuned: Tuned):
    losses = [entry["loss"] for entry in tuned.log]
    assert [entry["step"] for entry in tuned.log] == list(range(1, 41))
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
    assert tuned.summary["last_loss"] < tuned.summary["first_loss"]
    last = tuned.log[-1]
    assert set(last) == {
        "step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "seconds", "memory_bytes"
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
    assert 0 <= tuned.summary["merge_difference"] < 1e-4
    assert tuned.summary["merged_loss"] < tuned.summary["parent_loss"]
    assert Tuned.open(tuned.folder) == tuned
    # Nothing of this machine in what is kept but where the materials lay, which the statement of origin tells;
    # nothing left beside it.
    for file in tuned.folder.rglob("*.json"):
        assert file.parent.name == PROVENANCE or str(tuned.folder.parent) not in file.read_text(), file
    assert not list(tuned.folder.parent.glob(".tuned*"))


def test_the_merged_model_says_what_it_learned(tuned: Tuned, parent: Checkpoint):
    tokenizer = parent.chat_tokenizer()
    turns = [{"role": "user", "content": "Say 3."}, {"role": "assistant", "content": "abc abc abc abc "}]
    ids = torch.tensor([tokenizer.apply_chat_template(turns)["input_ids"]])
    with torch.inference_mode():
        before = parent.load(dtype="float32")(ids, labels=ids).loss
        after = tuned.checkpoint.load(dtype="float32")(ids, labels=ids).loss
    assert after < before - 0.3


def test_the_follower_is_handed_the_log_as_it_is_made(tuned: Tuned, followed: list[dict]):
    assert followed == tuned.log


@pytest.fixture(scope="module")
def teacher(place: Path) -> Checkpoint:
    return tiny_checkpoint(place / "teacher", dtype=torch.bfloat16, initializer_range=0.15, seed=1)


@pytest.mark.parametrize(
    ("method", "processes"),
    [
        ("sft", 1),
        pytest.param("sft", 2, marks=pytest.mark.processes),
        pytest.param("distill", 1, marks=pytest.mark.processes),
        pytest.param("distill", 2, marks=pytest.mark.processes),
    ],
)
def test_an_interrupted_run_ends_like_an_unbroken_one(
    place: Path,
    parent: Checkpoint,
    teacher: Checkpoint,
    data: Path,
    tuned: Tuned,
    method: str,
    processes: int,
):
    recipe = RECIPE if method == "sft" else Distill(**SETTINGS)
    place = place / f"{method}-{processes}"
    launch = Launch(processes=processes)
    unbroken = (
        tuned
        if (method, processes) == ("sft", 1)
        else tune(parent, data, recipe, place / "unbroken", teacher=teacher, launch=launch)
    )
    work = place / "work"
    ask = [parent.folder, teacher.folder, data, recipe.model_dump_json(), place / "broken", work, processes]

    with asked(ask) as asker:  # the pod is evicted: SIGTERM, and time to save
        wait_for(lambda: saved(work), 240)
        workers = workers_of(asker)
        assert len(workers) == processes
        asker.send_signal(signal.SIGTERM)
        assert asker.wait(120) == 75
    wait_for(lambda: not any(alive(worker) for worker in workers), 15)
    (evicted,) = [json.loads(path.read_text())["step"] for path in work.glob("*/interrupted.json")]
    assert saved(work)[-1] == evicted < 40

    with asked(ask) as asker:  # the machine dies: kill -9, no time for anything
        wait_for(lambda: saved(work)[-1] >= evicted + 4, 240)
        workers = workers_of(asker)
        os.killpg(asker.pid, signal.SIGKILL)
    # The one who asked died without a word; the workers are in another session and must notice.
    wait_for(lambda: not any(alive(worker) for worker in workers), 15)
    assert not (place / "broken").exists()

    resumed = tune(parent, data, recipe, place / "broken", work=work, teacher=teacher, launch=launch)
    assert evicted < resumed.summary["resumed_from"] < 40
    assert resumed.checkpoint.digest == unbroken.checkpoint.digest != parent.digest
    assert [e["loss"] for e in resumed.log] == [e["loss"] for e in unbroken.log]
    assert [e["tokens"] for e in resumed.log] == [e["tokens"] for e in unbroken.log]
    assert not work.exists()


@pytest.mark.processes
def test_two_processes_are_one(place: Path, parent: Checkpoint, data: Path):
    recipe = Sft(**SETTINGS | {"trainable": Lora(r=4), "max_steps": 10})  # dropout differs between processes
    one, two = (
        tune(parent, data, recipe, place / f"by-{count}", launch=Launch(processes=count)) for count in (1, 2)
    )
    assert two.summary["micro_batch_size"] == 2 and one.summary["micro_batch_size"] == 4
    assert [e["tokens"] for e in two.log] == [e["tokens"] for e in one.log]
    # bfloat16 rounds sums over two halves otherwise than the whole.
    assert [e["loss"] for e in two.log] == pytest.approx([e["loss"] for e in one.log], rel=2e-2)


@pytest.mark.processes
def test_two_machines_are_one(place: Path, parent: Checkpoint, data: Path):
    recipe = Sft(**SETTINGS | {"trainable": Lora(r=4), "max_steps": 6})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "regrow.cli", "tune", str(parent.folder), "--data", str(data), "--recipe",
        str(place / "recipe.yaml"), "--nodes", "2", "--main-address", "127.0.0.1", "--main-port", str(port), "--json",
    ]  # fmt: skip
    (place / "recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))
    machines = [
        subprocess.Popen(
            [*command, "--node-rank", str(rank), "--out", str(place / f"machine-{rank}" / "out")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [machine.communicate(timeout=400) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    first = json.loads(said[0][0])
    assert first["processes"] == 2 and first["steps"] == 6 and first["last_loss"] < first["first_loss"]
    assert Tuned.open(place / "machine-0" / "out").checkpoint.digest == first["checkpoint"]
    assert not (place / "machine-1" / "out").exists()


@contextmanager
def asked(arguments: list):
    """A process that asks for a run, in a session of its own."""
    ask = (
        "import sys; from pathlib import Path; from regrow.checkpoint import Checkpoint;"
        "from regrow.errors import RegrowError; from regrow.tune import Launch, Recipe, tune;"
        "from pydantic import TypeAdapter; p, t, d, r, o, w, n = sys.argv[1:]\n"
        "try: tune(Checkpoint.open(p), Path(d), TypeAdapter(Recipe).validate_json(r), Path(o), work=Path(w),"
        " teacher=Checkpoint.open(t), launch=Launch(processes=int(n)))\n"
        "except RegrowError as error: sys.exit(error.exit_status)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", ask, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def saved(work: Path) -> list[int]:
    """Steps of the whole checkpoints in a work folder."""
    return sorted(int(path.parent.name.split("-")[-1]) for path in work.glob("*/steps/checkpoint-*/whole"))


def workers_of(asker: "subprocess.Popen") -> list[psutil.Process]:
    found = psutil.Process(asker.pid).children(recursive=True)
    return [
        p
        for p in found
        if "regrow.tune.worker" in p.cmdline()
        and "launch" not in " ".join(p.cmdline())
        and "torch.distributed" not in " ".join(p.cmdline())
    ]


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_failing_worker_says_why(tmp_path: Path, data: Path):
    parent = tiny_checkpoint(tmp_path / "parent")
    wild = Sft(learning_rate=1e30, warmup_ratio=0, max_steps=5, batch_size=2)
    with pytest.raises(
        RegrowError,
        match=r"step \d: the loss is (nan|inf) \(batch: rows \d+, \d+ of the data\); lower recipe",
    ) as error:
        tune(parent, data, wild, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_before_anything_starts(tmp_path: Path, monkeypatch, tiny, data: Path):
    def started(*_args, **_kwargs):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    out = tmp_path / "out"
    columns = tmp_path / "columns.jsonl"
    columns.write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(InputError, match=r"columns\.jsonl: no column instruction"):
        tune(tiny, columns, RECIPE, out)
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        tune(tiny, tmp_path / "nothing.jsonl", RECIPE, out)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="already exists"):
        tune(tiny, data, RECIPE, tmp_path / "there")
    with pytest.raises(InputError, match=r"needs the unpruned model; name it with --teacher"):
        tune(tiny, data, Distill(), out)
    with pytest.raises(InputError, match=r"needs the unpruned model; name it with --teacher"):
        tune(tiny, data, TeacherCorrection(), out)
    with pytest.raises(InputError, match="continual takes 2 of them, not 1"):
        tune(tiny, data, Continual(), out)
    other = tiny_checkpoint(tmp_path / "other", vocab_size=300)
    with pytest.raises(InputError, match=r"300 tokens"):
        tune(tiny, data, Distill(), out, teacher=other)
    with pytest.raises(InputError, match=r"batch_size 8: cannot be shared by 3 processes"):
        tune(tiny, data, Sft(), out, launch=Launch(processes=3))
    with pytest.raises(InputError, match=r"main_port: several machines must agree"):
        tune(tiny, data, Sft(), out, launch=Launch(nodes=2))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="qlora: needs a CUDA GPU"):
            tune(tiny, data, Sft(trainable=Lora(kind="qlora")), out)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"main_port {port}: is in use on this machine"):
            tune(tiny, data, Sft(), out, launch=Launch(processes=2, main_port=port))
    (tiny.folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        tune(tiny, data, RECIPE, out)
    assert not out.exists()


def test_a_killed_worker_is_named(tmp_path: Path, tiny, data: Path):
    from regrow.tune.data import encode, read_rows
    from regrow.tune.follow import OutOfMemoryError, _failure
    from regrow.tune.prepare import prepare

    examples = encode(read_rows(data, RECIPE), tiny.chat_tokenizer(), RECIPE)
    job = prepare(tiny, None, examples, RECIPE, tmp_path / "work", Launch())
    words = ["Traceback", "subprocess.CalledProcessError: Command '[...]' died with <Signals.SIGKILL: 9>."]
    killed = _failure(job, 1, words)
    assert isinstance(killed, OutOfMemoryError) and "was killed" in str(killed)
    assert str(_failure(job, 3, ["cannot allocate"])).endswith("status 3: cannot allocate")


def test_jobs_that_differ_never_share_a_folder(tiny, tmp_path: Path):
    from regrow.tune.data import Examples
    from regrow.tune.prepare import prepare

    def job(checkpoint=tiny, recipe=RECIPE, teacher=None, words=7, launch=None):
        examples = Examples(tokens=[[3, words]], prompts=[1], rows=[1])
        return prepare(checkpoint, teacher, examples, recipe, tmp_path, launch or Launch())

    same = [job() for _ in range(2)]
    assert same[0].folder == same[1].folder and same[0].folder.parent == tmp_path
    other = tiny.model_copy(update={"digest": "f"})
    distill = Distill(**SETTINGS)
    changes = [
        {"seed": 1},
        {"learning_rate": 1e-4},
        {"max_steps": 41},
        {"trainable": Lora(r=8)},
        {"packing": True},
    ]
    others = [job(recipe=RECIPE.model_copy(update=change)) for change in changes]
    others += [job(words=8), job(other), job(launch=Launch(processes=2))]
    others += [job(recipe=distill, teacher=tiny), job(recipe=distill, teacher=other)]
    assert len({one.folder for one in [same[0], *others]}) == 1 + len(others)
