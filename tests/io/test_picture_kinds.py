"""What a picture or a packed file says is what is read, and what it only claims is not: kinds, input, wanted."""

from __future__ import annotations

import gzip
import resource
import struct
import subprocess
import zlib

import nibabel
import numpy as np
import pytest
import tifffile
from hiresmed.core.errors import InputError
from hiresmed.io.pictures import picture_shape, read_colours, read_picture
from hiresmed.io.readers import open_volume
from PIL import Image

SHOWN = np.add.outer(np.arange(40), 5 * np.arange(50))  # brighter to the right and downwards
LEAST = {"u1": 255, "u2": 65535, "i2": 0, "u4": 2**32 - 1, "i4": 0, "f4": 0}
PACKINGS = [None, "zlib", "lzma"]  # those that tifffile writes by itself


def read(path):
    volume = read_picture(path)
    return volume.read((0, 0), volume.shape)


@pytest.mark.parametrize("predictor", [None, 2])
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("dtype", LEAST)
def test_a_tiff_whose_zeros_are_white_is_the_one_whose_zeros_are_black_or_is_refused(
    tmp_path, dtype, packing, predictor
):
    stored = (LEAST[dtype] - SHOWN).astype(dtype)
    if predictor and (packing is None or dtype == "f4"):
        pytest.skip("nothing to predict")
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite", compression=packing, predictor=predictor)
    try:
        values = read(tmp_path / "a.tif")
    except InputError as refused:
        assert dtype in ("i2", "u4", "i4") and "cannot be read" in str(refused)
    else:
        np.testing.assert_array_equal(values, SHOWN.astype(dtype))


@pytest.mark.parametrize("packing", ["raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_lzma", "zstd"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_every_packing_that_pillow_writes_is_turned_round_alike(tmp_path, dtype, packing):
    path = tmp_path / "a.tif"
    try:
        Image.fromarray((LEAST[dtype] - SHOWN).astype(dtype)).save(path, compression=packing)
    except (OSError, KeyError):
        pytest.skip(f"this Pillow writes no {packing}")
    with tifffile.TiffFile(path, mode="r+b") as file:  # Pillow writes zeros as black
        file.pages[0].tags[262].overwrite(0)
    np.testing.assert_array_equal(read(path), SHOWN.astype(dtype))


@pytest.mark.parametrize(("kind", "dpi", "spacing"), [
    ("png", 72, 1), ("png", 96, 1), ("png", 144, 1), ("tif", 72, 1), ("tif", 96, 1),  # a screen's
    ("png", 254, 0.1), ("png", 145.14, 0.175), ("tif", 254, 0.1), ("tif", 177.62, 0.143), ("png", 25.4, 1),
])  # fmt: skip
def test_a_screens_dots_per_inch_are_no_pixel_size(tmp_path, kind, dpi, spacing):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(SHOWN.astype(np.uint16)).save(path, dpi=(dpi, dpi))
    np.testing.assert_allclose(read_picture(path).spacing, spacing, rtol=1e-3)


def png_of(rows, columns):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def large_png(path):
    path.with_suffix(".png").write_bytes(png_of(50000, 50000))
    return path.with_suffix(".png")


def large_tiff(path):
    path = path.with_suffix(".tif")
    tifffile.imwrite(path, SHOWN.astype(np.uint16), compression="lzma", rowsperstrip=40)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in (256, 257, 278):
            file.pages[0].tags[tag].overwrite(60000)
    return path


def large_nifti(path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 1000))
    header.set_data_dtype(np.float32)
    header["magic"], header["vox_offset"] = b"n+1", 352
    path = path.with_suffix(".nii.gz")
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    return path


def long_tail(path):
    path = path.with_suffix(".nii.gz")
    nibabel.save(nibabel.Nifti1Image(SHOWN[..., None].astype(np.int16), np.eye(4)), path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**27)))
    return path


@pytest.mark.parametrize(("make", "sentence"), [
    (large_png, "header promises"), (large_tiff, "header promises"), (large_nifti, "header promises"),
    (long_tail, "unpack to the"),
])  # fmt: skip
def test_nothing_is_allocated_or_unpacked_beyond_what_the_file_can_justify(tmp_path, make, sentence):
    path = make(tmp_path / "a")
    assert path.stat().st_size < 2**18
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=sentence):
        open_volume(path, tmp_path / "work")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17, "128 MiB"
    assert not [p for p in (tmp_path / "work").glob("*") if p.stat().st_size > 2**22]
    if path.suffix != ".gz":
        with pytest.raises(InputError, match=sentence):
            read_colours(path)


def test_densely_packed_pictures_are_read(tmp_path):
    plain = np.zeros((3000, 3000), np.uint8)
    for name, options in (("a.png", {}), ("b.jpg", {}), ("c.tif", {"compression": "tiff_lzw"}), ("d.png", {"bits": 1})):
        image = Image.fromarray(plain)
        (image.convert("1") if options.pop("bits", 8) == 1 else image).save(tmp_path / name, optimize=True, **options)
        assert not read(tmp_path / name).any()
    nibabel.save(nibabel.Nifti1Image(np.zeros((200, 200, 200), np.int16), np.eye(4)), tmp_path / "e.nii.gz")
    assert open_volume(tmp_path / "e.nii.gz", tmp_path).shape == (200, 200, 200)


def test_a_postscript_file_starts_no_interpreter(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    started = []
    for name in ("Popen", "check_call", "run"):
        monkeypatch.setattr(subprocess, name, lambda *a, **k: started.append(a))
    with pytest.raises(InputError, match="cannot be read"):
        read_picture(path)
    assert started == []


# ---- headers of TIFFs: (tag, type, count, value) in the place of what the writer gave

SHORT, LONG, ASCII, FLOAT = 3, 4, 2, 11
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS = 256, 257, 258, 259, 262, 273
SAMPLES, ROWS, COUNTS, X_RESOLUTION = 277, 278, 279, 282
UNIT, TILE_WIDTH, TILE_LENGTH = 296, 322, 323
HEADERS = {
    "no width": (WIDTH, SHORT, 1, 0),
    "no length": (LENGTH, SHORT, 1, 0),
    "a length of three numbers": (LENGTH, SHORT, 3, 40),
    "a width that is text": (WIDTH, ASCII, 1, 0x31),
    "an endless length": (LENGTH, LONG, 1, 2**32 - 1),
    "no bits": (BITS, SHORT, 1, 0),
    "three bits": (BITS, SHORT, 1, 3),
    "an unknown packing": (COMPRESSION, SHORT, 1, 7777),
    "colours that are none": (PHOTOMETRIC, SHORT, 1, 99),
    "65281 samples": (SAMPLES, SHORT, 1, 65281),
    "no rows in a strip": (ROWS, SHORT, 1, 0),
    "pixels behind the file's end": (OFFSETS, LONG, 1, 2**31),
    "an offset with a fraction": (OFFSETS, FLOAT, 1, 0x43000000),
    "a strip of no bytes": (COUNTS, LONG, 1, 0),
    "a strip of 4 GB": (COUNTS, LONG, 1, 2**32 - 1),
    "a resolution that is text": (X_RESOLUTION, ASCII, 2, 0x3131),
    "a unit that is text": (UNIT, ASCII, 1, 0x32),
    "tiles of no width": (TILE_WIDTH, SHORT, 1, 0),
    "tiles of 4 Gigapixels": (TILE_WIDTH, LONG, 1, 2**31),
}  # fmt: skip


LAYOUTS = {
    "plain": {},
    "strips": {"rowsperstrip": 7, "compression": "zlib"},
    "tiles": {"tile": (16, 16), "compression": "zlib"},
}


def patched(path, tag, kind, count, value, **how):
    how = {"resolution": (100, 100), "resolutionunit": 3} | how
    tifffile.imwrite(path, SHOWN.astype(np.uint16), metadata=None, software=False, **how)
    with tifffile.TiffFile(path) as file:
        entry = file.pages[0].tags.get(tag)
        place = entry.offset if entry is not None else None
    if place is None:
        pytest.skip("this layout has no such tag")
    raw = bytearray(path.read_bytes())
    raw[place : place + 12] = struct.pack("<HHII", tag, kind, count, value)
    path.write_bytes(raw)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", HEADERS)
def test_an_odd_header_of_a_tiff_is_one_sentence_or_the_same_picture(tmp_path, kind, how):
    patched(tmp_path / "a.tif", *HEADERS[kind], **how)
    picture_shape(tmp_path / "a.tif")  # asked for before anything is read: no traceback
    try:
        values = read(tmp_path / "a.tif")
    except InputError as refused:
        assert "\n" not in str(refused) and str(refused).endswith("."), refused
    else:
        np.testing.assert_array_equal(values, SHOWN)


@pytest.mark.parametrize(("tag", "kind", "count", "value"), [
    (X_RESOLUTION, SHORT, 1, 0), (UNIT, SHORT, 1, 0), (UNIT, SHORT, 1, 9),
])  # fmt: skip
@pytest.mark.parametrize("how", [{}, {"compression": "lzma"}], ids=["streamed", "by Pillow"])
def test_a_resolution_without_a_meaning_is_no_pixel_size(tmp_path, tag, kind, count, value, how):
    patched(tmp_path / "a.tif", tag, kind, count, value, **how)
    volume = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.read((0, 0), volume.shape), SHOWN)
    assert volume.spacing == (1.0, 1.0)
