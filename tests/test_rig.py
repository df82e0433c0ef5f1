"""Rigs: the transform that many pairs agree on, and the file that keeps it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tectum.registration.align import register, valid_mask, warp
from tectum.registration.camera_rig import Rig, common_range, fit_rig
from test_align import SIZE, about_centre, apart, corner_error, scene

Array = np.ndarray[Any, np.dtype[Any]]


def rig_of(**changes: Any) -> Rig:
    return replace(Rig(np.eye(3), (4, 6), (4, 6), "affine", (7000.0, 9000.5), 5, 0.7, 0.2, 0.4), **changes)


class TestRig:
    truth = about_centre(SIZE, 1.2, 1.015, (4, -3))

    def test_consensus_ignores_outliers_and_failures(self) -> None:
        pairs = [apart(seed, self.truth) for seed in range(10, 15)]
        pairs += [apart(20, about_centre(SIZE, -2, 1, (-9, 6))), (scene(21)[0], scene(121)[1])]
        rig = fit_rig(iter(pairs), max_shift=0.1, infrared_range=(7000.0, 9000.0))
        assert corner_error(rig.matrix, self.truth) < 0.5
        assert rig.num_pairs == 5 and rig.spread_px < 1 and rig.score_after > rig.score_before + 0.1
        assert rig.infrared_range == (7000.0, 9000.0)

    @pytest.mark.parametrize("model", ["translation", "similarity", "affine", "homography"])
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
