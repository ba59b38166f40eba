import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.merge.methods import EXACTLY_PARALLEL, Arc, Drop, Sum, TaskVectors, Trim, Whole, study, whole

SHAPES = st.tuples(st.integers(1, 6), st.integers(2, 9))
SEEDS = st.integers(0, 10**6)


def random(seed: int, shape: tuple[int, ...], count: int = 1, scale: float = 1.0) -> list[np.ndarray]:
    source = np.random.default_rng(seed)
    return [(scale * source.standard_normal(shape)).astype(np.float32) for _ in range(count)]


def formula(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """SLERP in float64, as it stands in books."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    w = math.acos(x @ y / math.sqrt((x @ x) * (y @ y)))
    return ((math.sin((1 - t) * w) * x + math.sin(t * w) * y) / math.sin(w)).reshape(a.shape)


def ties(weights, densities, count, **options) -> TaskVectors:
    thinned = [Whole() if one == 1 else Trim(one, count) for one in densities]
    return TaskVectors(weights, thinned, **({"elect": True, "normalize": True, "scale": 1.0} | options))


@given(seed=SEEDS, shape=SHAPES, t=st.floats(0, 1))
def test_slerp_is_the_formula(seed, shape, t):
    a, b = random(seed, shape, 2)
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    arc = Arc(t)
    got = whole(arc, [a, b])
    cosine = x @ y / math.sqrt((x @ x) * (y @ y))
    assert arc.linear is bool(abs(cosine) > 0.9995)
    want = (1 - t) * a + t * b if arc.linear else formula(a, b, t)
    # On an arc of almost a half circle the factors are large and cancel.
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 / max(0.03, math.sqrt(1 - cosine**2)))


@given(seed=SEEDS, shape=SHAPES, t=st.floats(0, 1))
def test_slerp_from_the_other_end_is_the_same(seed, shape, t):
    a, b = random(seed, shape, 2)
    one, two = whole(Arc(t), [a, b]), whole(Arc(1 - t), [b, a])
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5 * max(np.abs(a).max(), np.abs(b).max()))


@given(seed=SEEDS, shape=SHAPES)
def test_the_middle_does_not_depend_on_the_order(seed, shape):
    a, b = random(seed, shape, 2)
    assert np.array_equal(whole(Arc(0.5), [a, b]), whole(Arc(0.5), [b, a]))


@given(seed=SEEDS, shape=SHAPES, t=st.floats(0, 1), power=st.integers(-20, 20))
def test_slerp_scales_with_its_models(seed, shape, t, power):
    a, b = random(seed, shape, 2)
    factor = np.float32(2.0**power)
    # A power of two changes no digit.
    assert np.array_equal(whole(Arc(t), [factor * a, factor * b]), factor * whole(Arc(t), [a, b]))


@given(seed=SEEDS, t=st.floats(0, 1))
def test_slerp_keeps_the_length_of_vectors_that_have_one(seed, t):
    a, b = (x / np.linalg.norm(x) for x in random(seed, (40,), 2))
    assert np.linalg.norm(whole(Arc(t), [a, b])) == pytest.approx(1, abs=1e-5)


@given(seed=SEEDS, shape=SHAPES, order=st.permutations(range(4)), power=st.integers(-10, 10))
def test_sums_and_task_vectors_do_not_depend_on_the_order_and_scale(seed, shape, order, power):
    *models, base = random(seed, shape, 5)
    weights = [0.5, 0.25, 1.0, 2.0]
    factor = np.float32(2.0**power)
    moved = [models[i] for i in order], [weights[i] for i in order]
    count = base.size
    for make, parent in (
        (lambda w: Sum(w), None),
        (lambda w: Sum(w, sum(w)), None),
        (lambda w: ties(w, [1] * 4, count, elect=False, normalize=False, scale=0.75), base),
        (lambda w: ties(w, [0.5] * 4, count), base),
    ):
        result = whole(make(weights), models, parent)
        np.testing.assert_allclose(whole(make(moved[1]), moved[0], parent), result, rtol=2e-5, atol=2e-5)
        grown = whole(
            make(weights), [factor * m for m in models], None if parent is None else factor * parent
        )
        assert np.array_equal(grown, factor * result)


def test_parallel_opposite_and_zero_tensors_go_on_the_line():
    x = np.array([[1, 2], [3, -4]], np.float32)
    for y in (2 * x, x, -3 * x, np.zeros_like(x)):
        arc = Arc(0.25)
        got = whole(arc, [x, y])
        assert arc.linear
        np.testing.assert_allclose(got, 0.75 * x + 0.25 * y)
    zero = np.zeros(3, np.float32)
    assert np.array_equal(whole(Arc(0.5), [zero, zero]), zero)


def test_the_threshold_is_on_the_cosine():
    x = np.array([1, 0], np.float32)
    for cosine, linear in ((0.99949, False), (0.99951, True), (-0.99951, True), (-0.99949, False)):
        arc = Arc(0.5)
        whole(arc, [x, np.array([cosine, math.sqrt(1 - cosine**2)], np.float32)])
        assert arc.linear is linear


def test_the_angle_of_close_tensors_is_exact():
    x = np.zeros(1000, np.float32)
    x[0] = 1
    for angle in (1e-2, 1e-4, 1e-6):  # arccos of a float32 cosine would say 0 of the last two
        y = x.copy()
        y[1] = angle
        arc = Arc(0.5)
        whole(arc, [x, y])
        assert arc.angle == pytest.approx(angle, rel=1e-3)


def test_nuslerp_bends_where_slerp_goes_straight():
    base, a = random(3, (50,), 2)
    close = a + np.float32(0.001)
    straight, bent = Arc(0.5), Arc(0.5, parallel=EXACTLY_PARALLEL)
    whole(straight, [a, close])
    whole(bent, [a, close])
    assert straight.linear and not bent.linear
    got = whole(Arc(0.3, parallel=EXACTLY_PARALLEL), [a, base + 1], base)
    np.testing.assert_allclose(got, base + formula(a - base, (base + 1) - base, 0.3), rtol=1e-5, atol=1e-6)


@given(seed=SEEDS, count=st.integers(1, 400), density=st.floats(0.01, 0.99), coarse=st.booleans())
def test_trim_keeps_the_largest_and_exactly_as_many_as_asked_for(seed, count, density, coarse):
    (delta,) = random(seed, (count,))
    if coarse:  # many equal magnitudes at the limit
        delta = np.round(delta)
    trim = Trim(density, count)
    for _ in range(trim.looks):
        for start in range(0, count, 64):
            trim.look(delta[start : start + 64])
        trim.turn()
    got = np.concatenate([trim.thin(delta[start : start + 64]) for start in range(0, count, 64)])
    wanted = max(1, int(density * count))
    order = np.argsort(-np.abs(delta), kind="stable")[:wanted]
    want = np.zeros_like(delta)
    want[order] = delta[order]
    assert np.array_equal(got, want)


def test_ties_elects_signs_by_weight_and_averages_who_agrees():
    base = np.zeros(4, np.float32)
    a = np.array([1, -1, 2, 0], np.float32)
    b = np.array([3, 2, -1, 0], np.float32)
    got = whole(ties([1, 1], [1, 1], 4), [a, b], base)
    assert got.tolist() == [2, 2, 2, 0]
    # The first one's word counts for more: it wins where it was outvoted.
    assert whole(ties([4, 1], [1, 1], 4), [a, b], base).tolist() == pytest.approx([1.4, -1, 2, 0])
    assert whole(ties([1, 1], [1, 1], 4, normalize=False, scale=0.5), [a, b], base).tolist() == [2, 1, 1, 0]


def test_task_arithmetic_adds_and_negates():
    base, a, b = random(1, (8, 8), 3)
    added = whole(ties([0.3, -0.2], [1, 1], 64, elect=False, normalize=False, scale=2.0), [a, b], base)
    np.testing.assert_allclose(added, base + 2 * (0.3 * (a - base) - 0.2 * (b - base)), rtol=1e-5, atol=1e-6)


def dropped(delta, density, seed=0, name="w", model=0):
    return Drop(density, seed, name, model).thin(delta)


def test_dare_drops_by_seed_name_and_model_alone():
    delta = np.ones(1000, np.float32)
    one = dropped(delta, 0.3)
    assert np.array_equal(one, dropped(delta, 0.3))
    for other in (
        dropped(delta, 0.3, seed=1), dropped(delta, 0.3, name="v"), dropped(delta, 0.3, model=1),
    ):  # fmt: skip
        assert (one != other).mean() > 0.3
    source = Drop(0.3, 0, "w", 0)
    assert np.array_equal(one, np.concatenate([source.thin(delta[i : i + 64]) for i in range(0, 1000, 64)]))


@settings(max_examples=10)
@given(density=st.sampled_from([0.05, 0.1, 0.5, 0.9]), seed=SEEDS)
def test_dare_keeps_the_expectation(density, seed):
    count = 200_000
    got = dropped(np.full(count, 2, np.float32), density, seed=seed)
    kept = (got != 0).mean()
    deviation = math.sqrt(density * (1 - density) / count)
    assert abs(kept - density) < 5 * deviation
    assert abs(got.mean() - 2) < 5 * 2 * deviation / density
    assert np.unique(got).tolist() == pytest.approx([0, 2 / density])


def test_pieces_change_nothing():
    tensors, base = random(7, (1000,), 3), random(8, (1000,))[0]
    pieces = [([t[i : i + 64] for t in tensors], base[i : i + 64]) for i in range(0, 1000, 64)]
    makers = {
        "ties": lambda: ties([1, 2, 3], [0.2, 0.5, 1], 1000),
        "dare": lambda: TaskVectors(
            [1, 1, 1], [Drop(0.5, 0, "w", i) for i in range(3)], elect=True, normalize=True, scale=1
        ),
        "sum": lambda: Sum([0.1, 0.2, 0.7]),
    }
    for name, make in makers.items():
        mixer = make()
        study(mixer, lambda: pieces)
        got = np.concatenate([mixer.mix(*piece) for piece in pieces])
        assert np.array_equal(got, whole(make(), tensors, base)), name
    arc = Arc(0.3)
    study(arc, lambda: [(parts[:2], None) for parts, _ in pieces])
    got = np.concatenate([arc.mix(parts[:2], None) for parts, _ in pieces])
    np.testing.assert_allclose(got, whole(Arc(0.3), tensors[:2]), rtol=2e-7)


def test_a_fold_of_close_models_is_their_mean():
    base, *noise = random(2, (300,), 4)
    models = [base + np.float32(1e-3) * one for one in noise]
    np.testing.assert_allclose(whole(Arc(None), models), sum(models) / 3, rtol=1e-5, atol=1e-6)
    (alone,) = (whole(Arc(None), [models[0]]),)
    assert np.array_equal(alone, models[0])
