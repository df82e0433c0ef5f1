"""Means, bootstrap intervals, paired differences and ranks, on numbers whose answers are known."""

import numpy as np
import pytest

from tectum.engine.summary import Scores, summarise


def scores(values: np.ndarray, methods: tuple[str, ...] = (), metrics: tuple[str, ...] = ("EN",)) -> Scores:
    """Scores of an (images, methods, metrics) array."""
    num_images, num_methods, _ = values.shape
    methods = methods or tuple("abcdefgh"[:num_methods])
    return Scores(tuple(f"{i:03}" for i in range(num_images)), methods, metrics, values)


HIGHER = {"EN": True, "MSE": False}


def test_the_interval_is_that_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, (400, 1, 1))
    cell = summarise(scores(values), higher_is_better=HIGHER).cells["a"]["EN"]
    half = 1.96 * values.std() / 20
    assert cell.mean == pytest.approx(values.mean(), rel=1e-12)
    assert cell.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert cell.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for seed in range(200):
        values = generator.exponential(1.0, (50, 1, 1))
        cell = summarise(scores(values), higher_is_better=HIGHER, resamples=500, seed=seed).cells["a"]["EN"]
        hits += cell.low <= 1.0 <= cell.high
    assert 0.88 <= hits / 200 <= 0.98  # 95 %, a little less for so skewed a distribution


def test_differences_are_paired() -> None:
    generator = np.random.default_rng(3)
    hard = generator.normal(0, 10, (100, 1, 1))  # what an image does to every method
    values = np.concatenate([hard, hard + 0.5 + generator.normal(0, 0.1, (100, 1, 1))], axis=1)
    found = summarise(scores(values), higher_is_better=HIGHER)
    difference, cell = found.differences["b"]["EN"], found.cells["b"]["EN"]
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
    assert (found.cells["a"]["EN"].num, found.cells["a"]["EN"].num_undefined) == (3, 0)
    cell = found.cells["b"]["EN"]
    assert (cell.mean, cell.num, cell.num_undefined) == (1.0, 1, 2) and cell.low == cell.high == 1.0
    assert found.differences["b"]["EN"].num == 1 and found.differences["b"]["EN"].mean == 0.0


def test_one_image_is_never_a_clear_difference() -> None:
    found = summarise(scores(np.array([[[1.0], [2.0]]])), higher_is_better=HIGHER)
    assert found.differences["b"]["EN"].low == 1.0 and not found.differences["b"]["EN"].clear


def test_nothing_defined_is_nan() -> None:
    found = summarise(scores(np.full((3, 2, 1), np.nan)), higher_is_better=HIGHER)
    assert np.isnan(found.cells["a"]["EN"].mean) and found.cells["a"]["EN"].num_undefined == 3
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
    assert found.kinds == {"a": "method", "b": "method", "c": "baseline", "d": "baseline"}
    assert found.ranks == {"EN": (("b",), ("a",)), "MSE": (("b",), ("a",))}
    assert found.beaten_by == {"EN": ("c",), "MSE": ("c",)}


def test_one_method_has_no_rank_but_can_be_beaten() -> None:
    found = summarise(scores(np.array([[[1.0], [2.0]]])), higher_is_better=HIGHER, baselines=("b",))
    assert found.ranks == {"EN": ()} and found.beaten_by == {"EN": ("b",)}


def test_baselines_alone_are_ranked() -> None:
    found = summarise(scores(np.array([[[1.0], [2.0]]])), higher_is_better=HIGHER, baselines=("a", "b"))
    assert found.ranks["EN"] == (("b",), ("a",)) and set(found.kinds.values()) == {"method"}


def test_same_seed_same_numbers() -> None:
    values = np.random.default_rng(5).normal(0, 1, (30, 2, 1))
    one, two, other = (summarise(scores(values), higher_is_better=HIGHER, seed=seed) for seed in (0, 0, 1))
    assert one.cells == two.cells and one.cells != other.cells


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference must be one of a, b, got 'c'"):
        summarise(scores(np.zeros((2, 2, 1))), higher_is_better=HIGHER, reference="c")
