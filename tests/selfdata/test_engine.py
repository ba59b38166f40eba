import pytest
import torch

from regrow.errors import RegrowError
from regrow.selfdata.engines import Sampling, TransformersEngine
from regrow.selfdata.engines.batch import choose
from tests.tiny import tiny_checkpoint

PROMPTS = ["a", "hello there, how are you", "x" * 40, "1 + 1 =", "", "zz top", "q" * 17]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return TransformersEngine(tiny_checkpoint(tmp_path_factory.mktemp("e") / "m"), batch_size=4)


def stock(engine, prompt, n):
    """What transformers' own generate writes for one prompt by itself."""
    ids = engine._tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    out = engine._model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=sorted(engine._ends),
    )
    return out[0, ids.shape[1] :].tolist()


def test_greedy_is_what_transformers_writes(engine):
    written = engine.generate(PROMPTS, Sampling(max_new_tokens=24))
    for prompt, generation in zip(PROMPTS, written, strict=True):
        if prompt:
            expected = stock(engine, prompt, 24)
            assert generation.tokens == len(expected)
            assert generation.text == engine._tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("batch_size", [8, 3])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "mistral"])
def test_rows_leave_and_join_without_disturbing_the_others(tmp_path, family, batch_size):
    settings = {"sliding_window": 8} if family in ("gemma3_text", "mistral") else {}
    if family in ("qwen3", "gemma3_text"):
        settings["head_dim"] = 8
    engine = TransformersEngine(
        tiny_checkpoint(tmp_path / "m", family=family, **settings), batch_size=batch_size
    )
    prompts = [prompt for prompt in PROMPTS if prompt]
    free = engine.generate(prompts, Sampling(max_new_tokens=20))
    # Make tokens that some answers hold end tokens: those rows now end early, at different steps.
    texts = [engine._tokenizer(generation.text, add_special_tokens=False).input_ids for generation in free]
    engine._ends = engine._ends | {ids[i] for i, ids in zip((2, 6, 11), texts, strict=False) if len(ids) > i}
    ended = engine.generate(prompts, Sampling(max_new_tokens=20))
    assert any(g.finished for g in ended)
    for prompt, generation in zip(prompts, ended, strict=True):
        expected = stock(engine, prompt, 20)
        assert generation.text == engine._tokenizer.decode(expected, skip_special_tokens=True)
        assert generation.finished == (expected[-1] in engine._ends)


def test_waiting_prompts_take_the_places_of_ended_ones(engine, monkeypatch):
    """A long answer does not keep the others waiting, and nobody's text depends on who shares the batch."""
    prompts = [f"{number} " * (1 + number % 5) for number in range(24)]
    # One token in ten ends an answer, so that their lengths differ much.
    monkeypatch.setattr(engine, "_ends", engine._ends | set(range(5, 261, 10)))
    settings, seeds = Sampling(max_new_tokens=60, temperature=1.0), list(range(24))
    alone = [engine.generate([prompts[i]], settings, [seeds[i]])[0] for i in range(24)]
    lengths = [one.tokens for one in alone]
    forward, rows = engine._model.forward, []

    def counted(*args, **kwargs):
        rows.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine._model, "forward", counted)
    assert engine.generate(prompts, settings, seeds) == alone
    assert max(rows) == 4
    order = sorted(range(24), key=lambda i: (-len(prompts[i]), i))
    fixed_batches = sum(max(lengths[i] for i in order[start : start + 4]) for start in range(0, 24, 4))
    assert len(rows) < 0.8 * fixed_batches, (len(rows), fixed_batches, lengths)


def test_unfinished_at_the_limit(engine):
    (generation,) = engine.generate(["hello"], Sampling(max_new_tokens=1))
    assert generation.tokens == 1
    assert not generation.finished


def test_sampling_repeats_with_its_seed(engine):
    def texts(seed):
        seeds = [seed + i for i in range(len(PROMPTS))]
        wrote = engine.generate(PROMPTS, Sampling(max_new_tokens=12, temperature=1.5), seeds)
        return [one.text for one in wrote]

    torch.manual_seed(1)
    first = texts(5)
    state = torch.get_rng_state()
    assert texts(5) == first
    assert texts(60) != first
    assert torch.equal(state, torch.get_rng_state()), "the global generator must stay as it was"


def test_what_is_drawn_does_not_depend_on_the_batch(engine, monkeypatch):
    settings, seeds = Sampling(max_new_tokens=12, temperature=1.2, top_p=0.9), [7, 8, 9, 10, 11, 12, 13]
    together = engine.generate(PROMPTS, settings, seeds)
    assert [one.seed for one in together if not one.overlong] == [7, 8, 9, 10, 12, 13]
    monkeypatch.setattr(engine, "_most_rows", 1)
    assert engine.generate(PROMPTS, settings, seeds) == together
    assert engine.generate(PROMPTS[2:3], settings, seeds[2:3]) == together[2:3]


def test_sampling_asks_for_seeds(engine):
    with pytest.raises(ValueError, match="a seed for each prompt"):
        engine.generate(PROMPTS, Sampling(temperature=1.0))
    assert {one.seed for one in engine.generate(PROMPTS, Sampling(max_new_tokens=2))} == {-1}


def test_too_long_for_the_context_is_said_not_raised(tmp_path):
    engine = TransformersEngine(tiny_checkpoint(tmp_path / "m", max_position_embeddings=32))
    seen = []
    short, long = engine.generate(["ab", "x" * 30], Sampling(max_new_tokens=8), progress=seen.append)
    assert not short.overlong
    assert long.overlong
    assert long.text == ""
    assert long.prompt_tokens == 30
    assert sum(seen) == 2


def test_no_prompts(engine):
    assert engine.generate([], Sampling()) == []


def test_nucleus_leaves_the_tail_out():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(400, 1)
    chance = torch.linspace(0, 1 - 1e-12, 400, dtype=torch.float64)

    def shares(top_p):
        picked = choose(logits, Sampling(temperature=1.0, top_p=top_p), chance)
        return [round((picked == token).double().mean().item(), 2) for token in range(4)]

    assert shares(0.6) == pytest.approx([0.625, 0.375, 0, 0], abs=0.01)
    assert shares(0.01) == [1, 0, 0, 0]
    assert shares(1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.01)


def test_a_token_without_chance_is_never_picked():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf")]]).repeat(3, 1)
    chance = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert choose(logits, Sampling(temperature=1.0), chance).tolist() == [1, 1, 1]


def test_rows_are_as_many_as_fit_into_memory(engine, monkeypatch):
    monkeypatch.setattr(engine, "_most_rows", 64)
    monkeypatch.setattr(engine, "_memory", 10 * (engine._row_bytes + 100 * engine._token_bytes))
    assert engine._fitting(100) == 10
    assert 10 < engine._fitting(50) < 20
    assert engine._fitting(10**9) == 1
    assert engine._fitting(1) == 64


def test_out_of_memory_goes_on_with_half(tmp_path, monkeypatch, caplog):
    engine = TransformersEngine(tiny_checkpoint(tmp_path / "m"))
    expected = engine.generate(PROMPTS, Sampling(max_new_tokens=6))
    forward = engine._model.forward

    def small(*args, **kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine._model, "forward", small)
    seen = []
    assert engine.generate(PROMPTS, Sampling(max_new_tokens=6), progress=seen.append) == expected
    assert sum(seen) == len(PROMPTS)
    assert "going on with 3" in caplog.text
    monkeypatch.setattr(
        engine._model, "forward", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError)
    )
    with pytest.raises(RegrowError, match="does not hold one prompt"):
        engine.generate(PROMPTS, Sampling(max_new_tokens=6))
