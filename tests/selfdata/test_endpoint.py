"""The engine that asks a server: the same answers as in process, and nothing lost on its bad days."""

import socket

import pytest
from pydantic import ValidationError

from regrow.errors import InputError, RegrowError
from regrow.records import Record
from regrow.selfdata import SelfDataSpec, distill
from regrow.selfdata.engines import EndpointSpec, Sampling, TransformersEngine
from regrow.selfdata.engines.endpoint import EndpointEngine
from tests.openai_server import hang_up, serving, status
from tests.tiny import tiny_checkpoint

PROMPTS = ["a", "hello there, how are you", "x" * 40, "1 + 1 =", "zz top", "q" * 17]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("endpoint") / "m")


@pytest.fixture
def server(model):
    with serving(model) as served:
        yield served


def spec_for(server, **settings) -> EndpointSpec:
    return EndpointSpec(**{"url": server.url, "model": "tiny", "retries": 2, "timeout": 20} | settings)


def records(n=8):
    return [
        Record(instruction=f"What is {i} + 1?", reference=f"It is {i + 1}.", answer=str(i + 1), source="sums")
        for i in range(n)
    ]


def test_answers_are_those_of_the_engine_in_process(model, server):
    ours = EndpointEngine(model, spec_for(server))
    theirs = TransformersEngine(model)
    seen = []
    wrote = ours.generate(PROMPTS, Sampling(max_new_tokens=16), progress=seen.append)
    assert wrote == theirs.generate(PROMPTS, Sampling(max_new_tokens=16))
    assert sum(seen) == len(PROMPTS)
    assert {request["temperature"] for request in server.requests} == {0.0}
    assert all("seed" not in request for request in server.requests)
    messages = [{"role": "user", "content": "Hello"}]
    assert ours.render(messages, "Well,") == theirs.render(messages, "Well,")
    assert ours.generate([], Sampling()) == []


def test_sampling_sends_a_seed_of_its_own_with_each_request(model, server):
    engine = EndpointEngine(model, spec_for(server))
    settings = Sampling(max_new_tokens=4, temperature=0.7, top_p=0.9)
    wrote = engine.generate(PROMPTS, settings, [5, 6, 7, 8, 9, 10])
    assert {request["seed"] for request in server.requests} == {5, 6, 7, 8, 9, 10}
    assert [one.seed for one in wrote] == [5, 6, 7, 8, 9, 10]
    assert {(request["temperature"], request["top_p"]) for request in server.requests} == {(0.7, 0.9)}


def test_a_prompt_longer_than_the_server_takes_is_not_sent(model, server):
    wrote = EndpointEngine(model, spec_for(server)).generate(["x" * 890, "a"], Sampling(max_new_tokens=16))
    assert [one.overlong for one in wrote] == [True, False]
    assert len(server.requests) == 1


def test_only_so_many_requests_wait_at_one_time(model):
    with serving(model, delay=0.05) as server:
        EndpointEngine(model, spec_for(server, in_flight=3)).generate(PROMPTS * 3, Sampling(max_new_tokens=2))
        assert server.most_at_once <= 3
        assert server.most_at_once > 1


def test_the_server_is_kept_busy_across_shards(model, tmp_path):
    """The last answers of one shard do not leave the server idle: others are asked for meanwhile."""
    given = records(24)
    with serving(model, delay=0.05) as server:
        endpoint = spec_for(server, in_flight=8)
        spec = SelfDataSpec(max_new_tokens=2, shard_size=2, engine="endpoint", endpoint=endpoint)
        data = distill(model, given, "open", spec, tmp_path / "out")
        assert 2 < server.most_at_once <= 8
        assert len(server.requests) == 24
    assert [row["id"] for row in data.rows()] == [record.id for record in given]
    assert data.summary["shards"] == 12


@pytest.mark.parametrize(
    "faults",
    [
        [status(503)],
        [status(429, Retry_After="0"), status(500)],
        [hang_up],
        [status(502, "<html>no gateway</html>"), hang_up],
    ],
)
def test_a_busy_server_is_asked_again(model, server, faults):
    server.faults.extend(faults)
    wrote = EndpointEngine(model, spec_for(server)).generate(["a", "b"], Sampling(max_new_tokens=4))
    assert len(wrote) == 2
    assert len(server.requests) == 2 + len(faults)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (
            status(400, '{"error": {"message": "max_tokens is too large"}}'),
            InputError,
            "max_tokens is too large",
        ),
        (status(401), InputError, "refuses the key"),
        (status(404, '{"message": "no such model"}'), InputError, "no such model"),
        (status(200, "<html>hello</html>"), RegrowError, "is this an OpenAI-compatible server"),
        (status(200, '{"choices": []}'), RegrowError, "not that of an OpenAI-compatible"),
    ],
)
def test_what_asking_again_would_not_help_is_said_at_once(model, server, fault, kind, message):
    engine = EndpointEngine(model, spec_for(server))
    server.faults.append(fault)
    with pytest.raises(kind, match=message):
        engine.generate(["a"], Sampling(max_new_tokens=4))
    assert len(server.requests) == 1


def test_a_server_that_stays_busy_is_an_error(model, server):
    engine = EndpointEngine(model, spec_for(server, retries=1))
    server.faults.extend([status(503)] * 2)
    with pytest.raises(RegrowError, match=r"still answers 503 after 2 tries"):
        engine.generate(["a"], Sampling(max_new_tokens=4))


def test_another_model_behind_the_name_is_noticed(model, server):
    server.extra_prompt_tokens = 1
    with pytest.raises(InputError, match="another model"):
        EndpointEngine(model, spec_for(server)).generate(["hello"], Sampling(max_new_tokens=4))


def test_a_model_that_is_not_served(model, server):
    with pytest.raises(InputError, match="does not serve 'large'; it lists tiny"):
        EndpointEngine(model, spec_for(server, model="large"))


def test_the_key_comes_from_the_environment(model, server, monkeypatch):
    with pytest.raises(InputError, match="REGROW_TEST_KEY is not set"):
        EndpointEngine(model, spec_for(server, api_key_env="REGROW_TEST_KEY"))
    monkeypatch.setenv("REGROW_TEST_KEY", "secret")
    EndpointEngine(model, spec_for(server, api_key_env="REGROW_TEST_KEY"))
    assert server.keys == ["Bearer secret"]


def test_a_server_that_dies_loses_nothing_and_doubles_nothing(model, tmp_path):
    """Killed in the middle and started again, the set is that of an unbroken run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = records(12)

    def spec(served) -> SelfDataSpec:
        endpoint = spec_for(served, retries=1, in_flight=2)
        return SelfDataSpec(max_new_tokens=8, shard_size=3, engine="endpoint", endpoint=endpoint)

    with serving(model) as other:
        whole = distill(model, given, "math", spec(other), tmp_path / "whole")
    with serving(model, port) as served:
        # Two shards and one answer of the third, then nothing more.
        served.faults.extend([None] * 7 + [hang_up] * 40)
        with pytest.raises(RegrowError, match="run the same command again"):
            distill(model, given, "math", spec(served), tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "out").exists()
    done = len(list((tmp_path / "work").glob("shard-*")))
    assert done >= 1
    with serving(model, port) as again:
        data = distill(model, given, "math", spec(again), tmp_path / "out", tmp_path / "work")
        assert len(again.requests) == 12 - 3 * done
    assert data.digest == whole.digest
    assert data.summary["shards_reused"] == done


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": "endpoint"},
        {"endpoint": {"url": "http://x/v1", "model": "m"}},
        {"engine": "endpoint", "endpoint": {"url": "x", "model": "m"}},
        {"engine": "vllm", "vllm": {"gpu_memory_utilization": 2}},
        {"engine": "magic"},
    ],
)
def test_impossible_settings(settings):
    with pytest.raises(ValidationError):
        SelfDataSpec(**settings)


def test_vllm_that_is_not_there_is_said(model, tmp_path):
    spec = SelfDataSpec(engine="vllm")
    with pytest.raises(InputError, match="vllm cannot be imported here"):
        distill(model, records(2), "math", spec, tmp_path / "out")
