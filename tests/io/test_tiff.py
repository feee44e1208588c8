"""TIFFs are read box by box and written tile by tile: same values, same spacing, same bytes, constant memory."""

import sys
import textwrap

import numpy as np
import programs
import pytest
import tifffile
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume, Volume
from hiresmed.io import CaseOutput, writers
from hiresmed.io.pictures import read_picture
from hiresmed.io.readers import open_volume
from hiresmed.io.tiff import TiffVolume
from hiresmed.io.writers import write_image_2d
from PIL import Image

AFFINE = np.array([[0, -0.2, 0, 0], [-0.143, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def random_picture(dtype=np.uint16, shape=(301, 530)):
    values = np.random.default_rng(0).normal(100, 30, shape)
    return values.astype(np.float32) if np.dtype(dtype).kind == "f" else values.clip(0, 255).astype(dtype)


def assert_boxes_equal(volume, whole):
    assert volume.shape == whole.shape
    rng = np.random.default_rng(1)
    for _ in range(25):
        start = [int(rng.integers(0, n)) for n in whole.shape]
        shape = [int(rng.integers(1, n - s + 1)) for s, n in zip(start, whole.shape)]
        box = volume.read(start, shape)
        assert box.dtype == volume.dtype and box.dtype.isnative
        np.testing.assert_array_equal(box, whole[tuple(slice(s, s + n) for s, n in zip(start, shape))])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"tile": (64, 128)},
        {"tile": (64, 128), "byteorder": ">", "compression": "zlib"},
        {"tile": (64, 128), "compression": "zlib", "predictor": True},
        {"rowsperstrip": 37, "compression": "zlib"},
        {"rowsperstrip": 37, "compression": "zlib", "predictor": True, "byteorder": ">"},
        {"tile": (256, 256), "bigtiff": True, "compression": "zlib"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_any_box_of_a_plain_or_deflated_tiff_is_the_whole_files_box(tmp_path, dtype, options):
    options = dict(options)
    if np.dtype(dtype).kind == "f":
        options.pop("predictor", None)
    values = random_picture(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    volume = open_volume(tmp_path / "a.tif", tmp_path)
    assert isinstance(volume, TiffVolume) and volume.dtype == dtype and volume.name == "a.tif"
    assert_boxes_equal(volume, values)


def test_a_box_that_is_changed_changes_no_later_one(tmp_path):
    values = random_picture()
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(64, 64), compression="zlib")
    volume = open_volume(tmp_path / "a.tif", tmp_path)
    volume.read((0, 0), (64, 64))[:] = 0
    np.testing.assert_array_equal(volume.read((0, 0), (64, 64)), values[:64, :64])


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_what_tifffile_cannot_decode_alone_pillow_reads_whole(tmp_path, compression):
    values = random_picture(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.tif", compression=compression, dpi=(254, 127))
    volume = read_picture(tmp_path / "a.tif")
    assert_boxes_equal(volume, values)
    np.testing.assert_allclose(volume.spacing, (0.2, 0.1), rtol=1e-4)


def test_colour_becomes_luma_and_a_turned_picture_is_turned(tmp_path):
    colour = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", colour, tile=(16, 16), compression="zlib", photometric="rgb")
    assert abs(int(read_picture(tmp_path / "rgb.tif").read((0, 0), (1, 1))[0, 0]) - 124) <= 1
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(tmp_path / "t.tif", tiffinfo={274: 6})
    np.testing.assert_array_equal(read_picture(tmp_path / "t.tif").read((0, 0), (3, 2)), [[3, 0], [4, 1], [5, 2]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_where_white_is_zero_the_picture_is_inverted(tmp_path, dtype, tile):
    values = random_picture(dtype, (20, 30))
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite", tile=tile)
    assert_boxes_equal(read_picture(tmp_path / "a.tif"), np.iinfo(dtype).max - values)


@pytest.mark.parametrize("length", [5, 20, 200])
@pytest.mark.filterwarnings("ignore")
def test_a_tiff_cut_in_its_header_is_refused_in_one_sentence(tmp_path, length, capfd):
    tifffile.imwrite(tmp_path / "a.tif", random_picture(), tile=(64, 64), compression="zlib")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:length])
    with pytest.raises(InputError, match="truncated or of another kind"):
        read_picture(tmp_path / "a.tif")
    assert "tifffile" not in capfd.readouterr().err  # what it says comes as our own sentence


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_a_cut_or_damaged_tiff_is_refused_in_one_sentence(tmp_path, tile):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random_picture(), tile=tile, compression="zlib" if tile else None)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="truncated"):
        read_picture(path)
    if tile:
        offset = tifffile.TiffFile(path).pages.first.dataoffsets[3]
        path.write_bytes(whole[:offset] + bytes(50) + whole[offset + 50 :])
        volume = read_picture(path)
        volume.read((0, 0), (64, 64))
        with pytest.raises(InputError, match="tile 3 that cannot be decoded"):
            volume.read((0, 0), volume.shape)


def test_several_pages_and_values_that_are_not_finite_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 40, 40), np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match="got 3 pages"):
        read_picture(tmp_path / "a.tif")
    values = random_picture(np.float32)
    values[200, 300] = np.nan
    tifffile.imwrite(tmp_path / "b.tif", values, tile=(64, 64))
    with pytest.raises(InputError, match=r"\(200, 300\)"):
        read_picture(tmp_path / "b.tif").read((190, 290), (50, 50))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64, np.bool_])
@pytest.mark.parametrize("shape", [(301, 530), (5, 9), (256, 512)])
def test_a_written_tiff_has_the_values_for_us_and_for_pillow_and_the_same_bytes_again(tmp_path, dtype, shape):
    values = random_picture(dtype, shape)
    first, second = (write_image_2d(ArrayVolume(values, AFFINE), tmp_path / name) for name in ("a.tif", "b.tiff"))
    volume = read_picture(first)
    assert isinstance(volume, TiffVolume)
    np.testing.assert_array_equal(volume.read((0, 0), shape), values.astype(volume.dtype))
    with Image.open(first) as picture:
        np.testing.assert_array_equal(np.asarray(picture), values)
    with tifffile.TiffFile(first) as file:
        page = file.pages.first
        assert (page.tilelength, page.tilewidth, int(page.compression)) == (256, 256, 8)
        assert not {270, 305, 306, 315} & {tag.code for tag in page.tags}  # texts and times
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.tiff"]


@pytest.mark.parametrize("spacing", [(0.143, 0.2), (0.1388889, 0.1388889), (1 / 3, 7.5), (1.0, 1.0), (1e-4, 2e-4)])
def test_the_pixel_spacing_survives(tmp_path, spacing):
    volume = ArrayVolume(random_picture(np.uint8, (5, 9)), np.diag([*spacing, 1.0, 1.0]))
    back = read_picture(write_image_2d(volume, tmp_path / "a.tif"))
    np.testing.assert_allclose(back.spacing, spacing, rtol=1e-5)


def test_values_that_come_as_floats_are_rounded_to_what_the_volume_stores(tmp_path):
    class Floats(ArrayVolume):
        def read(self, start, shape):
            return super().read(start, shape) + np.float32(0.4)

    values = random_picture(np.uint16, (20, 30))
    for name in ("a.tif", "a.png"):
        back = read_picture(write_image_2d(Floats(values), tmp_path / name))
        assert back.dtype == np.uint16
        np.testing.assert_array_equal(back.read((0, 0), back.shape), values)


def test_a_write_that_fails_leaves_nothing_and_a_large_one_becomes_a_bigtiff(tmp_path, monkeypatch):
    class Broken(Volume):
        shape, affine, dtype, name = (600, 600), np.eye(4), np.dtype(np.uint8), "broken"

        def read(self, start, shape):
            if start[0]:
                raise InputError("no more.")
            return np.zeros(shape, np.uint8)

    with pytest.raises(InputError):
        write_image_2d(Broken(), tmp_path / "a.tif")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("hiresmed.io.tiff.CLASSIC_BYTES", 1000)
    path = write_image_2d(ArrayVolume(random_picture()), tmp_path / "b.tif")
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
    np.testing.assert_array_equal(read_picture(path).read((0, 0), (301, 530)), random_picture())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_writing_and_reading_25_mb_grows_the_process_by_less_than_15_mb(tmp_path):
    program = """
        import re, numpy as np
        from hiresmed.io.tiff import open_tiff
        from hiresmed.io.writers import write_image_2d
        from hiresmed.core.volumes import Volume, iter_boxes

        class Ramp(Volume):
            affine, dtype, name = np.eye(4), np.dtype(np.uint16), "ramp"
            def __init__(self, n): self.shape = (n, n)
            def read(self, start, shape):
                i, j = np.ogrid[tuple(slice(s, s + n) for s, n in zip(start, shape))]
                return ((7 * i + j) % 60000).astype(np.uint16)

        def there_and_back(n):
            volume = Ramp(n)
            back = open_tiff(write_image_2d(volume, "x.tif"))
            for start, shape in iter_boxes(volume.shape, 300):
                assert (back.read(start, shape) == volume.read(start, shape)).all()

        def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024

        there_and_back(600)
        before = peak()
        there_and_back(3500)
        print(peak() - before)
    """
    done = programs.run(["-c", textwrap.dedent(program)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 15


def test_a_picture_too_large_for_a_png_becomes_a_tiff_and_is_refused_as_png(tmp_path, monkeypatch):
    for module in (writers, sys.modules["hiresmed.io.outputs"]):
        monkeypatch.setattr(module, "PNG_PIXELS", 1000)
    small, large = ArrayVolume(np.zeros((20, 50), np.uint8)), ArrayVolume(np.zeros((21, 50), np.uint8))
    for volume in (small, large):
        Image.fromarray(volume.array).save(tmp_path / f"{volume.shape[0]}.png")

    def output(**options):
        return CaseOutput(str(tmp_path / "out"), **options)

    for source, size, region, kind in (
        ("20.png", None, None, "png"),
        ("21.png", None, None, "tiff"),
        ("20.png", [40, 100], None, "tiff"),
        ("21.png", None, [[0, 10], [0, 10]], "png"),
        ("21.png", [20, 20], None, "png"),
    ):
        case = {"name": "a", "source": tmp_path / source}
        assert output(size=size, region=region).format_of(case) == kind
    assert output().format_of({"name": "a", "source": small}) == "png"
    assert output().format_of({"name": "a", "source": large}) == "tiff"
    case = {"name": "a", "source": tmp_path / "20.png"}
    output().check(case, (20, 50))
    with pytest.raises(InputError, match="set output_format to tiff"):
        output().check(case, (40, 100))  # a size that the output was not told of
    with pytest.raises(InputError, match="set output_format to tiff"):
        output(output_format="png").check({"name": "a", "source": large}, large.shape)
    with pytest.raises(InputError, match="set output_format to tiff"):
        write_image_2d(large, tmp_path / "b.png")
