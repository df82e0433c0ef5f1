"""HEIC, AVIF and .npy as sources: pixels, depth, orientation, refusals, and what is said without the package."""

import base64
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from measures import is_one_sentence
from tectum.cli import main
from tectum.io.image import read_image, read_pixels, write_image

ROWS, COLUMNS = np.mgrid[:24, :32]
RGB = np.stack((COLUMNS * 8, ROWS * 10, 250 - COLUMNS * 7), axis=-1).astype(np.uint8)

# RGB as HEIC by pillow-heif 1.8.1 (it has an encoder, pi-heif has none):
#     exif = Image.Exif()
#     exif[0x010F], exif[0x0112] = "Maker", 6
#     pillow_heif.from_pillow(Image.fromarray(RGB)).save(file, quality=85, exif=exif.tobytes(), save_nclx_profile=False)
TURNED_8_BITS = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0005AZDn*}000000000XXk=`10000000000aA{+700000000000000000000G-+&aV*mgE07O"
    "6l0ssL300001*8l+k0000000Axl0ssI200RX80RR9100000HUIzsIB98aW&i*H00062000$fZf0cy000000RRAKc4ILB0000LX>Mj^0ssI30"
    "0IC2MR;ju000004sdC7Z2$lO00031008o7aB^?}007cyaAR)(004Dpc4I>U18@KU0FVFx0000U@BsY%`1k+-4+CHT0RR|40Sp2E{{wIU00RJ"
    "!0009300RIXx&lC90096gLID8-Z~y=U0FVFx0{{R603M(qfd!W8uA1iHA)vs3000bt00093gkk^z00u+>!E?ch0000KX>)L8000000000$00"
    "00$0000eV{Bn?0000W000010000O00001|NsBs00002|NsBk000020000GaA|mH000000|*ER00009X>xCL0{{R37-?{AVE_OC000000RRC7"
    "fdT}Bg#Z8m8fkK6W&i*H000004r63<V*mmG0RRC200C@mWMOmw00Al}0j~wJANKQbg=iYI=w!aEg0ia?Uk~#dGUnQR-{xt!zR^^iu2)CXuf6"
    "6G)MdhA#gqMOB!$^2i^AnJ_e78GDD<R+u!t=<(OGvPI#j(H&KI;J5t7GZR=n~^-;army%-CwlISk;J>gJy9;|k31lQjatc$`j&^qqkjedsfL"
    "Mb>#YyUu&jfK(WA$j7Z6Y_d|+Xn7BPiqOjY0c*eMll-yNL12C+_Xj3OBP8sr5)HBWw1D|?RQ4%;;;4by+H3#8{>TH98wD<pA9YNfy~DLw&V("
    "<G$6I0dpw?LP>b$U+l-qZ5-w?M+8%aP!E|E%*#G@ZYhimoN}Iwcg`3-9kyyEE^9iz5PH2pfi@(sV8OY<ffOTm!l<swwQ-LXvQL$=s@Bjb+21"
    "R&jW&i+9O#mtY000O80s#*I0ssI21^@s6CIJ!v0{{R30RRR70000008L?QWpV%"
)
#     deep = (RGB.astype(np.uint16) * 257).tobytes()
#     pillow_heif.encode("RGB;16", (32, 24), deep, file, quality=85, save_nclx_profile=False)
TEN_BITS = base64.b85decode(
    "0000SW^{RQXk}@500000ZE0pPXk}@5ZE0a<0004KZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=IV*mgE07O"
    "6l0RRC200001i~s=u00000008Cy001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002!X>f9I0002VX>en20"
    "001WXm(>m0R#vD005o1000009`FGC{rdU<01pFT0096OKmiN^|NjIC00093owxu10{{RXx&lC90096hLID8;2mk;B0G+r100RI39-ttB1lew"
    "?>8@@98Vm>k00RKX000932tZ;00RRR>0l{;@i2wiq6lrsCWdHyG00000KmY&$KmY&$C}V74Z~y=RAOHXW0RR917ytkO0ssI1-~a#s0{{R2*Z"
    "=?k0ssI25O8UDX#fBK00RmN3IG5A7in;9VE_OC000000RRC6fdT}B0002)ZDe6|0002uC;_hpvL6+}(1mIo0{4;jXf9q~f5AQ@SrJP=S7szg"
    "3Z&(7x;~wK?=cHemkEo|PxY*l7i6X`sFc?A5<W0y?UntL2Rde;{cK-v(jdebS$1m~bzoWDYAMtwu~sli9YT74UE5b>(*OVZTagI>746;+5ME"
    "x2Cp@n>M5TlKi$sR+nU@q+4xvwh6=Nn|+n?+hsz!^w9fby&ZO&Sb+KUAX(+6@h>iV|-+<&*E0QNOwI^mi^=8JO94s@kv9XzX&(GUOs(1b0Au"
    "w>$@bK#@@vC;3)PR?@YKd!43hu{"
)


def avif(pixels: Any, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "AVIF", quality=95, subsampling="4:4:4", exif=exif.tobytes())
    return stream.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def read(data: bytes, folder: Path) -> Any:
    (folder / "x.bin").write_bytes(data)  # the extension must not matter
    return read_pixels(folder / "x.bin")


# -- HEIC and AVIF -----------------------------------------------------------------------------------------------------


def test_heic_is_read_upright_with_its_metadata(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    pixels = read(TURNED_8_BITS, tmp_path)
    assert pixels.dtype == np.uint8 and pixels.shape == (32, 24, 3)
    assert np.abs(pixels.astype(int) - np.rot90(RGB, -1)).mean() < 4  # half the colour resolution
    metadata = read_image(tmp_path / "x.bin").metadata
    write_image(tmp_path / "f.png", pixels, metadata=metadata)
    assert Image.open(io.BytesIO((tmp_path / "f.png").read_bytes())).getexif()[0x010F] == "Maker"
    np.testing.assert_array_equal(read_pixels(tmp_path / "f.png"), pixels)  # its orientation is applied once


def test_heic_of_ten_bits_spans_sixteen(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    pixels = read(TEN_BITS, tmp_path)
    assert pixels.dtype == np.uint16 and pixels.shape == (24, 32, 3)
    assert np.abs(pixels / 257 - RGB).mean() < 4
    codes = np.arange(1024)
    allowed = np.floor(codes * 65535 / 1023 + 0.5)
    assert np.isin(pixels, allowed).all() and {0, 65535} <= set(allowed)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_avif_is_read_upright(orientation: int, tmp_path: Path) -> None:
    if not features.check("avif"):
        pytest.skip("Pillow reads AVIF from 11.3 on")
    pixels = read(avif(RGB, orientation), tmp_path)
    assert np.abs(pixels.astype(int) - np.rot90(RGB, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])).mean() < 3
    assert "exif" in read_image(tmp_path / "x.bin").metadata


def test_without_the_package_a_sentence_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.setattr(features, "check", lambda name: False)
    for data in (TURNED_8_BITS, b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(40)):
        with pytest.raises(ValueError, match=r"pip install 'tectum\[heif\]'") as caught:
            read(data, tmp_path)
        assert is_one_sentence(caught.value)


@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_cut_phone_pictures_are_refused(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    data = TURNED_8_BITS if kind == "heic" else avif(RGB)
    for length in np.linspace(40, len(data) - 5, 12).astype(int):
        with pytest.raises(ValueError, match=r"truncated|damaged") as caught:
            read(data[:length], tmp_path)
        assert is_one_sentence(caught.value)


def test_folders_find_them_all(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    for side in ("vi", "ir"):
        (tmp_path / side).mkdir()
    for name, data in (("a.heic", TEN_BITS), ("b.avif", avif(RGB)), ("c.NPY", npy(RGB))):
        (tmp_path / "vi" / name).write_bytes(data)
        np.save(tmp_path / "ir" / Path(name).stem, np.float32(COLUMNS) - 10)
    command = ["fuse", str(tmp_path / "vi"), str(tmp_path / "ir"), "-o", str(tmp_path / "out"), "--system", "average"]
    assert main([*command, "--quiet", "--infrared-range=-10,21"]) == 0
    for name in "abc":
        fused = read_pixels(tmp_path / "out" / f"{name}.png")
        assert fused.shape == (24, 32, 3) and fused[12, 31].mean() > fused[12, 0].mean()


def test_they_are_not_written(tmp_path: Path) -> None:
    for extension in (".heic", ".avif", ".npy"):
        with pytest.raises(ValueError, match="cannot tell the image format") as caught:
            write_image(tmp_path / f"a{extension}", RGB)
        assert extension not in str(caught.value).split("end the name in")[1]


# -- .npy --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>=")
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays_are_read_as_saved(shape: tuple[int, ...], kind: str, order: str, tmp_path: Path) -> None:
    array = (np.arange(np.prod(shape)).reshape(shape) % 100).astype(order + kind)
    for data in (npy(array), npy(np.asfortranarray(array))):
        pixels = read(data, tmp_path)
        assert pixels.dtype == np.dtype(kind)
        np.testing.assert_array_equal(pixels, array[..., 0] if shape[-1] == 1 else array)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[{"a": 1}, None]], dtype=object),
        np.zeros((3, 5, 7)),
        np.zeros(9),
        np.zeros((0, 4)),
        np.zeros((4, 4), complex),
        np.zeros((4, 4), np.float16),
        np.zeros((4, 4), bool),
        np.zeros((4, 4), "U3"),
        np.zeros((4, 4), [("x", "f4")]),
    ],
    ids=["objects", "channels first", "one axis", "empty", "complex", "float16", "bool", "text", "fields"],
)
def test_other_arrays_are_refused_before_anything_is_loaded(array: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an image is \\(H,W\\)") as caught:
        read(npy(array, allow_pickle=True), tmp_path)
    assert is_one_sentence(caught.value)


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    data = npy(RGB)
    for length in (7, 9, 60, 130, len(data) - 1):
        with pytest.raises(ValueError, match=r"truncated|damaged") as caught:
            read(data[:length], tmp_path)
        assert is_one_sentence(caught.value)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    with pytest.raises(ValueError, match="the limit is"):
        read(huge.getvalue(), tmp_path)
