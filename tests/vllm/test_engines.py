"""The engines against a real vLLM: in process, and behind its server, which is killed once."""

import json
import os
import subprocess
import threading
import time

import pytest

from infra.vllm.serve import ENVIRONMENT, ROOT
from regrow.errors import RegrowError
from regrow.records import Record
from regrow.selfdata import SelfData, SelfDataSpec, distill
from regrow.selfdata.engines import EndpointSpec, Generation, Sampling, TransformersEngine
from regrow.selfdata.engines.endpoint import EndpointEngine
from tests.real_models import smollm2

pytestmark = [pytest.mark.vllm, pytest.mark.real]

TOKENS = 40
QUESTIONS = [
    "What is the capital of France?",
    "Name three animals that live in the sea.",
    "Write one sentence about rain.",
    "How many days are in a week?",
    "What do plants need to grow?",
    "Translate 'good morning' into Spanish.",
    "Which is heavier, a kilogram of iron or a kilogram of feathers?",
    "Give a short definition of gravity.",
    "What colour do blue and yellow make?",
    "Why do leaves fall in autumn?",
    "Say hello to a new neighbour.",
    "What is 7 times 8?",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return smollm2(tmp_path_factory.mktemp("engines") / "base", "float32")


@pytest.fixture(scope="module")
def prompts(model):
    engine = TransformersEngine(model)
    texts = [engine.render([{"role": "user", "content": question}]) for question in QUESTIONS]
    return texts, engine.generate(texts, Sampling(max_new_tokens=TOKENS))


@pytest.fixture(scope="module")
def server(model, start):
    """The running server, in a list: the test that kills it puts another into its place."""
    return [start(model)]


def records() -> list[Record]:
    return [
        Record(instruction=question, reference="I do not know.", answer=None, source="questions")
        for question in QUESTIONS
    ]


def agreement(ours: list[Generation], theirs: list[Generation]) -> float:
    """Share of answers that are the same to the last character."""
    return sum(a.text.strip() == b.text.strip() for a, b in zip(ours, theirs, strict=True)) / len(ours)


def spec_of(url: str, **settings) -> EndpointSpec:
    return EndpointSpec(**{"url": url, "model": "smollm2", "in_flight": 16, "retries": 2} | settings)


def test_the_server_writes_what_transformers_writes(model, prompts, server):
    texts, expected = prompts
    wrote = EndpointEngine(model, spec_of(server[0].url)).generate(texts, Sampling(max_new_tokens=TOKENS))
    # In float32 a tie of two tokens is all that can part them; one answer may.
    assert agreement(wrote, expected) >= 11 / 12
    assert [one.finished for one in wrote].count(True) >= 3
    for one, other in zip(wrote, expected, strict=True):
        assert one.prompt_tokens == other.prompt_tokens


def test_sampling_repeats_with_its_seed(model, prompts, server):
    engine = EndpointEngine(model, spec_of(server[0].url))
    settings = Sampling(max_new_tokens=12, temperature=0.8, top_p=0.95)
    first = engine.generate(prompts[0][:4], settings, [3, 4, 5, 6])
    assert agreement(engine.generate(prompts[0][:4], settings, [3, 4, 5, 6]), first) >= 3 / 4
    other = engine.generate(prompts[0][:4], settings, [13, 14, 15, 16])
    assert agreement(other, first) < 1


def test_a_killed_server_loses_nothing_and_doubles_nothing(model, server, start, tmp_path):
    given = records()

    def spec(url: str) -> SelfDataSpec:
        endpoint = spec_of(url, retries=1, timeout=60)
        return SelfDataSpec(max_new_tokens=TOKENS, shard_size=3, engine="endpoint", endpoint=endpoint)

    whole = distill(model, given, "open", spec(server[0].url), tmp_path / "whole")
    work = tmp_path / "work"

    def kill_after_a_shard() -> None:
        while not list(work.glob("shard-*")):
            time.sleep(0.005)
        server[0].kill()

    killer = threading.Thread(target=kill_after_a_shard)
    killer.start()
    with pytest.raises(RegrowError, match="run the same command again"):
        distill(model, given, "open", spec(server[0].url), tmp_path / "out", work)
    killer.join()
    assert not (tmp_path / "out").exists()
    done = len(list(work.glob("shard-*")))
    assert 1 <= done < 4
    server[0] = start(model)
    data = distill(model, given, "open", spec(server[0].url), tmp_path / "out", work)
    assert data.summary["shards_reused"] == done
    assert [row["id"] for row in data.rows()] == [record.id for record in given]
    same = sum(a["response"] == b["response"] for a, b in zip(data.rows(), whole.rows(), strict=True))
    assert same >= 11
    server[0].kill()  # the tests after this need the memory


def test_vllm_in_process_writes_what_transformers_writes(python, model, tmp_path):
    """The whole of `distill`, four shards at one time, in the environment that has vLLM."""
    common = {"max_new_tokens": TOKENS, "shard_size": 3}
    expected = distill(model, records(), "open", SelfDataSpec(**common), tmp_path / "expected").rows()
    vllm = {"dtype": "float32", "max_model_len": 1024, "enforce_eager": True, "max_num_seqs": 8}
    job = {
        "model": str(model.folder),
        "records": [record.model_dump() for record in records()],
        "spec": common | {"engine": "vllm", "vllm": vllm},
        "out": str(tmp_path / "out"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [python, ROOT / "tests" / "vllm" / "in_process.py", tmp_path / "job.json"],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    data = SelfData.open(tmp_path / "out")
    rows = data.rows()
    assert data.summary["shards"] == 4
    assert [row["id"] for row in rows] == [row["id"] for row in expected]
    assert {row["engine"] for row in rows} == {"vllm"}
    assert sum(a["response"] == b["response"] for a, b in zip(rows, expected, strict=True)) >= 11
    assert [row["decision"] for row in rows].count("rewritten") >= 3
    for one, other in zip(rows, expected, strict=True):
        assert one["prompt_tokens"] == other["prompt_tokens"]
