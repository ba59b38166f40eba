import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.tune.data import Examples, loss_positions
from regrow.tune.teacher import TopKLogits, same_vocabulary, write_top_k
from tests.families import SPREAD
from tests.tiny import tiny_checkpoint

LENGTHS, PROMPTS = [9, 30, 4, 1, 17, 22, 6, 12], [3, 5, 4, 0, 0, 21, 1, 2]
DRAW = torch.Generator().manual_seed(1)
TOKENS = [torch.randint(5, 200, (length,), generator=DRAW).tolist() for length in LENGTHS]
DATA = Examples(tokens=TOKENS, prompts=PROMPTS).digest
FAMILIES = {
    "llama": {},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 16},
    "granite": {"logits_scaling": 2.0},
    "phi": {"tie_word_embeddings": False},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("teacher") / "model", **SPREAD)


def write(teacher: Checkpoint, out: Path, **changes) -> None:
    settings = {"k": 6, "shard_size": 3, "max_tokens": 60, "device": "cpu"} | changes
    write_top_k(teacher, TOKENS, PROMPTS, out, **settings)


def store(teacher: Checkpoint, out: Path, *, k: int = 6, temperature: float = 1.0) -> TopKLogits:
    return TopKLogits.open(out, teacher=teacher.digest, data=DATA, k=k, temperature=temperature)


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def reference(teacher: Checkpoint, temperature: float = 1.0, dtype: str = "float32") -> list[torch.Tensor]:
    """The whole log-softmax of each example alone, at the positions whose labels are not masked."""
    model = teacher.load(dtype=dtype, device="cpu")
    found = []
    for ids, prompt in zip(TOKENS, PROMPTS, strict=True):
        masked = [position < prompt for position in range(len(ids))]
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
        counts = torch.tensor([not each for each in masked[1:]], dtype=torch.bool)
        found.append((logits.float() / temperature).log_softmax(-1)[counts])
    return found


@pytest.mark.parametrize(
    ("prompt", "length", "expected"),
    [
        (3, 6, [2, 3, 4]),
        (0, 4, [0, 1, 2]),
        (1, 4, [0, 1, 2]),
        (4, 4, []),
        (5, 4, []),
        (0, 1, []),
        (0, 0, []),
        (3, 4, [2]),
    ],
)
def test_a_position_counts_where_its_next_token_is_no_prompt(prompt, length, expected):
    assert list(loss_positions(prompt, length)) == expected


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_whole_softmax_rounded_once(tmp_path: Path, family, temperature):
    teacher = tiny_checkpoint(tmp_path / "teacher", family=family, **SPREAD | FAMILIES[family])
    write(teacher, tmp_path / "store", temperature=temperature)
    found = store(teacher, tmp_path / "store", temperature=temperature)
    assert len(found) == len(TOKENS)
    for (ids, logprobs), whole in zip(found, reference(teacher, temperature), strict=True):
        best, expected = whole.topk(6)
        assert torch.equal(ids, expected)
        assert ids.dtype == torch.int64
        assert logprobs.dtype == torch.float32
        # Half a unit of float16's last place, and as much again where the total is put right.
        torch.testing.assert_close(logprobs, best, rtol=2**-10, atol=2**-10)
        # What is left for the tail is that of the float32 softmax, not of rounded values.
        torch.testing.assert_close(logprobs.exp().sum(-1), best.exp().sum(-1), rtol=1e-6, atol=1e-6)


def test_stores_the_loss_positions_alone(teacher, tmp_path: Path):
    write(teacher, tmp_path / "store")
    rows = [len(ids) for ids, _ in store(teacher, tmp_path / "store")]
    assert rows == [6, 25, 0, 0, 16, 1, 5, 10]
    # 6 k + 4 bytes a position, the offsets and a header for each of three shards.
    size = sum(len(one) for name, one in content(tmp_path / "store").items() if name.startswith("shard"))
    assert size - sum(rows) * (6 * 6 + 4) < 3 * 500


def test_the_whole_vocabulary_sums_to_one(teacher, tmp_path: Path):
    vocabulary = teacher.config["vocab_size"]
    write(teacher, tmp_path / "store", k=vocabulary)
    for ids, logprobs in store(teacher, tmp_path / "store", k=vocabulary):
        assert torch.equal(ids.sort(-1).values, torch.arange(vocabulary).expand_as(ids))
        torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(len(ids)), rtol=0, atol=2e-6)


def test_batches_and_chunks_do_not_matter(teacher, tmp_path: Path, monkeypatch):
    write(teacher, tmp_path / "alone", max_tokens=1)
    write(teacher, tmp_path / "together", max_tokens=10_000, shard_size=8)
    monkeypatch.setattr("regrow.tune.teacher.write._LOGITS", 1)
    write(teacher, tmp_path / "row by row")
    alone = store(teacher, tmp_path / "alone")
    for other in ("together", "row by row"):
        for (ids, logprobs), (same, alike) in zip(alone, store(teacher, tmp_path / other), strict=True):
            assert torch.equal(ids, same)
            torch.testing.assert_close(logprobs, alike, rtol=2**-10, atol=2**-10)


def test_never_holds_all_logits(teacher, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("regrow.tune.teacher.write._LOGITS", 4 * teacher.config["vocab_size"])
    rows = []
    plain = torch.nn.functional.linear

    def watched(state, weight, bias=None):
        if weight.shape[0] == teacher.config["vocab_size"]:
            rows.append(state.shape[:-1].numel())
        return plain(state, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    write(teacher, tmp_path / "store", max_tokens=10_000)
    assert max(rows) == 4


def test_half_precision_rounds_as_the_model_does(teacher, tmp_path: Path):
    write(teacher, tmp_path / "store", dtype="bfloat16", k=20, max_tokens=1)
    assert json.loads((tmp_path / "store/store.json").read_text())["dtype"] == "bfloat16"
    expected = reference(teacher, dtype="bfloat16")
    for (ids, logprobs), whole in zip(store(teacher, tmp_path / "store", k=20), expected, strict=True):
        # Fewer rows in one product may move a logit by bfloat16's last place, 1/32 where it is between 4 and 8.
        torch.testing.assert_close(logprobs, whole.gather(-1, ids), rtol=0, atol=0.07)


KILLED = """
import json, sys, time
from pathlib import Path
from regrow.checkpoint import Checkpoint
from regrow.tune.teacher import write_top_k
folder, out, tokens, prompts = json.loads(sys.argv[1])
def progress(done, total):
    print(done, flush=True)
    if done > 3:
        time.sleep(120)
write_top_k(Checkpoint.open(folder), tokens, prompts, Path(out), k=6, shard_size=3, max_tokens=1,
            device="cpu", progress=progress)
"""


def test_continues_after_a_kill(teacher, tmp_path: Path):
    arguments = json.dumps([str(teacher.folder), str(tmp_path / "killed"), TOKENS, PROMPTS])
    child = subprocess.Popen([sys.executable, "-c", KILLED, arguments], stdout=subprocess.PIPE, text=True)
    while int(child.stdout.readline()) <= 3:
        pass
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert sorted(content(tmp_path / "killed")) == ["shard-00000.safetensors", "store.json"]
    assert not TopKLogits.complete(tmp_path / "killed")
    with pytest.raises(
        InputError,
        match=r"killed: unfinished: 1 of 3 shards; write the teacher's log-probabilities again to continue",
    ):
        store(teacher, tmp_path / "killed")
    first = tmp_path / "killed" / "shard-00000.safetensors"
    before = first.stat()
    # What a kill in the middle of writing leaves.
    (tmp_path / "killed" / ".shard-00001.safetensors.partial-77").write_bytes(b"half")
    seen = []
    write(teacher, tmp_path / "killed", max_tokens=1, progress=lambda done, total: seen.append((done, total)))
    assert (before.st_ino, before.st_mtime_ns) == (first.stat().st_ino, first.stat().st_mtime_ns)
    assert seen == [(3, 8), (4, 8), (5, 8), (6, 8), (7, 8), (8, 8)]
    write(teacher, tmp_path / "unbroken", max_tokens=1)
    assert content(tmp_path / "killed") == content(tmp_path / "unbroken")
    assert TopKLogits.complete(tmp_path / "killed")


def test_a_finished_store_needs_no_model(teacher, tmp_path: Path, monkeypatch):
    write(teacher, tmp_path / "store")
    before = content(tmp_path / "store")
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: pytest.fail("loaded"))
    write(teacher, tmp_path / "store")
    assert content(tmp_path / "store") == before


def test_two_processes_write_what_one_does(teacher, tmp_path: Path):
    write(teacher, tmp_path / "one")
    write(teacher, tmp_path / "two", rank=1, processes=2)
    assert sorted(content(tmp_path / "two")) == ["shard-00001.safetensors", "store.json"]
    assert not TopKLogits.complete(tmp_path / "two")
    write(teacher, tmp_path / "two", rank=0, processes=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: raw[:40],
        lambda raw: b"",
        lambda raw: bytes(len(raw)),
        lambda raw: raw + b"\0",
        lambda raw: b"\x02" + bytes(7) + b"[]",
        lambda raw: b'\x0a\0\0\0\0\0\0\0{"ids":{}}',
    ],
)
def test_a_damaged_shard_is_written_again(teacher, tmp_path: Path, damage, caplog):
    write(teacher, tmp_path / "store")
    before = content(tmp_path / "store")
    torn = tmp_path / "store" / "shard-00001.safetensors"
    torn.write_bytes(damage(torn.read_bytes()))
    assert not TopKLogits.complete(tmp_path / "store")
    with pytest.raises(InputError, match="unfinished: 2 of 3 shards"):
        store(teacher, tmp_path / "store")
    kept = (tmp_path / "store" / "shard-00002.safetensors").stat().st_mtime_ns
    write(teacher, tmp_path / "store")
    assert content(tmp_path / "store") == before
    assert f"{torn}: damaged; this shard is written again" in caplog.text
    assert (tmp_path / "store" / "shard-00002.safetensors").stat().st_mtime_ns == kept


def test_a_shard_of_another_place_is_no_shard_of_this(teacher, tmp_path: Path):
    write(teacher, tmp_path / "store")
    before = content(tmp_path / "store")
    (tmp_path / "store" / "shard-00001.safetensors").write_bytes(before["shard-00000.safetensors"])
    write(teacher, tmp_path / "store")
    assert content(tmp_path / "store") == before


def test_the_folder_of_another_teacher_stays(teacher, tmp_path: Path):
    other = tiny_checkpoint(tmp_path / "other", seed=9, **SPREAD)
    out = tmp_path / "store"
    write(teacher, out)
    before = content(out)
    another = f"another teacher ({teacher.digest[:12]}, not {other.digest[:12]})"
    message = f"{out}: written for {another}; name another folder, or remove this one"
    for call in (lambda: write(other, out), lambda: store(other, out)):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            call()
    message = (
        f"{out}: written for {another} and k 6 (not 7) and temperature 1.0 (not 2.0); name another folder"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        write(other, out, k=7, temperature=2.0)
    with pytest.raises(InputError, match=re.escape(message)):
        store(other, out, k=7, temperature=2.0)
    with pytest.raises(InputError, match=re.escape(f"other examples ({DATA[:12]}, not ")):
        write_top_k(teacher, TOKENS[1:], PROMPTS[1:], out, k=6, shard_size=3)
    with pytest.raises(
        InputError, match=re.escape(f"{out}: written for other examples ({DATA[:12]}, not abc);")
    ):
        TopKLogits.open(out, teacher=teacher.digest, data="abc", k=6, temperature=1.0)
    with pytest.raises(InputError, match=re.escape("dtype float32 (not bfloat16)")):
        write(teacher, out, dtype="bfloat16")
    with pytest.raises(InputError, match=re.escape("shard_size 3 (not 4)")):
        write(teacher, out, shard_size=4)
    assert content(out) == before


def test_a_folder_of_other_files_stays(teacher, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("long")
    with pytest.raises(InputError, match=f"^{tmp_path / 'mine'}: holds other files; name another folder$"):
        write(teacher, tmp_path / "mine")
    assert content(tmp_path / "mine") == {"thesis.txt": b"long"}
    with pytest.raises(
        InputError, match=r"mine: no store\.json; no teacher's log-probabilities were written"
    ):
        store(teacher, tmp_path / "mine")
    assert not TopKLogits.complete(tmp_path / "mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k: 0 is not between 1 and the teacher's vocabulary of 261 tokens"),
        ({"k": 262}, "k: 262 is not between 1 and the teacher's vocabulary of 261 tokens"),
        ({"temperature": 0.0}, "temperature: 0.0 is not a positive number"),
        ({"temperature": float("nan")}, "temperature: nan is not a positive number"),
        ({"shard_size": 0}, "shard_size: 0 is not at least 1"),
        ({"max_tokens": 0}, "max_tokens: 0 is not at least 1"),
        ({"rank": 2, "processes": 2}, "rank: 2 is not one of 2 processes"),
    ],
)
def test_settings_that_cannot_be(teacher, tmp_path: Path, changes, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        write(teacher, tmp_path / "store", **changes)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("tokens", "prompts", "message"),
    [
        ([], [], "tokens: no examples; there is nothing to write"),
        ([[1, 2]], [], "prompts: 0 for 1 examples; give one for each"),
        ([[1, 2], [1, 900]], [0, 0], "example 1: token 900 is not one of the teacher's 261; "),
        ([[1, 2], [-100, 9]], [0, 0], "example 1: token -100 is not one of the teacher's 261; "),
    ],
)
def test_examples_that_cannot_be(teacher, tmp_path: Path, tokens, prompts, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        write_top_k(teacher, tokens, prompts, tmp_path / "store", k=6)
    assert not (tmp_path / "store").exists()


def test_a_store_of_another_format_is_refused(teacher, tmp_path: Path):
    write(teacher, tmp_path / "store")
    file = tmp_path / "store" / "store.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    message = rf"^{file}: format 2, not 1; write it again into another folder$"
    with pytest.raises(InputError, match=message):
        store(teacher, tmp_path / "store")
    with pytest.raises(InputError, match=message):
        write(teacher, tmp_path / "store")
    file.write_text('{"format": 1, "k": "many"}')
    with pytest.raises(InputError, match=rf"^{file}: teacher: Field required; write it again"):
        store(teacher, tmp_path / "store")


def test_logits_that_are_no_numbers_stop_it(tmp_path: Path):
    from tests.tiny import scale_weight

    teacher = scale_weight(tiny_checkpoint(tmp_path / "teacher"), "model.norm.weight", float("nan"))
    with pytest.raises(RegrowError, match="the teacher's logits are not finite numbers in float32"):
        write(teacher, tmp_path / "store")
    assert sorted(content(tmp_path / "store")) == ["store.json"]


def test_reads_in_any_order_with_few_shards_open(teacher, tmp_path: Path, monkeypatch):
    write(teacher, tmp_path / "store", shard_size=1)
    expected = list(store(teacher, tmp_path / "store"))
    monkeypatch.setattr(TopKLogits, "_OPEN", 2)
    found = pickle.loads(pickle.dumps(store(teacher, tmp_path / "store")))
    for example in (7, 0, 1, 7, 4, 0, 6, 7):
        for got, want in zip(found[example], expected[example], strict=True):
            assert torch.equal(got, want)
        assert len(found._shards) <= 2
    with pytest.raises(IndexError):
        found[8]
    with pytest.raises(IndexError):
        found[-1]


def test_what_is_read_can_be_changed(teacher, tmp_path: Path):
    write(teacher, tmp_path / "store")
    before = content(tmp_path / "store")
    found = store(teacher, tmp_path / "store")
    ids, logprobs = (each.clone() for each in found[1])
    for each in found[1]:
        each.zero_()
    assert torch.equal(found[1][0], ids)
    assert torch.equal(found[1][1], logprobs)
    assert content(tmp_path / "store") == before


def rename_token(checkpoint: Checkpoint, number: int, name: str) -> None:
    file = checkpoint.folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    old = next(token for token, i in vocabulary.items() if i == number)
    tokenizer["model"]["vocab"] = {name if t == old else t: i for t, i in vocabulary.items()}
    file.write_text(json.dumps(tokenizer))


def test_one_vocabulary_is_told_without_the_weights(teacher, tmp_path: Path):
    student = tiny_checkpoint(tmp_path / "student", num_hidden_layers=2, seed=3)
    (student.folder / "model.safetensors").unlink()
    same_vocabulary(teacher, student)
    pair = f"{teacher.folder} and {student.folder}: different vocabularies"
    remedy = "distil into a student that was pruned from this teacher"
    was = teacher.tokenizer().convert_ids_to_tokens(40)
    rename_token(student, 40, "other")
    message = f"{pair}: token 40 is {was!r} in the teacher, 'other' in the student; {remedy}"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        same_vocabulary(teacher, student)
    config = json.loads((student.folder / "config.json").read_text()) | {"vocab_size": 256}
    (student.folder / "config.json").write_text(json.dumps(config))
    message = f"{pair}: the teacher has 261 tokens, the student 256; {remedy}"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        same_vocabulary(teacher, student)
    del config["vocab_size"]
    (student.folder / "config.json").write_text(json.dumps(config))
    message = f"{student.folder / 'config.json'}: no vocab_size; unknown architecture"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        same_vocabulary(teacher, student)
