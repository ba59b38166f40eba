from pathlib import Path

import pytest

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import read_json
from regrow.tune import launch, prepare, tune
from regrow.tune.follow import OutOfMemoryError
from regrow.tune.recipe import Full, Lora
from tests.tiny import tiny_checkpoint
from tests.tune.training import prepared, recipe_of, sentences


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Checkpoint:
    """A model whose activations are larger than what the libraries take."""
    return tiny_checkpoint(tmp_path_factory.mktemp("wide") / "m", hidden_size=64, intermediate_size=16_384)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return sentences(tmp_path / "d.jsonl")


def needed(folder: Path) -> int:
    return sum(read_json(folder / "estimate.json")["parts"].values())


def test_an_automatic_batch_is_the_largest_that_fits_and_a_step_stays_what_it_is(
    tmp_path: Path, wide, data, monkeypatch
):
    recipe = recipe_of(batch_size=32, micro_batch_size="auto")
    roomy = prepared(wide, data, tmp_path, recipe)
    assert (roomy.micro_batch_size, roomy.accumulation) == (32, 1)
    small = prepared(wide, data, tmp_path, recipe.model_copy(update={"micro_batch_size": 4}))
    memory = int(needed(small.folder) / 0.9) + 2**20
    monkeypatch.setattr(prepare, "free_memory", lambda: memory)
    tight = prepared(wide, data, tmp_path, recipe)
    assert (tight.micro_batch_size, tight.accumulation) == (4, 8)
    assert needed(tight.folder) == needed(small.folder) < needed(roomy.folder)


def test_a_run_that_cannot_fit_is_refused_with_what_would(tmp_path: Path, wide, data, monkeypatch):
    recipe = recipe_of(batch_size=32)
    fitting = prepared(wide, data, tmp_path, recipe.model_copy(update={"micro_batch_size": 8}))
    memory = needed(fitting.folder)
    monkeypatch.setattr(prepare, "free_memory", lambda: memory)
    with pytest.raises(
        InputError, match=r"recipe: needs .*iB, this device has .*iB free: use micro_batch_size 8"
    ):
        prepared(wide, data, tmp_path, recipe)
    monkeypatch.setattr(prepare, "free_memory", lambda: 1000)
    with pytest.raises(InputError, match="use a smaller model, shorter max_length or a larger device"):
        prepared(wide, data, tmp_path, recipe_of(trainable=Full()))


def test_what_does_not_fit_after_all_goes_on_in_smaller_passes(tmp_path: Path, data, monkeypatch, caplog):
    parent = tiny_checkpoint(tmp_path / "m")
    really = launch.run

    def with_little_memory(job, *others):
        if job.micro_batch_size > 2:
            raise OutOfMemoryError("tuning failed: out of memory")
        really(job, *others)

    monkeypatch.setattr(launch, "run", with_little_memory)
    recipe = recipe_of(max_steps=3, trainable=Lora(r=2))
    done = tune(parent, data, recipe.model_copy(update={"micro_batch_size": "auto"}), tmp_path / "out")
    assert (done.summary["micro_batch_size"], done.summary["gradient_accumulation"]) == (2, 4)
    assert done.summary["batch_size"] == 8 and done.summary["steps"] == 3
    assert "going on with 2, 4 times a step: a step has 8 examples as before" in caplog.text
    assert done.summary["estimated_bytes"] > 0 and done.summary["peak_bytes"] > 0
    assert not list(tmp_path.glob(".out*"))  # nothing of the run that did not fit
    with pytest.raises(OutOfMemoryError):  # asked for by number, it is not changed
        tune(parent, data, recipe, tmp_path / "other")


def test_the_estimate_is_made_for_the_batch_that_is_used(tmp_path: Path, wide, data):
    one = prepared(wide, data, tmp_path, recipe_of(batch_size=32, micro_batch_size=1))
    all_at_once = prepared(wide, data, tmp_path, recipe_of(batch_size=32))
    assert needed(one.folder) < needed(all_at_once.folder)
    assert read_json(one.folder / "estimate.json")["seconds"] > 0
