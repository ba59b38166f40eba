"""From numbers to blocks."""

import math

import pytest

from regrow.errors import InputError
from regrow.importance import CRITERIA, LayerImportance, SearchScores, choose_blocks
from regrow.importance.choose import top_units

NONE = None
# Four blocks; every criterion likes other ones.
MEASURED = LayerImportance(
    model_digest="m",
    calibration_digest="c",
    samples=1,
    tokens=9,
    angular_distance=[
        [0.4, 0.1, 0.3, 0.2],
        [0.5, 0.3, 0.6, NONE],
        [0.7, 0.8, NONE, NONE],
        [0.9, NONE, NONE, NONE],
    ],
    angular_distance_all_tokens=[
        [0.4, 0.3, 0.1, 0.2],
        [0.5, 0.4, 0.2, NONE],
        [0.7, 0.8, NONE, NONE],
        [1.0, NONE, NONE, NONE],
    ],
    block_influence=[0.1, 0.5, 0.4, 0.2],
    search=SearchScores(
        perplexity={2: [30.0, 20.0, math.inf]},
        task={2: [0.5, 0.4, 0.7]},
        greedy=[3, 0],
        greedy_perplexity=[21.0, 25.0],
    ),
)
EXPECTED = {
    "angular_distance": ((1, 2), 0.3),
    "angular_distance_all_tokens": ((2, 3), 0.2),
    "block_influence": ((0, 3), pytest.approx(0.3)),
    "perplexity": ((1, 2), 20.0),
    "task": ((2, 3), 0.7),
    "greedy": ((0, 3), 25.0),
    "reverse": ((1, 2), None),
}


@pytest.mark.parametrize("criterion", EXPECTED)
def test_each_criterion_takes_what_it_says(criterion):
    assert choose_blocks(MEASURED, 4, criterion, 2) == EXPECTED[criterion]


def test_every_criterion_is_known_here():
    assert set(CRITERIA) == {*EXPECTED, "random"}


def test_random_is_seeded():
    starts = {choose_blocks(None, 30, "random", 6, seed).removed[0] for seed in range(40)}
    assert len(starts) > 10
    assert choose_blocks(None, 30, "random", 6, 7) == choose_blocks(None, 30, "random", 6, 7)


@pytest.mark.parametrize("criterion", ["perplexity", "task", "greedy"])
def test_what_was_not_measured_is_said(criterion):
    with pytest.raises(InputError, match=f"{criterion} for 3 blocks was not measured"):
        choose_blocks(MEASURED, 4, criterion, 3)
    bare = MEASURED.model_copy(update={"search": None, "angular_distance_all_tokens": None})
    with pytest.raises(InputError, match=r"importance\.search"):
        choose_blocks(bare, 4, criterion, 2)
    with pytest.raises(InputError, match=r"importance\.all_tokens"):
        choose_blocks(bare, 4, "angular_distance_all_tokens", 2)


def test_top_units_are_in_order_and_ties_go_to_the_first():
    assert top_units([0.1, 0.9, 0.5, 0.9, 0.5], 3) == (1, 2, 3)
    assert top_units([1.0, 1.0, 1.0], 2) == (0, 1)
