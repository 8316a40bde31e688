"""DICOM as a viewer shows it: rescale, window, inversion, frames, colors; and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom: pip install 'camfn[medical]'")

import pydicom

from camfn._photos.read import ReadAs, read_photo
from camfn._photos.reading import reading_of
from camfn._photos.volume import read_volume
from camfn._photos.window import read_window
from camfn._shared.errors import PhotoError

RAMP = np.array([[0, 1024, 2047, 3071, 4095]], np.uint16)


def dicom(path: Path, pixels: np.ndarray[Any, Any], **fields: Any) -> Path:
    """Write an uncompressed DICOM file of 12 bits, or with the fields that are given."""
    data = pydicom.Dataset()
    data.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.SOPInstanceUID = pydicom.uid.generate_uid()
    shape = pixels.shape[:-1] if fields.get("SamplesPerPixel") == 3 else pixels.shape
    data.Rows, data.Columns = shape[-2:]
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored = 12 if data.BitsAllocated == 16 else 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    for key, value in fields.items():
        setattr(data, key, value)
    data.HighBit = data.BitsStored - 1
    data.PixelData = pixels.tobytes()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def row(path: Path, window: str | None = None, frame: int | None = None) -> list[int]:
    picture = read_photo(path, ReadAs(read_window(window), frame))
    assert picture.mode == "RGB"
    values: list[int] = np.asarray(picture)[0, :, 0].tolist()
    return values


def test_the_range_of_the_stored_bits(tmp_path: Path) -> None:
    assert row(dicom(tmp_path / "a.dcm", RAMP)) == [0, 64, 127, 191, 255]
    assert row(dicom(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")) == [255, 191, 128, 64, 0]
    assert row(dicom(tmp_path / "c", RAMP)) == [0, 64, 127, 191, 255]  # no ending, as hospitals write them


def test_rescale_and_windows(tmp_path: Path) -> None:
    scan = dicom(tmp_path / "a.dcm", RAMP, RescaleSlope=1, RescaleIntercept=-1024)
    assert row(scan, "-1024,3071") == [0, 64, 127, 191, 255]
    assert row(scan, "0,1023") == [0, 0, 255, 255, 255]
    assert row(scan, "full") == row(scan, "auto") == [0, 64, 127, 191, 255]
    own = dicom(
        tmp_path / "b.dcm", RAMP, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[40, 9], WindowWidth=[400, 9]
    )
    assert row(own) == [0, 102, 255, 255, 255]
    assert row(own, "full") == [0, 64, 127, 191, 255]
    exact = dicom(tmp_path / "c.dcm", RAMP, WindowCenter=2048, WindowWidth=4096, VOILUTFunction="LINEAR_EXACT")
    assert row(exact) == [0, 64, 127, 191, 255]
    smooth = dicom(tmp_path / "d.dcm", RAMP, WindowCenter=2047, WindowWidth=1024, VOILUTFunction="SIGMOID")
    assert row(smooth) == [0, 5, 128, 250, 255]


def test_it_is_what_pydicom_shows(tmp_path: Path) -> None:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    draws = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)
    scan = dicom(tmp_path / "a.dcm", draws, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=3000, WindowWidth=2500)
    data = pydicom.dcmread(scan)
    theirs = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    low, high = -100, 4095 * 2 - 100
    ours = np.asarray(read_photo(scan))[..., 0]
    np.testing.assert_allclose(ours, (theirs - low) / (high - low) * 255, atol=0.51)


def test_signed_values_and_a_table(tmp_path: Path) -> None:
    signed = np.array([[-2048, -1024, 0, 1024, 2047]], np.int16)
    assert row(dicom(tmp_path / "a.dcm", signed)) == [0, 64, 128, 191, 255]
    item = pydicom.Dataset()
    item.LUTDescriptor = [4, 0, 16]
    item.LUTData = (np.array([9, 50, 100, 200], "<u2") * 257).astype("<u2").tobytes()
    table = dicom(tmp_path / "b.dcm", np.array([[0, 1, 2, 3, 9]], np.uint16), VOILUTSequence=pydicom.Sequence([item]))
    assert row(table) == [9, 50, 100, 200, 200]


def test_frames_and_colors(tmp_path: Path) -> None:
    many = dicom(tmp_path / "a.dcm", np.stack([RAMP, RAMP[:, ::-1]]), NumberOfFrames=2)
    assert row(many) == [0, 64, 127, 191, 255]
    assert row(many, frame=2) == [255, 191, 127, 64, 0]
    with pytest.raises(PhotoError, match="it has 2 frames, and --frame 3"):
        row(many, frame=3)
    colors = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    options = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    assert np.asarray(read_photo(dicom(tmp_path / "b.dcm", colors, **options))).tolist() == colors.tolist()


def test_nothing_is_black_in_silence(tmp_path: Path) -> None:
    dark = dicom(tmp_path / "a.dcm", RAMP, BitsStored=16)
    with pytest.raises(PhotoError, match=r"0 to 4095 of 0 to 65535.*--window 0,4095"):
        row(dark)
    aside = dicom(tmp_path / "b.dcm", RAMP, WindowCenter=9000, WindowWidth=100)
    with pytest.raises(PhotoError, match="shows nothing of its values"):
        row(aside)
    narrow = dicom(tmp_path / "c.dcm", RAMP, WindowCenter=9, WindowWidth=0)
    with pytest.raises(PhotoError, match="width of 0"):
        row(narrow)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    whole = dicom(tmp_path / "a.dcm", RAMP).read_bytes()
    report = io.BytesIO()
    pydicom.dcmwrite(report, pydicom.Dataset(), implicit_vr=True, little_endian=True)
    for i, content in enumerate((whole[:-4], whole[:200], b"", bytes(128) + b"DICM", report.getvalue(), b"hello" * 99)):
        path = tmp_path / f"{i}.dcm"
        path.write_bytes(content)
        with pytest.raises(PhotoError, match=path.name) as caught:
            read_photo(path)
        assert "\n" not in str(caught.value)


# volumes


def volume(path: Path, values: np.ndarray[Any, Any]) -> Path:
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel: pip install 'camfn[medical]'")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_volume_is_read_as_nibabel_reads_it(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    assert np.array_equal(read_volume(volume(tmp_path / name, values)), values)
    assert np.array_equal(read_volume(volume(tmp_path / f"b{name}", values[..., None])), values)
    with pytest.raises(PhotoError, match="three dimensions"):
        read_volume(volume(tmp_path / f"c{name}", np.stack([values, values], -1)))
    damaged = tmp_path / f"d{name}"
    for content in (b"", b"hello", (tmp_path / name).read_bytes()[:60], (tmp_path / name).read_bytes()[:-9]):
        damaged.write_bytes(content)
        with pytest.raises(PhotoError, match=damaged.name) as caught:
            read_volume(damaged)
        assert "\n" not in str(caught.value)
    with pytest.raises(PhotoError, match="it is a volume"):
        read_photo(tmp_path / name)


def test_the_frame_and_the_window_are_known(tmp_path: Path) -> None:
    scan = dicom(
        tmp_path / "a.dcm", RAMP, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[40, 9], WindowWidth=[400, 9]
    )
    own = reading_of(read_photo(scan))
    assert own.window == (-160.0, 239.0)
    assert own.window_reason == "the file's WindowCenter 40 and WindowWidth 400, LINEAR; the first of 2"
    pixels = np.asarray(
        read_photo(dicom(tmp_path / "b.dcm", np.array([[-160, 239]], np.int16), WindowCenter=40, WindowWidth=400))
    )
    assert pixels[0, :, 0].tolist() == [0, 255]  # the ends of the window
    assert reading_of(read_photo(scan, ReadAs("full"))).window == (-1024.0, 3071.0)
    smooth = dicom(tmp_path / "c.dcm", RAMP, WindowCenter=2047, WindowWidth=1024, VOILUTFunction="SIGMOID")
    assert reading_of(read_photo(smooth)).window == (1535.0, 2559.0)
    inverted = reading_of(read_photo(dicom(tmp_path / "d.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")))
    assert inverted.window == (0.0, 4095.0)
    assert inverted.window_reason == "the full range of its kind; MONOCHROME1, so low is white"
    many = dicom(tmp_path / "e.dcm", np.stack([RAMP, RAMP, RAMP]), NumberOfFrames=3)
    assert (reading_of(read_photo(many)).frame, reading_of(read_photo(many)).frames) == (1, 3)
    assert reading_of(read_photo(many, ReadAs(frame=2)))[:2] == (2, 3)
