"""Volumes of two scanners: read with their positions, laid over one another, fused, and written as they came in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from measures import is_one_sentence
from tectum.errors import UserError
from tectum.fusion.options import FuseOptions
from tectum.fusion.pipeline import FusePipeline
from tectum.fusion.volumes import fuse_volume_files, fuse_volumes
from tectum.io.image import read_image
from tectum.io.volumes import read_volume

pydicom = pytest.importorskip("pydicom", reason="needs the extra `medical`")
nibabel = pytest.importorskip("nibabel", reason="needs the extra `medical`")

Array = np.ndarray[Any, np.dtype[Any]]
TURN = np.array([[0.98, -0.199, 0], [0.199, 0.98, 0], [0, 0, 1.0]]) @ np.array(
    [[1.0, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]]
)


def plane(p: Array) -> Array:
    """Values that are linear in the position, so that linear interpolation is exact: a law of positions."""
    return 100 + 3 * p[..., 0] - 2 * p[..., 1] + 5 * p[..., 2]


def grid(shape: tuple[int, int, int], origin: Any, column: Any, row: Any, step: Any) -> Array:
    """Positions (Z,H,W,3) in mm: left, posterior, superior."""
    k, i, j = (x[..., None] for x in np.meshgrid(*map(np.arange, shape), indexing="ij"))
    return np.asarray(origin, float) + j * np.asarray(column) + i * np.asarray(row) + k * np.asarray(step)


def write_dicom(
    folder: Path, values: Array, positions: Array, *, modality: str = "MR", window: Any = None, **tags: Any
) -> Path:
    """A series with one file a slice, under names in disorder."""
    folder.mkdir(parents=True, exist_ok=True)
    series, frame = pydicom.uid.generate_uid(), tags.pop("FrameOfReferenceUID", "1.2.3")
    intercept = float(np.floor(values.min()))
    column, row = (positions[0, 0, 1] - positions[0, 0, 0]), (positions[0, 1, 0] - positions[0, 0, 0])
    for k, (slice_, place) in enumerate(zip(values, positions, strict=True)):
        file = pydicom.dataset.FileDataset(None, {}, preamble=b"\0" * 128)
        file.file_meta = pydicom.dataset.FileMetaDataset()
        file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        file.SeriesInstanceUID, file.FrameOfReferenceUID, file.Modality = series, frame, modality
        file.PatientID, file.StudyInstanceUID, file.InstanceNumber = "P1", "1.2.4", len(values) - k
        file.ImagePositionPatient = [f"{x:.10g}"[:16] for x in place[0, 0]]
        cosines = np.r_[column / np.linalg.norm(column), row / np.linalg.norm(row)]
        file.ImageOrientationPatient = [f"{x:.10g}"[:16] for x in cosines]
        file.PixelSpacing = [f"{np.linalg.norm(row):.10g}", f"{np.linalg.norm(column):.10g}"]
        file.RescaleSlope, file.RescaleIntercept = "0.125", str(intercept)
        if window:
            file.WindowCenter, file.WindowWidth = window
        file.Rows, file.Columns, file.SamplesPerPixel = *slice_.shape, 1
        file.PhotometricInterpretation, file.PixelRepresentation = "MONOCHROME2", 0
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit = 15
        for keyword, value in tags.items():
            setattr(file, keyword, value)
        file.PixelData = ((slice_ - intercept) / 0.125).round().astype("<u2").tobytes()
        file["PixelData"].VR = "OW"
        file.save_as(folder / f"{(7 * k) % 101:03d}", enforce_file_format=True)
    return folder


def write_nifti(path: Path, values: Array, positions: Array, *, code: int = 1) -> Path:
    """A NIfTI file of the same values at the same places."""
    affine = np.eye(4)
    steps = [positions[0, 0, 1], positions[0, 1, 0], positions[1, 0, 0]] - positions[0, 0, 0]
    affine[:3] = np.c_[steps.T, positions[0, 0, 0]] * [[-1], [-1], [1]]
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0).astype(np.float32), affine)
    image.set_qform(affine, code)
    image.set_sform(affine, code)
    nibabel.save(image, path)
    return path


COARSE = grid((7, 20, 24), (-46, -38, -24), 4 * TURN[0], 4 * TURN[1], 8 * TURN[2])
FINE = grid((13, 32, 40), (-39, -31, -24), (2.0, 0, 0), (0, 2.0, 0), (0, 0, 4.0))


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_a_volume_is_looked_up_by_its_positions(tmp_path: Path, kind: str) -> None:
    if kind == "dicom":
        volume = read_volume(write_dicom(tmp_path / "a", plane(COARSE), COARSE))
    else:
        volume = read_volume(write_nifti(tmp_path / "a.nii.gz", plane(COARSE), COARSE))
    np.testing.assert_allclose(volume.values, plane(COARSE), atol=0.07)
    np.testing.assert_allclose(volume.positions(3), COARSE[3], atol=1e-4)
    values, valid = volume.sample(FINE[6])
    assert 0.3 < valid.mean() < 1
    inside = np.abs(values - plane(FINE[6]))[valid]  # half a pixel at the border is extrapolated by repetition
    assert np.mean(inside < 0.2) > 0.9
    far = FINE[6] + [500, 0, 0]
    assert not volume.sample(far)[1].any()


def test_slices_are_fused_at_their_positions_on_the_finer_grid(tmp_path: Path) -> None:
    def ball(p: Array) -> Array:
        return 1000.0 * (((p - [6, -4, 2]) ** 2).sum(-1) < 81)

    scan = write_dicom(tmp_path / "scan", ball(COARSE) * 0 + 10 * (COARSE[..., 0] > 0), COARSE, modality="PT")
    mri = write_nifti(tmp_path / "mri.nii.gz", ball(FINE), FINE)
    pipeline = FusePipeline(FuseOptions(kind="medical", system="maximum"))
    fused = fuse_volumes(pipeline, read_volume(scan), read_volume(mri))
    assert fused.grid.name == str(mri) and fused.pixels.shape == FINE.shape[:3] and fused.pixels.dtype == np.uint8
    expected = np.where((ball(FINE) > 0) | (FINE[..., 0] > 0), 255, 0)
    seen = np.stack([read_volume(scan).sample(FINE[k])[1] for k in range(len(FINE))])
    near = np.abs(fused.pixels.astype(int) - expected) < 40  # not at the edges of the coarse scan
    assert seen.mean() > 0.8 and near[seen].mean() > 0.93
    only_mri = np.where(ball(FINE) > 0, 255, 0)
    assert (fused.pixels == only_mri)[~seen].all()  # beyond the scan's field of view
    assert "0..10" in fused.description and "0..1000" in fused.description


def test_three_dimensions_come_out_as_they_came_in(tmp_path: Path) -> None:
    from tectum.cli import main

    scan = write_dicom(tmp_path / "ct", plane(FINE), FINE, modality="CT", window=("100", "401"), PatientName="A^B")
    mri = write_nifti(tmp_path / "mri.nii", plane(COARSE), COARSE)
    out = tmp_path / "out"
    command = ["fuse", str(scan), str(mri), "--kind", "medical", "--system", "average", "--quiet"]
    assert main([*command, "-o", f"{out}/"]) == 0
    files = sorted((out / "ct").iterdir())
    assert len(files) == len(FINE)
    written = pydicom.dcmread(files[4])
    np.testing.assert_allclose(np.array(written.ImagePositionPatient, float), FINE[4, 0, 0], atol=1e-4)
    assert (written.PatientID, written.FrameOfReferenceUID, str(written.PatientName)) == ("P1", "1.2.3", "A^B")
    assert "-100.5..299.5 HU" in written.DerivationDescription  # the window of the file is stated
    again = read_volume(out / "ct")
    np.testing.assert_allclose(again.positions(4), FINE[4], atol=1e-3)
    assert main([*command, "-o", str(out)]) == 2  # there already
    file = tmp_path / "fused.nii.gz"
    assert main([*command, "-o", str(file), "--bits", "16"]) == 0
    nifti = read_volume(file)
    np.testing.assert_allclose(nifti.positions(4), FINE[4], atol=1e-3)
    np.testing.assert_allclose(nifti.values / 257, again.values, atol=1)


def test_the_window_is_the_options_the_files_or_one_for_all_slices(tmp_path: Path) -> None:
    scan = write_dicom(tmp_path / "a", plane(FINE), FINE, modality="CT", window=("50", "101"))
    mri = read_volume(write_nifti(tmp_path / "b.nii", plane(FINE), FINE))

    def windows(**options: Any) -> Any:
        options = {"kind": "medical", "system": "average"} | options
        return fuse_volumes(FusePipeline(FuseOptions(**options)), read_volume(scan), mri).windows

    first, second = windows()
    assert first == (-0.5, 99.5)  # centre 50 and width 101 by the standard: c - 1/2 -+ (w - 1)/2
    np.testing.assert_allclose(second, np.percentile(plane(FINE), (0.1, 99.9)), rtol=1e-3)
    assert windows(visible_range="-20,80")[0] == (-20, 80)
    with pytest.raises(UserError, match="clips all") as refusal:
        windows(visible_range="5000,6000")
    assert is_one_sentence(str(refusal.value))


def test_inverted_grey_is_turned_and_missing_slices_are_told(tmp_path: Path) -> None:
    keep = [0, 1, 2, 3, 7, 8, 9]
    dark = write_dicom(tmp_path / "a", plane(FINE)[keep], FINE[keep], PhotometricInterpretation="MONOCHROME1")
    volume = read_volume(dark)
    np.testing.assert_allclose(volume.values, -plane(FINE)[keep], atol=0.07)
    options = FuseOptions(kind="medical", system="average", infrared_range="50,150")  # in the file's values
    told = fuse_volumes(FusePipeline(options), read_volume(write_nifti(tmp_path / "c.nii", plane(FINE), FINE)), volume)
    assert told.windows[1] == (-150, -50) and "50..150, inverted" in told.description
    assert volume.gaps() == 1
    assert volume.sample(FINE[2])[1].all() and not volume.sample(FINE[5])[1].any()
    mri = read_volume(write_nifti(tmp_path / "b.nii", plane(FINE), FINE))
    pipeline = FusePipeline(FuseOptions(kind="medical", system="average"))
    fused = fuse_volumes(pipeline, mri, volume)
    assert any("lacks slices in 1 place" in warning for warning in fused.warnings)
    alone = (plane(FINE)[5] - fused.windows[0][0]) / (fused.windows[0][1] - fused.windows[0][0])
    np.testing.assert_allclose(fused.pixels[5], 255 * alone.clip(0, 1), atol=0.6)  # the other source alone


def test_what_cannot_be_one_volume_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def refused(path: Path, match: str) -> None:
        with pytest.raises(UserError, match=match) as refusal:
            read_volume(path)
        assert is_one_sentence(str(refusal.value))

    values = plane(FINE)
    two = write_dicom(tmp_path / "two", values[:3], FINE[:3])
    write_dicom(tmp_path / "more", values[:3], FINE[:3])
    for i, file in enumerate((tmp_path / "more").iterdir()):
        file.rename(two / f"other{i}")
    refused(two, "one DICOM series, got 2")
    dynamic = write_dicom(tmp_path / "dynamic", np.concatenate([values[:2]] * 2), np.concatenate([FINE[:2]] * 2))
    refused(dynamic, "several slices at one position")
    (tmp_path / "none").mkdir()
    refused(tmp_path / "none", "holds no DICOM slices")
    file = write_nifti(tmp_path / "a.nii.gz", values, FINE)
    file.write_bytes(file.read_bytes()[:1000])
    refused(file, "truncated or damaged")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "4d.nii")
    refused(tmp_path / "4d.nii", r"one volume \(X,Y,Z\), got \(4, 4, 4, 3\)")


def test_volumes_that_do_not_belong_together_are_refused_or_told(tmp_path: Path) -> None:
    pipeline = FusePipeline(FuseOptions(kind="medical", system="average"))
    first = read_volume(write_nifti(tmp_path / "a.nii", plane(FINE), FINE))
    far = read_volume(write_nifti(tmp_path / "b.nii", plane(FINE), FINE + np.array([900.0, 0, 0])))
    with pytest.raises(UserError, match="no voxel in common"):
        fuse_volumes(pipeline, first, far)
    nowhere = read_volume(write_nifti(tmp_path / "c.nii", plane(COARSE), COARSE, code=0))
    with pytest.raises(UserError, match="does not say where its slices lie"):
        fuse_volumes(pipeline, first, nowhere)
    one = read_volume(write_dicom(tmp_path / "d", plane(FINE), FINE))
    other = write_dicom(tmp_path / "e", plane(FINE), FINE, FrameOfReferenceUID="1.2.9", PatientID="P2")
    with pytest.raises(UserError, match="two volumes are needed"):
        fuse_volume_files(pipeline, one.name, one.name, str(tmp_path / "out.nii"))
    warnings = " ".join(fuse_volumes(pipeline, one, read_volume(other)).warnings)
    assert "different patients, P1 and P2" in warnings and "different frames of reference" in warnings


def test_padding_and_values_of_no_data_are_left_out(tmp_path: Path) -> None:
    inside = plane(FINE).copy()
    inside[:, :10] = float(np.floor(plane(FINE).min())) - 10  # stored as 0
    scan = read_volume(write_dicom(tmp_path / "a", inside, FINE, PixelPaddingValue=0))
    assert np.isnan(scan.values[:, :10]).all() and np.isfinite(scan.values[:, 11:]).all()
    lost = plane(FINE).astype(np.float32)
    lost[:, :, :5] = -9999
    mri = read_volume(write_nifti(tmp_path / "b.nii", lost, FINE))
    pipeline = FusePipeline(FuseOptions(kind="medical", system="average", nodata="-9999"))
    fused = fuse_volumes(pipeline, scan, mri)
    assert fused.windows[1][0] > -1000
    alone = ((scan.values[3, 12:, 0] - fused.windows[0][0]) / np.diff(fused.windows[0])).clip(0, 1)
    np.testing.assert_allclose(fused.pixels[3, 12:, 0], 255 * alone, atol=1)
    with pytest.raises(UserError, match="leave out --resize"):
        fuse_volumes(FusePipeline(FuseOptions(kind="medical", system="average", resize=True)), scan, mri)


def test_a_volume_is_no_picture(tmp_path: Path) -> None:
    scan = next(write_dicom(tmp_path / "d", plane(FINE)[:1], FINE[:1]).iterdir())
    for file in (
        scan,
        write_nifti(tmp_path / "a.nii", plane(FINE), FINE),
        write_nifti(tmp_path / "a.nii.gz", plane(FINE), FINE),
    ):
        with pytest.raises(UserError, match="--kind medical") as refusal:
            read_image(file)
        assert is_one_sentence(str(refusal.value))


def test_a_multi_frame_file_keeps_its_geometry(tmp_path: Path) -> None:
    """Enhanced MR: all slices in one file, their places in functional groups."""
    folder = write_dicom(tmp_path / "a", plane(FINE)[:1], FINE[:1])
    file = pydicom.dcmread(next(folder.iterdir()))
    num, intercept = 5, float(np.floor(plane(FINE).min()))

    def group(keyword: str, **values: Any) -> Any:
        item, inner = pydicom.Dataset(), pydicom.Dataset()
        for name, value in values.items():
            setattr(inner, name, value)
        setattr(item, keyword, [inner])
        return item

    shared = group("PixelMeasuresSequence", PixelSpacing=["2", "2"], SliceThickness="4")
    shared.update(group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    shared.update(group("PixelValueTransformationSequence", RescaleSlope="0.125", RescaleIntercept=str(intercept)))
    file.SharedFunctionalGroupsSequence = [shared]
    file.PerFrameFunctionalGroupsSequence = [
        group("PlanePositionSequence", ImagePositionPatient=list(FINE[k, 0, 0])) for k in range(num)
    ]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(file, keyword)
    file.NumberOfFrames = num
    file.PixelData = ((plane(FINE)[:num] - intercept) / 0.125).round().astype("<u2").tobytes()
    file.save_as(tmp_path / "multi.dcm", enforce_file_format=True)
    volume = read_volume(tmp_path / "multi.dcm")
    np.testing.assert_allclose(volume.values, plane(FINE)[:num], atol=0.07)
    np.testing.assert_allclose(volume.positions(4), FINE[4], atol=1e-4)


def test_a_coloured_scan_keeps_its_colour(tmp_path: Path) -> None:
    values = np.zeros((*FINE.shape[:3], 3), np.uint8)
    values[..., 0] = 200
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    packed = np.ascontiguousarray(values).view(rgb)[..., 0]
    affine = np.diag([-2.0, -2.0, 4.0, 1.0])
    affine[:3, 3] = FINE[0, 0, 0] * [-1, -1, 1]
    image = nibabel.Nifti1Image(packed.transpose(2, 1, 0), affine)
    image.set_sform(affine, 1)
    nibabel.save(image, tmp_path / "pet.nii.gz")
    mri = read_volume(write_nifti(tmp_path / "mri.nii", plane(FINE), FINE))
    pipeline = FusePipeline(FuseOptions(kind="medical", system="average"))
    fused = fuse_volumes(pipeline, read_volume(tmp_path / "pet.nii.gz"), mri)
    assert fused.pixels.shape == (*FINE.shape[:3], 3)
    assert (fused.pixels[..., 0].astype(int) - fused.pixels[..., 2] > 50).mean() > 0.7
    fused.grid.write(tmp_path / "out.nii.gz", fused.pixels, "test")
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii.gz").values, fused.pixels)
