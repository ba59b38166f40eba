from pathlib import Path
from types import SimpleNamespace

import pytest

from regrow.errors import RegrowError
from regrow.tune.callbacks import Divergence
from regrow.tune.job import whole_checkpoints


def test_only_whole_checkpoints_count(tmp_path: Path):
    for step in (5, 10, 100):
        (tmp_path / "steps" / f"checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "steps" / "checkpoint-5" / "whole").touch()
    (tmp_path / "steps" / "checkpoint-10" / "whole").touch()
    found = whole_checkpoints(tmp_path)
    assert list(found) == [5, 10]
    assert [path.name for path in found.values()] == ["checkpoint-5", "checkpoint-10"]
    assert whole_checkpoints(tmp_path / "none") == {}


class TestDivergence:
    def steps(self, losses, earlier=()) -> int:
        """The step at which the run is stopped."""
        trainer = SimpleNamespace(batch="rows 7, 8 of the data")
        guard = Divergence(3.0, earlier, trainer)
        for step, loss in enumerate(losses, start=1):
            guard.on_log(None, SimpleNamespace(global_step=step), None, {"loss": loss})
        return len(losses)

    def test_a_loss_that_leaves_for_good_stops_the_run_with_step_and_batch(self):
        with pytest.raises(
            RegrowError, match=r"step 28: the loss diverges: .* after 1.* rows 7, 8 of the data"
        ):
            self.steps([3.0] * 10 + [1.0] * 15 + [8.0] * 20)

    def test_one_bad_batch_does_not(self):
        assert self.steps([3.0] * 10 + [1.0] * 15 + [15.0] + [1.0] * 20)

    def test_nor_does_a_loss_near_zero_that_wavers(self):
        assert self.steps([2.0] * 10 + [0.001] * 20 + [0.02] * 20)

    def test_a_resumed_run_remembers_its_best(self):
        with pytest.raises(RegrowError, match="diverges"):
            self.steps([8.0] * 10, earlier=[3.0] * 10 + [1.0] * 15)
        assert self.steps([8.0] * 10)
