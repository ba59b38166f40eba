from pathlib import Path

import pytest

from regrow.errors import InputError
from regrow.selfdata import SelfData, mix, store


def made(folder: Path, name: str, count: int, family: str = "choice") -> SelfData:
    rows = [
        {
            "id": f"{name}-{i}", "instruction": f"{name} {i}?", "input": "", "reference": "r", "answer": None,
            "source": name, "response": "s", "rewrite": "s", "engine": "e", "decision": "rewritten",
            "attempts": 1, "prompt_tokens": 3, "response_tokens": 1, "seed": 0,
        }
        for i in range(count)
    ]  # fmt: skip
    return store.save(rows, {"family": family}, folder / name)


def ids(data: SelfData) -> list[str]:
    return [row["id"] for row in data.rows()]


def test_all_records_of_all_sets_in_their_order(tmp_path):
    a, b = made(tmp_path, "a", 5), made(tmp_path, "b", 3)
    mixed = mix([a, b], tmp_path / "out")
    assert ids(mixed) == ids(a) + ids(b)
    assert mixed.summary["mixed_from"] == [a.digest, b.digest]
    assert mixed.summary["records"] == 8 and mixed.summary["family"] == "choice"
    assert SelfData.open(tmp_path / "out").digest == mixed.digest
    assert mix([a], tmp_path / "alone").digest == a.digest


def test_a_smaller_number_is_a_part_of_a_larger_one_and_takes_of_every_set(tmp_path):
    a, b = made(tmp_path, "a", 200), made(tmp_path, "b", 200, "open")
    small, large = (mix([a, b], tmp_path / str(n), records=n) for n in (60, 160))
    assert len(ids(small)) == 60 and len(ids(large)) == 160
    assert set(ids(small)) < set(ids(large))
    assert 15 < sum(one.startswith("a") for one in ids(small)) < 45
    assert small.summary["family"] == "mixed"


def test_a_record_in_two_sets_counts_once(tmp_path):
    a = made(tmp_path, "a", 4)
    assert ids(mix([a, a], tmp_path / "out")) == ids(a)


def test_more_records_than_there_are_is_an_error(tmp_path):
    a = made(tmp_path, "a", 4)
    with pytest.raises(InputError, match="5 records are wanted and there are 4"):
        mix([a], tmp_path / "out", records=5)
    with pytest.raises(InputError, match="no sets"):
        mix([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
