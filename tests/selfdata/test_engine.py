import pytest
import torch

from regrow.selfdata.engines import Sampling, TransformersEngine
from regrow.selfdata.engines.transformers import _batches, _choose
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


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "mistral"])
def test_ended_rows_leave_without_disturbing_the_others(tmp_path, family):
    settings = {"sliding_window": 8} if family in ("gemma3_text", "mistral") else {}
    if family in ("qwen3", "gemma3_text"):
        settings["head_dim"] = 8
    engine = TransformersEngine(tiny_checkpoint(tmp_path / "m", family=family, **settings), batch_size=8)
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


def test_unfinished_at_the_limit(engine):
    (generation,) = engine.generate(["hello"], Sampling(max_new_tokens=1))
    assert generation.tokens == 1
    assert not generation.finished


def test_sampling_repeats_with_its_seed(engine):
    def texts(seed):
        return [
            g.text for g in engine.generate(PROMPTS, Sampling(max_new_tokens=12, temperature=1.5, seed=seed))
        ]

    torch.manual_seed(1)
    first = texts(5)
    state = torch.get_rng_state()
    assert texts(5) == first
    assert texts(6) != first
    assert torch.equal(state, torch.get_rng_state()), "the global generator must stay as it was"


def test_seed_of_each_batch_is_recorded(engine):
    greedy = engine.generate(PROMPTS, Sampling(max_new_tokens=2))
    assert {g.seed for g in greedy} == {-1}
    sampled = engine.generate(PROMPTS, Sampling(max_new_tokens=2, temperature=1.0, seed=3))
    assert len({g.seed for g in sampled if not g.overlong}) == 2


def test_too_long_for_the_context_is_said_not_raised(tmp_path):
    engine = TransformersEngine(tiny_checkpoint(tmp_path / "m", max_position_embeddings=32))
    seen = []
    short, long = engine.generate(["ab", "x" * 30], Sampling(max_new_tokens=8), seen.append)
    assert not short.overlong
    assert long.overlong
    assert long.text == ""
    assert long.prompt_tokens == 30
    assert sum(seen) == 2


def test_no_prompts(engine):
    assert engine.generate([], Sampling()) == []


def test_nucleus_leaves_the_tail_out():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(400, 1)
    generator = torch.Generator().manual_seed(0)
    picked = _choose(logits, Sampling(temperature=1.0, top_p=0.6), generator)
    assert set(picked.tolist()) == {0, 1}
    picked = _choose(logits, Sampling(temperature=1.0, top_p=0.01), generator)
    assert set(picked.tolist()) == {0}
    picked = _choose(logits, Sampling(temperature=1.0), generator)
    assert set(picked.tolist()) == {0, 1, 2, 3}
    assert abs((picked == 0).float().mean().item() - 0.5) < 0.1


def test_batches_keep_the_token_budget():
    lengths = [100, 90, 50, 50, 10, 10, 10]
    cut = list(_batches(lengths, 3, 200))
    assert [i for start, stop in cut for i in range(start, stop)] == list(range(7))
    assert all((stop - start) * lengths[start] <= 200 and stop - start <= 3 for start, stop in cut)
    assert list(_batches([500], 8, 100)) == [(0, 1)]
