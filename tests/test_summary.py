"""Means, bootstrap intervals, paired differences and ranks, on numbers whose answers are known."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest

from tectum.evaluation.statistics import Scores, Summary, summarise
from tectum.report import statistics


def scores(values: np.ndarray, methods: tuple[str, ...] = (), metrics: tuple[str, ...] = ("EN",)) -> Scores:
    """Scores of an (images, methods, metrics) array."""
    num_images, num_methods, _ = values.shape
    methods = methods or tuple("abcdefgh"[:num_methods])
    return Scores(tuple(f"{i:03}" for i in range(num_images)), methods, metrics, values)


HIGHER = {"EN": True, "MSE": False}


def test_the_interval_is_that_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, (400, 1, 1))
    cell = summarise(scores(values), higher_is_better=HIGHER).means["a"]["EN"]
    half = 1.96 * values.std() / 20
    assert cell.mean == pytest.approx(values.mean(), rel=1e-12)
    assert cell.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert cell.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for seed in range(200):
        values = generator.exponential(1.0, (50, 1, 1))
        cell = summarise(scores(values), higher_is_better=HIGHER, resamples=500, seed=seed).means["a"]["EN"]
        hits += cell.low <= 1.0 <= cell.high
    assert 0.88 <= hits / 200 <= 0.98  # 95 %, a little less for so skewed a distribution


def test_differences_are_paired() -> None:
    generator = np.random.default_rng(3)
    hard = generator.normal(0, 10, (100, 1, 1))  # what an image does to every method
    values = np.concatenate([hard, hard + 0.5 + generator.normal(0, 0.1, (100, 1, 1))], axis=1)
    found = summarise(scores(values), higher_is_better=HIGHER)
    difference, cell = found.differences["b"]["EN"], found.means["b"]["EN"]
    assert found.reference == "a" and "a" not in found.differences
    assert difference.mean == pytest.approx(0.5, abs=0.05) and difference.clear and difference.better == 1.0
    assert difference.high - difference.low < (cell.high - cell.low) / 50


def test_no_difference_is_not_clear() -> None:
    values = np.random.default_rng(4).normal(0, 1, (60, 2, 1))
    found = summarise(scores(values), higher_is_better=HIGHER, reference="b")
    assert not found.differences["a"]["EN"].clear
    assert found.differences["a"]["EN"].mean == pytest.approx((values[:, 0] - values[:, 1]).mean())


def test_undefined_values_are_counted_not_dropped() -> None:
    values = np.array([[[1.0], [1.0]], [[3.0], [np.nan]], [[5.0], [np.nan]]])
    found = summarise(scores(values), higher_is_better=HIGHER)
    assert (found.means["a"]["EN"].num, found.means["a"]["EN"].num_undefined) == (3, 0)
    cell = found.means["b"]["EN"]
    assert (cell.mean, cell.num, cell.num_undefined) == (1.0, 1, 2) and cell.low == cell.high == 1.0
    assert found.differences["b"]["EN"].num == 1 and found.differences["b"]["EN"].mean == 0.0


# ---- whether a difference is clear -----------------------------------------------------------------------------------


def against_zero(gaps: np.ndarray, **options: int) -> Summary:
    """Of (images, comparisons): method a has zero everywhere, b the gaps; every comparison is a metric."""
    metrics = tuple(f"m{k}" for k in range(gaps.shape[1]))
    values = np.stack([np.zeros_like(gaps), gaps], axis=1)
    return summarise(scores(values, metrics=metrics), higher_is_better=dict.fromkeys(metrics, True), **options)


def share_clear(gaps: np.ndarray) -> float:
    found = against_zero(gaps, resamples=1000).differences["b"].values()
    return sum(difference.clear for difference in found) / gaps.shape[1]


@pytest.mark.parametrize("num", [5, 8, 20, 100])
@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_no_difference_is_clear_once_in_twenty_at_most(num: int, tails: str) -> None:
    generator = np.random.default_rng(num)
    size = (num, 1000)
    share = share_clear(generator.normal(0, 1, size) if tails == "normal" else generator.standard_t(2, size))
    if num < 6:
        assert share == 0
    else:  # 0.05 +- 4 standard deviations of 1000 draws, a little lower where p has few values
        assert 0.02 <= share <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize(("num", "shift"), [(6, 5.0), (8, 3.0), (20, 1.2), (100, 0.5)])
def test_an_obvious_difference_is_clear(num: int, shift: float) -> None:
    gaps = np.random.default_rng(num).normal(shift, 1, (num, 200))
    assert share_clear(gaps) > 0.95 and share_clear(-gaps) > 0.95


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_of_a_few_images_nothing_is_clear(num: int) -> None:
    found = against_zero(np.full((num, 1), 7.0)).differences["b"]["m0"]
    assert found.low == found.high == 7.0 and found.p == 2 / 2**num and not found.clear
    assert against_zero(np.full((6, 1), 7.0)).differences["b"]["m0"].clear


def test_p_is_the_share_of_all_signs_where_few_images_differ() -> None:
    generator = np.random.default_rng(6)
    gaps = generator.integers(-3, 6, (9, 4)) * 0.1  # with ties, and with zeros that change nothing
    flips = np.array(list(itertools.product((-1, 1), repeat=9)))
    right = (abs(flips @ gaps) >= abs(gaps.sum(0)) - 1e-9).mean(0)
    found = against_zero(gaps).differences["b"]
    assert [found[f"m{k}"].p for k in range(4)] == pytest.approx(right, rel=1e-12)
    padded = np.concatenate([gaps, np.zeros((50, 4)), np.full((50, 4), np.nan)])
    again = against_zero(padded).differences["b"]
    assert [again[f"m{k}"].p for k in range(4)] == pytest.approx(right, rel=1e-12)


def test_random_flips_come_close_to_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = np.random.default_rng(7).normal(0.4, 1, (14, 20))
    exact = [difference.p for difference in against_zero(gaps).differences["b"].values()]
    monkeypatch.setattr(statistics, "NUM_EXACT", 1)
    drawn = [difference.p for difference in against_zero(gaps).differences["b"].values()]
    assert drawn == pytest.approx(exact, abs=0.025) and drawn != exact


def test_equal_methods_do_not_differ() -> None:
    found = against_zero(np.zeros((40, 1))).differences["b"]["m0"]
    assert found.p == 1.0 and not found.clear and found.mean == 0.0


# ---- infinite values -------------------------------------------------------------------------------------------------


def test_a_mean_with_an_infinite_value_is_infinite_and_has_no_interval() -> None:
    values = np.random.default_rng(8).normal(30, 1, (10, 3, 1))
    values[4, 1], values[5, 1], values[6, 2] = np.inf, np.nan, np.nan
    found = summarise(scores(values), higher_is_better=HIGHER, baselines=("c",))
    cell = found.means["b"]["EN"]
    assert cell.mean == math.inf and math.isnan(cell.low) and math.isnan(cell.high)
    assert (cell.num, cell.num_undefined, cell.num_infinite) == (9, 1, 1)
    assert found.ranks["EN"] == (("b",), ("a",)) and found.means["a"]["EN"].num_infinite == 0
    difference = found.differences["b"]["EN"]
    finite = np.delete(values[:, 1] - values[:, 0], [4, 5])
    assert (difference.num, difference.num_infinite) == (8, 1) and difference.mean == pytest.approx(finite.mean())
    assert difference.low < difference.mean < difference.high and 0 < difference.p <= 1
    assert difference.better == pytest.approx((finite > 0).mean())


def test_infinite_everywhere_leaves_no_difference() -> None:
    values = np.full((7, 2, 1), np.inf)
    found = summarise(scores(values), higher_is_better=HIGHER)
    difference = found.differences["b"]["EN"]
    assert (difference.num, difference.num_infinite) == (0, 7) and not difference.clear
    assert all(math.isnan(x) for x in (difference.mean, difference.low, difference.better, difference.p))
    assert found.ranks["EN"] == (("a", "b"),)
    values[0, 1] = -np.inf
    both = summarise(scores(values), higher_is_better=HIGHER)
    assert math.isnan(both.means["b"]["EN"].mean) and both.ranks["EN"] == (("a",),)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_chunks_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(9).normal(0.1, 1, (30, 2, 2))
    values[3, 1, 1] = np.nan
    metrics = {"EN": True, "MSE": False}
    whole = summarise(scores(values, metrics=tuple(metrics)), higher_is_better=metrics, resamples=500)
    monkeypatch.setattr(statistics, "CHUNK", 30 * 7)
    parts = summarise(scores(values, metrics=tuple(metrics)), higher_is_better=metrics, resamples=500)
    for metric in metrics:
        one, other = whole.means["b"][metric], parts.means["b"][metric]
        assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-12)
        assert whole.differences["b"][metric].p == parts.differences["b"][metric].p


def test_memory_does_not_grow_with_the_images() -> None:
    values = np.random.default_rng(10).normal(0, 1, (4000, 2, 1))
    tracemalloc.start()
    summarise(scores(values), higher_is_better=HIGHER, resamples=2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6 < 8 * 2000 * 4000 + 1e6  # all resamples at once are more


# ---- ranks -----------------------------------------------------------------------------------------------------------


def test_nothing_defined_is_nan() -> None:
    found = summarise(scores(np.full((3, 2, 1), np.nan)), higher_is_better=HIGHER)
    assert np.isnan(found.means["a"]["EN"].mean) and found.means["a"]["EN"].num_undefined == 3
    assert np.isnan(found.differences["b"]["EN"].better) and found.ranks["EN"] == () and found.beaten_by["EN"] == ()


def test_ranks_follow_the_direction_and_share_ties() -> None:
    values = np.array([[[1.0, 9.0], [3.0, 7.0], [3.0, 8.0], [2.0, 7.0]]])
    found = summarise(scores(values, metrics=("EN", "MSE")), higher_is_better=HIGHER)
    assert found.ranks == {"EN": (("b", "c"), ("d",)), "MSE": (("b", "d"), ("c",))}


def test_baselines_are_told_apart_and_shown_when_they_win() -> None:
    values = np.array([[[1.0, 9.0], [2.0, 7.0], [5.0, 7.0], [1.5, 8.0]]])
    found = summarise(
        scores(values, metrics=("EN", "MSE")), higher_is_better=HIGHER, baselines=("c", "d"), reference="b"
    )
    assert found.is_baseline == {"a": False, "b": False, "c": True, "d": True}
    assert found.ranks == {"EN": (("b",), ("a",)), "MSE": (("b",), ("a",))}
    assert found.beaten_by == {"EN": ("c",), "MSE": ("c",)}


def test_one_method_has_no_rank_but_can_be_beaten() -> None:
    found = summarise(scores(np.array([[[1.0], [2.0]]])), higher_is_better=HIGHER, baselines=("b",))
    assert found.ranks == {"EN": ()} and found.beaten_by == {"EN": ("b",)}


def test_baselines_alone_are_ranked() -> None:
    found = summarise(scores(np.array([[[1.0], [2.0]]])), higher_is_better=HIGHER, baselines=("a", "b"))
    assert found.ranks["EN"] == (("b",), ("a",)) and not any(found.is_baseline.values())


def test_same_seed_same_numbers() -> None:
    values = np.random.default_rng(5).normal(0, 1, (30, 2, 1))
    one, two, other = (summarise(scores(values), higher_is_better=HIGHER, seed=seed) for seed in (0, 0, 1))
    assert one.means == two.means and one.means != other.means


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference must be one of a, b, got 'c'"):
        summarise(scores(np.zeros((2, 2, 1))), higher_is_better=HIGHER, reference="c")
