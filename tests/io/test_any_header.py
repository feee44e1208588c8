"""Whatever a header or a name says, its image is read or refused in one sentence: no traceback, no hang, no GB.

A few examples, always the same, in the quick suite; with `-m slow` random ones for HIRESMED_FUZZ_SECONDS (600).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from hiresmed.core.errors import first_input_error
from hiresmed.core.volumes import ArrayVolume, Volume, picture_affine
from hiresmed.io import CaseOutput, open_volume
from hiresmed.io.stores import ZarrStores
from hiresmed.io.writers import save_volume
from PIL import Image

hypothesis = pytest.importorskip("hypothesis", reason="headers are made up by hypothesis (extra test)")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

SECONDS = float(os.environ.get("HIRESMED_FUZZ_SECONDS", "600"))
SHAPE = (7, 6, 5)
VALUES = np.arange(210, dtype=np.int16).reshape(SHAPE)
CONSTANT = 48e6  # bytes that a reader may take whatever the file: tables of codecs, a first slab, Python's own
AFFINE = np.diag([-1.5, -1.5, 2.0, 1.0])


def nifti(folder: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(VALUES, AFFINE), folder / "a.nii")
    return folder / "a.nii"


def packed_nifti(folder: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(VALUES, AFFINE), folder / "a.nii.gz")
    return folder / "a.nii.gz"


def picture(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / f"a.{suffix}"
        Image.fromarray(VALUES[..., 0].astype(np.uint8)).save(path, **({"dpi": (50, 50)} if suffix != "jpg" else {}))
        return path

    return write


def tiff_of_tiles(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", np.zeros((48, 40), np.uint16), tile=(16, 16), compression="zlib")
    return folder / "a.tif"


def dicom(folder: Path) -> Path:
    pytest.importorskip("pydicom")
    save_volume(ArrayVolume(VALUES[..., 0], picture_affine(1, 1)), folder / "a", "dcm", seed=0)
    return folder / "a.dcm"


def series(folder: Path) -> Path:
    pytest.importorskip("pydicom")
    (path,) = save_volume(ArrayVolume(VALUES, AFFINE), folder / "a", "dicom", seed=0)
    return path


def nrrd(folder: Path) -> Path:
    header = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 7 6 5\nspace directions: "
    header += "(1,0,0) (0,1,0) (0,0,2)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
    header += "space origin: (0,0,0)\n\n"
    (folder / "a.nrrd").write_bytes(header.encode() + VALUES.tobytes(order="F"))
    return folder / "a.nrrd"


def mha(folder: Path) -> Path:
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
    )
    header += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 2\nDimSize = 7 6 5\n"
    header += "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (folder / "a.mha").write_bytes(header.encode() + VALUES.tobytes(order="F"))
    return folder / "a.mha"


def zarr(folder: Path) -> Path:
    (level,) = ZarrStores(folder).pyramid("a", [SHAPE], [1], AFFINE, "int16", 1.0, [SHAPE])
    level.write((0, 0, 0), VALUES)
    return folder / "a.ome.zarr"


KINDS = {
    "nifti": nifti,
    "nifti.gz": packed_nifti,
    "png": picture("png"),
    "jpg": picture("jpg"),
    "tiff": picture("tif"),
    "tiff of tiles": tiff_of_tiles,
    "dicom": dicom,
    "series": series,
    "nrrd": nrrd,
    "mha": mha,
    "zarr": zarr,
}
WORDS = [b"0", b"-1", b"nan", b"1e400", b"99999999999", b"", b"\0", b"\xff\xfe", b"(", b"=", b"LIST", b"%s", b"../../x"]
INTEGERS = [0, 1, -1, 2, 127, 128, 255, 256, 2**15 - 1, -(2**15), 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1]
FLOATS = [0.0, -0.0, 1e-45, 1e38, -1.0, float("nan"), float("inf")]
ATTRIBUTES = [None, True, 0, -1, 2.5, 1e400, "", "x", [], [0], [[]], {}, {"a": 1}, "../../..", 2**70]


@st.composite
def damages(draw) -> list[tuple]:
    """What is done to a file, each at a place (0 to 1 of the header or file)."""
    place = st.floats(0, 1, exclude_max=True)
    patch = st.one_of(
        st.tuples(st.just("bytes"), place, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("bytes"), place, st.sampled_from(WORDS)),
        st.tuples(st.just("int"), place, st.sampled_from(INTEGERS), st.sampled_from("<>"), st.sampled_from("bhiq")),
        st.tuples(st.just("float"), place, st.sampled_from(FLOATS), st.sampled_from("<>"), st.sampled_from("fd")),
        st.tuples(st.just("cut"), place),
        st.tuples(st.just("insert"), place, st.binary(max_size=64)),
        st.tuples(st.just("line"), place, st.sampled_from(WORDS)),
        st.tuples(st.just("attribute"), place, st.sampled_from(ATTRIBUTES)),
    )
    return draw(st.lists(patch, min_size=1, max_size=3))


def damaged(content: bytes, what: tuple, header: int) -> bytes:
    """The file's content after one damage; most of them meet the header."""
    kind, place, *how = what
    at = int(place * min(header, max(len(content), 1)))
    if kind == "cut":
        return content[: int(place * len(content))]
    if kind == "insert":
        return content[:at] + how[0] + content[at:]
    if kind == "line":
        lines = content[:header].split(b"\n")
        n = int(place * len(lines))
        name, sign, _ = lines[n].partition(b":" if b":" in lines[n] else b"=")
        lines[n] = name + sign + b" " + how[0]
        return b"\n".join(lines) + content[header:]
    if kind in ("int", "float"):
        value, order, code = how
        size = struct.calcsize(code)
        patch = (
            struct.pack(order + code, value)
            if kind == "float"
            else (value % 2 ** (8 * size)).to_bytes(size, "little" if order == "<" else "big")
        )
        if code == "f" and abs(value) > 3e38:
            patch = struct.pack(order + "f", float("inf"))
    else:
        patch = how[0] if isinstance(how[0], bytes) else json.dumps(how[0]).encode()
    return content[:at] + patch + content[at + len(patch) :]


def places_in(attributes, path: tuple = ()) -> list[tuple]:
    """Ways to each entry of nested dicts and lists."""
    ways = [path] if path else []
    entries = attributes.items() if isinstance(attributes, dict) else enumerate(attributes)
    for key, value in entries if isinstance(attributes, dict | list) else ():
        ways += places_in(value, (*path, key))
    return ways


def with_attribute(content: bytes, place: float, value) -> bytes:
    """zarr.json with one entry, however deep, that is another."""
    attributes = json.loads(content)
    ways = places_in(attributes)
    *way, last = ways[int(place * len(ways))]
    inner = attributes
    for key in way:
        inner = inner[key]
    inner[last] = value
    return json.dumps(attributes).encode()


def damage(path: Path, whats: list[tuple]) -> None:
    for what in whats:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if path.suffix == ".zarr" and what[1] < 0.8:
            files = [file for file in files if file.name == "zarr.json"]
        file = files[int(what[1] * 977 % 1 * len(files))]
        content = file.read_bytes()
        if what[0] == "attribute" and file.name == "zarr.json":
            file.write_bytes(_attribute(content, what))
            continue
        header = {".nii": 352, ".dcm": 1400, ".nrrd": 300, ".mha": 320}.get(file.suffix, len(content))
        file.write_bytes(damaged(content, what, header))


def _attribute(content: bytes, what: tuple) -> bytes:
    try:
        return with_attribute(content, what[1], what[2])
    except (ValueError, KeyError, IndexError, TypeError):  # damaged before
        return content


def memory(field: str) -> int:
    """A field of /proc/self/status in bytes: VmHWM is the most since the last `forget_peak`, VmRSS what there is."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


@contextmanager
def bounded(most_bytes: float, seconds: float):
    """What runs inside may take neither more memory, that of ITK and Pillow included, nor more time."""
    counted = os.access("/proc/self/clear_refs", os.W_OK)
    if counted:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
        before = memory("VmRSS")
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds
    if counted:
        grown = memory("VmHWM") - before
        assert grown < most_bytes, f"{grown / 1e6:.0f} MB"


@pytest.fixture(scope="module", autouse=True)
def intact(tmp_path_factory):
    """Every kind is read when nothing is damaged; whatever is loaded or kept once for all is there from then on."""
    for kind, write in KINDS.items():
        folder = tmp_path_factory.mktemp(kind.replace(" ", "_"))
        volume = open_volume(write(folder), folder / "work")
        assert volume.read([0] * len(volume.shape), volume.shape).size >= 42


def read_whole(path: Path, folder: Path) -> np.ndarray | None:
    """An image read as a run does, with a value for each voxel that its header promises; None after an InputError."""
    try:
        CaseOutput(str(folder / "out")).format_of({"name": "a", "source": str(path)})
        volume = open_volume(path, folder / "work")
        values = volume.read([0] * len(volume.shape), volume.shape)
    except Exception as error:
        mistake = first_input_error(error)
        if mistake is None:
            raise
        assert str(mistake).isprintable() and str(mistake).endswith("."), repr(mistake)
        return None
    assert isinstance(volume, Volume) and values.shape == volume.shape
    assert np.isfinite(values).all() and np.isfinite(volume.affine).all() and min(volume.spacing) > 0
    return values


def check(kind: str, whats: list[tuple]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    try:
        path = KINDS[kind](folder)
        damage(path, whats)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        with bounded(2 * size + CONSTANT, 20):
            read_whole(path, folder)
        unpacked = sum(p.stat().st_size for p in (folder / "work").rglob("*") if p.is_file())
        assert unpacked < 2000 * size + CONSTANT
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_header_is_read_or_refused_in_one_sentence(kind):
    @settings(max_examples=12, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(damages())
    def examples(whats):
        check(kind, whats)

    examples()


DICOM_LENGTHS = {  # behind these GDCM reads lengths of gigabytes
    "an element without a type": [("insert", 0.9421456707790331, b"\x85Z\xb5m\x15\x02\x83\xb1\xb1\xa6\xb9")],
    "a type that nobody knows": [("line", 0.588525843732393, b"-1")] * 3,
}


@pytest.mark.parametrize("case", DICOM_LENGTHS)
def test_a_length_in_a_damaged_dicom_file_takes_no_memory(case):
    check("dicom", DICOM_LENGTHS[case])


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_headers_for_ten_minutes(kind):
    """All kinds and names together take HIRESMED_FUZZ_SECONDS."""
    until = time.monotonic() + SECONDS / (len(KINDS) + 1)
    count = 0

    @settings(max_examples=100, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damages())
    def examples(whats):
        nonlocal count
        count += 1
        check(kind, whats)

    while time.monotonic() < until:
        examples()
    print(f"{kind}: {count} examples")


NAMES = st.one_of(
    st.binary(min_size=1, max_size=240),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).map(str.encode),
).filter(lambda name: name not in (b".", b"..") and not {0, ord("/")} & set(name))


def check_name(kind: str, name: bytes, own_suffix: bool) -> None:
    """A sound image by any name: read as by its own, or refused in one sentence."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    try:
        (folder / "images").mkdir()
        sound = KINDS[kind](folder)
        own = read_whole(sound, folder)
        shutil.rmtree(folder / "work", ignore_errors=True)
        suffix = "".join(sound.suffixes) if own_suffix else ""
        path = sound.rename(folder / "images" / (os.fsdecode(name) + suffix))
        values = read_whole(path, folder)
        assert values is None or np.array_equal(values, own)
    finally:
        shutil.rmtree(folder)


NAMED = given(st.sampled_from([kind for kind in KINDS if kind != "series"]), NAMES, st.booleans())


def test_a_name_with_a_tilde_is_nobodys_home():
    check_name("nifti.gz", b"~", True)


def test_a_file_of_any_name_is_read_or_refused_in_one_sentence():
    settings(max_examples=25, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
             suppress_health_check=list(HealthCheck))(NAMED(check_name))()  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_files_of_random_names_for_their_share_of_ten_minutes():
    until = time.monotonic() + SECONDS / (len(KINDS) + 1)
    examples = settings(max_examples=100, database=None, deadline=None, suppress_health_check=list(HealthCheck))(
        NAMED(check_name)
    )
    count = 0
    while time.monotonic() < until:
        examples()
        count += 100
    print(f"names: {count} examples")
