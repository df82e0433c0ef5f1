"""Registration of visible and infrared: known transforms come back, good pairs stay, wrong ones are refused."""

from typing import Any

import cv2
import numpy as np
import pytest

from tectum.registration.align import Registration, corner_shifts, register, valid_mask, warp
from tectum.registration.gradient_search import plain_matrix

Array = np.ndarray[Any, np.dtype[Any]]
Size = tuple[int, int]
SIZE = (240, 320)


def scene(seed: int, size: Size = SIZE) -> tuple[Array, Array]:
    """Shapes on textured ground in two modalities: other contrast and sign per shape, some seen by one camera only."""
    rng = np.random.default_rng(seed)
    height, width = size
    shared = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), width / 40) * width / 100
    visible, infrared = 0.5 + 0.1 * shared, 0.4 - 0.05 * shared
    for k in range(28):
        shape = np.zeros(size, np.float32)
        x, y, r = rng.integers(0, width), rng.integers(0, height), rng.integers(width // 30, width // 9)
        corners = np.stack([x + r * rng.uniform(-1, 1, 5), y + r * rng.uniform(-1, 1, 5)], 1)
        cv2.fillConvexPoly(shape, cv2.convexHull(corners.astype(np.int32)), 1.0)
        if k % 5 != 0:
            visible += shape * (rng.uniform(-0.4, 0.4) - visible + 0.5)
        if k % 5 != 1:
            infrared += shape * (rng.uniform(-0.4, 0.4) - infrared + 0.5)
    noise = rng.standard_normal((2, *size)).astype(np.float32) * 0.01
    soft = [cv2.GaussianBlur(x, (0, 0), 0.8) + n for x, n in zip((visible, infrared), noise, strict=True)]
    return np.clip(soft[0], 0, 1), np.clip(soft[1], 0, 1) ** 1.5


def about_centre(size: Size, degrees: float = 0, scale: float = 1, shift: tuple[float, float] = (0, 0)) -> Array:
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D(((size[1] - 1) / 2, (size[0] - 1) / 2), degrees, scale)
    matrix[:2, 2] += shift
    return matrix


def apart(seed: int, truth: Array, size: Size = SIZE) -> tuple[Array, Array]:
    """A pair cut from a larger scene so that `truth` maps visible to infrared pixels and no border shows."""
    margin = 24
    visible, infrared = scene(seed, (size[0] + 2 * margin, size[1] + 2 * margin))
    cut = np.array([[1, 0, margin], [0, 1, margin], [0, 0, 1.0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(infrared, cut @ np.linalg.inv(truth), size[::-1], flags=flags)
    return visible[margin:-margin, margin:-margin].copy(), moved


def corner_error(found: Array, truth: Array, size: Size = SIZE) -> float:
    return float(np.linalg.norm(corner_shifts(found, truth, size), axis=1).max())


class TestRegister:
    @pytest.mark.parametrize(
        ("model", "truth"),
        [
            ("translation", about_centre(SIZE, shift=(7.3, -4.6))),
            ("similarity", about_centre(SIZE, 2.4, 0.98, (3.0, 5.0))),
            ("affine", about_centre(SIZE, -1.7, 1.035, (-5.0, 2.5))),
            ("affine", about_centre(SIZE, 0, 0.96, (4.0, 4.0)) @ np.array([[1, 0.01, 0], [0, 1.01, 0], [0, 0, 1]])),
            ("homography", about_centre(SIZE, 1, 1.01, (3, 2)) @ np.array([[1, 0, 0], [0, 1, 0], [1e-4, -5e-5, 1]])),
        ],
    )
    def test_known_transform_comes_back(self, model: Any, truth: Array) -> None:
        visible, infrared = apart(1, truth)
        found = register(visible, infrared, model=model, max_shift=0.12, prudent=False)
        assert found.model == model
        assert corner_error(found.matrix, truth) < 1.0
        assert found.score_after > found.score_before + 0.1
        assert found.shift_px == pytest.approx(corner_error(found.matrix, np.eye(3)), abs=1e-6)

    @pytest.mark.parametrize(
        ("model", "truth"),
        [
            ("translation", about_centre(SIZE, shift=(7.3, -4.6))),
            ("similarity", about_centre(SIZE, -1.7, 1.035, (-5.0, 2.5))),
        ],
    )
    def test_the_simplest_sufficient_model_is_taken(self, model: str, truth: Array) -> None:
        found = register(*apart(1, truth), model="affine", max_shift=0.12)
        assert found.model == model and corner_error(found.matrix, truth) < 1.0

    def test_inverted_infrared_is_the_same_to_the_measure(self) -> None:
        visible, infrared = apart(2, about_centre(SIZE, 1, 1, (4, 2)))
        one, other = register(visible, infrared), register(visible, 1 - infrared)
        assert corner_error(one.matrix, other.matrix) < 0.05
        assert one.score_after == pytest.approx(other.score_after, abs=1e-3)

    def test_aligned_pair_is_left_alone(self) -> None:
        visible, _ = scene(3)
        found = register(visible, 1 - visible**2)
        assert np.array_equal(found.matrix, np.eye(3))
        assert found.shift_px == 0 and found.score_after == found.score_before > 0.8

    @pytest.mark.parametrize("model", ["similarity", "homography"])
    def test_an_aligned_pair_stays_within_a_pixel(self, model: Any) -> None:
        for seed in range(40, 44):
            found = register(*scene(seed, (120, 160)), model=model)
            assert found.score_after >= found.score_before
            assert found.shift_px <= 1, seed

    def test_a_near_object_does_not_move_an_aligned_pair(self) -> None:
        for seed in (50, 51):
            visible, infrared = scene(seed)
            near = scene(seed + 100)
            visible[90:, 110:210] = near[0][90:, 110:210]
            infrared[90:, 110:210] = near[1][90:, 102:202]  # 8 px of parallax over a fifth of the picture
            assert register(visible, infrared).shift_px <= 1, seed

    def test_without_prudence_small_offsets_count(self) -> None:
        truth = about_centre(SIZE, shift=(1.0, 0.6))
        visible, infrared = apart(9, truth)
        assert register(visible, infrared).model == "plain"
        free = register(visible, infrared, prudent=False)
        assert free.model == "similarity" and corner_error(free.matrix, truth) < 0.5

    @pytest.mark.parametrize("factor", [0.5, 1.6])
    def test_other_resolution(self, factor: float) -> None:
        truth = about_centre(SIZE, 1.5, 1.0, (5, -3))
        visible, infrared = apart(4, truth)
        small = cv2.resize(infrared, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else 2)
        found = register(visible, small)
        assert found.visible_size == SIZE and found.infrared_size == small.shape
        assert corner_error(found.matrix, plain_matrix(SIZE, small.shape) @ truth) < 1.0

    def test_large_image_at_reduced_size(self) -> None:
        truth = about_centre((900, 1200), 0.8, 1.01, (14, -9))
        visible, infrared = apart(5, truth, (900, 1200))
        assert corner_error(register(visible, infrared).matrix, truth, (900, 1200)) < 2.0

    @pytest.mark.parametrize("seed", range(5))
    def test_unrelated_pair_is_refused(self, seed: int) -> None:
        with pytest.raises(ValueError, match=r"could not be registered: .* got contrast -?\d.*rig.*--align"):
            register(scene(seed)[0], scene(seed + 100)[1])

    def test_empty_infrared_is_refused(self) -> None:
        with pytest.raises(ValueError, match="could not be registered"):
            register(scene(0)[0], np.full(SIZE, 0.5, np.float32))

    def test_too_far_is_refused_with_the_way_out(self) -> None:
        visible, infrared = apart(6, about_centre(SIZE, 2.5, 1.0, (12, 0)))
        with pytest.raises(ValueError, match=r"within 16 px .* got \d\d px; raise max_shift"):
            register(visible, infrared, max_shift=0.05)

    @pytest.mark.parametrize(
        ("infrared", "options", "told"),
        [
            (np.zeros((20, 50), np.float32), {}, "at least 32 pixels"),
            (np.zeros((50, 50, 3), np.float32), {}, r"infrared must be \(H,W\)"),
            (np.full((50, 50), np.nan, np.float32), {}, "infrared must hold finite values"),
            (np.zeros((50, 50), np.float32), {"model": "afine"}, "model must be one of translation"),
            (np.zeros((50, 50), np.float32), {"max_shift": 8}, "max_shift must be"),
        ],
    )
    def test_bad_input(self, infrared: Array, options: dict[str, Any], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            register(scene(0)[0], infrared, **options)


def registration(matrix: Array, size: Size, infrared_size: Size) -> Registration:
    return Registration(matrix, size, infrared_size, 0.1, 0.2, 0.0, "affine")


class TestWarp:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
    @pytest.mark.parametrize("channels", [(), (2,), (5,)])
    def test_whole_pixel_shift_is_exact(self, dtype: Any, channels: tuple[int, ...]) -> None:
        top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
        infrared = (np.random.default_rng(0).random((20, 30, *channels)) * top).astype(dtype)
        matrix = np.array([[1, 0, 3], [0, 1, -2], [0, 0, 1.0]])  # visible (x, y) lies at infrared (x + 3, y - 2)
        out = warp(registration(matrix, (20, 30), (20, 30)), infrared)
        assert out.dtype == dtype and out.shape == infrared.shape
        exact = 1e-7 if np.issubdtype(dtype, np.floating) else 0
        assert np.abs(out[2:, :-3].astype(float) - infrared[:-2, 3:]).max() <= exact
        border = np.repeat(infrared[:1, 3:], 2, axis=0)  # outside: the border, not black
        assert np.abs(out[:2, :-3].astype(float) - border).max() <= exact

    def test_mask_is_the_view(self) -> None:
        known = registration(np.array([[1, 0, 3], [0, 1, -2], [0, 0, 1.0]]), (20, 30), (20, 30))
        expected = np.zeros((20, 30), np.float32)
        expected[2:, :-3] = 1
        assert np.array_equal(valid_mask(known), expected)
        soft = valid_mask(known, feather_px=4)
        assert (soft <= expected).all() and soft[:2].max() == 0
        assert soft[19, 0] == 1, "the frame's own border is not feathered"
        assert soft[10, 26] == pytest.approx(0.2, abs=0.01) and soft[10, 15] == 1

    def test_plain_resizing_sees_everything(self) -> None:
        for other in ((10, 15), (40, 47), (7, 90)):
            assert valid_mask(registration(plain_matrix((20, 30), other), (20, 30), other), feather_px=5).min() == 1

    def test_resizing_keeps_the_range_and_the_place(self) -> None:
        infrared = np.zeros((24, 32), np.uint16)
        infrared[:, 16:] = 65535
        out = warp(registration(plain_matrix((48, 64), (24, 32)), (48, 64), (24, 32)), infrared)
        assert out[:, :30].max() == 0 and out[:, 34:].min() == 65535

    def test_coarse_frame_does_not_alias(self) -> None:
        stripes = np.tile(np.array([0, 1], np.float32), (120, 60))
        out = warp(registration(plain_matrix((40, 40), (120, 120)), (40, 40), (120, 120)), stripes)
        assert out.std() < 0.05 and out.mean() == pytest.approx(0.5, abs=0.02)

    def test_other_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"registered size 30x20, got shape \(20, 31\)"):
            warp(registration(np.eye(3), (20, 30), (20, 30)), np.zeros((20, 31), np.float32))
        with pytest.raises(ValueError, match="int32"):
            warp(registration(np.eye(3), (20, 30), (20, 30)), np.zeros((20, 30), np.int32))

    def test_impossible_matrix_is_refused(self) -> None:
        for matrix in (np.zeros((3, 3)), np.diag([1, 0, 1.0]), np.diag([-1, 1, 1.0]), np.eye(3) * np.nan, np.eye(2)):
            with pytest.raises(ValueError, match="matrix must be"):
                registration(matrix, (20, 30), (20, 30))
