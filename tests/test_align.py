"""Registration of a visible and an infrared image, and rigs: known transforms come back, wrong ones are refused."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tectum.inference.align import (
    Registration,
    Rig,
    common_range,
    corner_shifts,
    fit_rig,
    plain_matrix,
    register,
    valid_mask,
    warp,
)

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


def rig_of(**changes: Any) -> Rig:
    return replace(Rig(np.eye(3), (4, 6), (4, 6), "affine", (7000.0, 9000.5), 5, 0.7, 0.2, 0.4), **changes)


class TestRegister:
    @pytest.mark.parametrize(
        ("model", "truth"),
        [
            ("translation", about_centre(SIZE, shift=(7.3, -4.6))),
            ("euclidean", about_centre(SIZE, 2.4, 1, (3.0, 5.0))),
            ("affine", about_centre(SIZE, -1.7, 1.035, (-5.0, 2.5))),
            ("affine", about_centre(SIZE, 0, 0.96, (4.0, 4.0)) @ np.array([[1, 0.01, 0], [0, 1.01, 0], [0, 0, 1]])),
            ("homography", about_centre(SIZE, 1, 1.01, (3, 2)) @ np.array([[1, 0, 0], [0, 1, 0], [1e-4, -5e-5, 1]])),
        ],
    )
    def test_known_transform_comes_back(self, model: Any, truth: Array) -> None:
        visible, infrared = apart(1, truth)
        found = register(visible, infrared, model=model, max_shift=0.12)
        assert corner_error(found.matrix, truth) < 1.0
        assert found.score_after > found.score_before + 0.1
        assert found.shift_px == pytest.approx(corner_error(found.matrix, np.eye(3)), abs=1e-6)

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

    def test_never_worse_than_plain_resizing(self) -> None:
        for seed in range(4):
            found = register(*scene(seed))
            assert found.score_after >= found.score_before
            assert found.shift_px < 1.5

    @pytest.mark.parametrize("factor", [0.5, 1.6])
    def test_other_resolution(self, factor: float) -> None:
        truth = about_centre(SIZE, 1.5, 1.0, (5, -3))
        visible, infrared = apart(4, truth)
        small = cv2.resize(infrared, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else 2)
        found = register(visible, small)
        assert found.size == SIZE and found.infrared_size == small.shape
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
            (np.full((50, 50), np.nan, np.float32), {}, "infrared must be finite"),
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


class TestRig:
    truth = about_centre(SIZE, 1.2, 1.015, (4, -3))

    def test_consensus_ignores_outliers_and_failures(self) -> None:
        pairs = [apart(seed, self.truth) for seed in range(10, 15)]
        pairs += [apart(20, about_centre(SIZE, -2, 1, (-9, 6))), (scene(21)[0], scene(121)[1])]
        rig = fit_rig(iter(pairs), max_shift=0.1, infrared_range=(7000.0, 9000.0))
        assert corner_error(rig.matrix, self.truth) < 0.5
        assert rig.num_pairs == 5 and rig.spread_px < 1 and rig.score_after > rig.score_before + 0.1
        assert rig.infrared_range == (7000.0, 9000.0)

    @pytest.mark.parametrize("model", ["translation", "euclidean", "homography"])
    def test_models(self, model: Any) -> None:
        truth = about_centre(SIZE, 0 if model == "translation" else 1.2, 1, (4, -3))
        rig = fit_rig([apart(seed, truth) for seed in range(10, 13)], model=model)
        assert corner_error(rig.matrix, truth) < 1.0

    def test_aligned_cameras_stay_as_they_are(self) -> None:
        visible = [scene(seed)[0] for seed in range(3)]
        rig = fit_rig([(x, 1 - x**2) for x in visible])
        assert np.array_equal(rig.matrix, np.eye(3)) and rig.score_after == rig.score_before

    def test_disagreement_is_refused(self) -> None:
        shifts = [(-12, 0), (12, 0), (0, 12), (0, -12)]
        pairs = [apart(30 + k, about_centre(SIZE, 0, 1, shift)) for k, shift in enumerate(shifts)]
        with pytest.raises(ValueError, match=r"half of the 4 registered ones must agree within 6\.4 px, but \d do"):
            fit_rig(pairs)

    def test_too_few_and_mixed_sizes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"at least 3 pairs .* got 0 of 0"):
            fit_rig([])
        unrelated = (scene(1)[0], scene(101)[1])
        with pytest.raises(ValueError, match=r"got 1 of 2.*could not be registered"):
            fit_rig([apart(1, self.truth), unrelated])
        with pytest.raises(ValueError, match=r"320x240 infrared, got 320x240 and 128x96 in pair 2"):
            fit_rig([scene(1), (scene(1)[0], scene(1, (96, 128))[1])])

    def test_round_trip(self, tmp_path: Path) -> None:
        for rig in (
            rig_of(matrix=np.array([[1.01, 0.002, -3.3], [0, 1 / 3, 2], [1e-5, 0, 1]])),
            rig_of(infrared_range=None),
        ):
            rig.save(tmp_path / "rig.json")
            back = Rig.load(tmp_path / "rig.json")
            assert np.array_equal(back.matrix, rig.matrix)
            assert replace(back, matrix=np.eye(3)).__dict__.keys() == rig.__dict__.keys()
            for name in set(rig.__dict__) - {"matrix"}:
                assert getattr(back, name) == getattr(rig, name), name
        assert [path.name for path in tmp_path.iterdir()] == ["rig.json"]

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"format": "other"}, "must be a rig file"),
            ({"version": 2}, "version 1, got 2"),
            ({"matrix": [[1, 0, 0], [0, 0, 0], [0, 0, 1]]}, "invertible"),
            ({"matrix": [[1, 0], [0, 1]]}, r"\(3,3\)"),
            ({"matrix": "eye"}, "not a sound rig"),
            ({"visible_size": [0, 6]}, "visible size must be"),
            ({"infrared_size": [4.5, 6]}, "infrared_size must be"),
            ({"infrared_size": 4}, "not a sound rig"),
            ({"infrared_range": [5, 5]}, "low < high"),
            ({"model": "bent"}, "model must be one of"),
            ({"spread_px": None}, "not a sound rig"),
            ({"more": 1}, "differs in more"),
        ],
    )
    def test_damaged_file(self, tmp_path: Path, change: dict[str, Any], told: str) -> None:
        path = tmp_path / "rig.json"
        rig_of().save(path)
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(ValueError, match=told) as caught:
            Rig.load(path)
        assert "rig.json" in str(caught.value)

    def test_not_a_file_not_json(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"gone\.json"):
            Rig.load(tmp_path / "gone.json")
        for content in (b"{", b"[1]", b"\xff\xfe\x00"):
            (tmp_path / "rig.json").write_bytes(content)
            with pytest.raises(ValueError, match="must be a rig file"):
                Rig.load(tmp_path / "rig.json")

    def test_warps_every_frame_alike(self) -> None:
        rig = rig_of(matrix=np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1.0]]))
        frame = np.arange(24, dtype=np.float32).reshape(4, 6)
        assert np.array_equal(warp(rig, frame)[:, :-1], frame[:, 1:])
        assert np.array_equal(valid_mask(rig)[0], [1, 1, 1, 1, 1, 0])
        with pytest.raises(ValueError, match="registered size 6x4"):
            warp(rig, frame.T)

    def test_common_range_needs_frames(self) -> None:
        with pytest.raises(ValueError, match="at least one frame"):
            common_range([])


def read_pair(folder: Path, stem: str) -> tuple[Array, Array]:
    images = [next((folder / name).glob(f"{stem}.*")) for name in ("vi", "ir")]
    visible, infrared = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255 for path in images)
    return visible, infrared


def test_real_pairs() -> None:
    if "TECTUM_DATA" not in os.environ:
        pytest.skip("set TECTUM_DATA to the folder of real pairs (msrs/test) to run this")
    folder = Path(os.environ["TECTUM_DATA"]) / "msrs" / "test"
    stems = sorted(path.stem for path in (folder / "vi").iterdir())[::12]
    pairs = [read_pair(folder, stem) for stem in stems]
    rig = fit_rig(pairs)
    assert rig.num_pairs >= 0.7 * len(pairs) and rig.spread_px < 8
    refused = 0
    for k in range(len(pairs)):
        try:
            register(pairs[k][0], pairs[(k + 3) % len(pairs)][1])
        except ValueError:
            refused += 1
    assert refused >= len(pairs) - 1
