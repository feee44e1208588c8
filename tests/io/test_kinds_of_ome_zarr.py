"""OME-Zarr of other programs: a table of what the metadata say and of what is read, said or refused.

A row is (kind, change of a sound image, wanted): the affine and values that are right, a warning, or a sentence.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import content_digest
from hiresmed.io import ZarrStores, open_level
from hiresmed.io.readers import cases, open_volume

SIZE = {"t": 1, "c": 1, "z": 4, "y": 5, "x": 6}
SCALE = {"t": 1.0, "c": 1.0, "z": 2.5, "y": 0.5, "x": 0.75}
SHIFT = {"t": 0.0, "c": 0.0, "z": 30.0, "y": -8.0, "x": 10.0}
KIND = {"t": "time", "c": "channel"}
LPS = {"x": "right-to-left", "y": "anterior-to-posterior", "z": "inferior-to-superior"}
RAS = {"x": "left-to-right", "y": "posterior-to-anterior", "z": "inferior-to-superior"}
VALUES = np.arange(120, dtype=np.int16).reshape(4, 5, 6) - 50  # z, y, x


def axis(name, **changes):
    entry = {"name": name, "type": KIND.get(name, "space"), **changes}
    if entry["type"] == "space":
        entry = {"unit": "millimeter", "orientation": {"type": "anatomical", "value": LPS[name.lower()]}} | entry
    return {key: value for key, value in entry.items() if value is not None}


def store(
    path: Path, order="zyx", size=None, version="0.5", levels=1, axes=None, shared=None, fill=0, tell=None, **array
) -> Path:
    """An image of VALUES with its axes in this order; `tell` changes the multiscale's metadata before it is written."""
    size = SIZE | (size or {})
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    usual = [a for a in "tczyx" if a in order]
    values = np.broadcast_to(VALUES[: size["z"]] if "z" in order else VALUES[0], [size[a] for a in usual])
    values = values.transpose([usual.index(a) for a in order])
    for level in range(levels):
        part = values[tuple(slice(None, None, 2**level if a in "zyx" else 1) for a in order)]
        made = group.create_array(
            str(level), shape=part.shape, dtype="int16", fill_value=fill, chunks=array.get("chunks", part.shape)
        )
        made[...] = part
    multiscale = {
        "axes": axes or [axis(a) for a in order],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [SCALE[a] * (2**level if a in "zyx" else 1) for a in order]},
                    {"type": "translation", "translation": [SHIFT[a] for a in order]},
                ],
            }
            for level in range(levels)
        ],
    }
    if shared:
        multiscale["coordinateTransformations"] = shared
    if tell:
        tell(multiscale)
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    else:
        group.attrs["multiscales"] = [multiscale | {"version": version}]
    return path


def place(volume, z, y, x, order):
    """mm in RAS of the voxel (z, y, x), by the volume's affine."""
    index = [dict(z=z, y=y, x=x)[a] for a in order if a in "zyx"]
    return (volume.affine @ [*index, *[0] * (3 - len(index)), 1])[:3]


def at(z, y, x, unit=1.0, scale=SCALE, shift=SHIFT):
    """Where the voxel lies: x to the patient's left, y to the back, z up."""
    return (
        np.array([-(scale["x"] * x + shift["x"]), -(scale["y"] * y + shift["y"]), scale["z"] * z + shift["z"]]) * unit
    )


def everything(volume):
    return volume.read([0] * len(volume.shape), volume.shape)


# ---- right: which array, and where its voxels lie

ORDERS = ["zyx", "xyz", "yxz", "tczyx", "czyx", "tzyx", "zyxc"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("order", ORDERS)
def test_axes_in_any_order_lie_where_their_names_scale_and_translation_say(tmp_path, order, version, caplog):
    volume = open_volume(store(tmp_path / "a.zarr", order, version=version), tmp_path)
    space = [a for a in order if a in "zyx"]
    np.testing.assert_array_equal(everything(volume), VALUES.transpose(["zyx".index(a) for a in space]))
    np.testing.assert_allclose(volume.affine[:3, 3], at(0, 0, 0))
    np.testing.assert_allclose(place(volume, 3, 2, 1, order), at(3, 2, 1))
    assert not caplog.records


def without(*keys, **changes):
    return [axis(a, **dict.fromkeys(keys), **changes) for a in "zyx"]


def units(unit):
    return without(unit=unit)


READ = {  # kind: (arguments of store, mm of the voxel (1, 2, 3), what is said)
    "upper case": ({"axes": [axis(a) for a in "ZYX"]}, at(1, 2, 3), ""),
    "axes without a type": ({"axes": [{**axis(a), "type": None} for a in "zyx"]}, at(1, 2, 3), ""),
    "micrometre": ({"axes": units("micrometer")}, at(1, 2, 3, 1e-3), ""),
    "nm": ({"axes": units("nm")}, at(1, 2, 3, 1e-6), ""),
    "metre": ({"axes": units("meter")}, at(1, 2, 3, 1e3), ""),
    "millimetre, spelt so": ({"axes": units("Millimetre")}, at(1, 2, 3), ""),
    "no unit": ({"axes": without("unit")}, at(1, 2, 3), "no unit of length of z, y, x; its scale is taken as mm"),
    "pixels": ({"axes": units("pixel")}, at(1, 2, 3), "no unit of length"),
    "no orientation": ({"axes": without("orientation")}, at(1, 2, 3), "may exchange left and right"),
    "RAS": (
        {"axes": [axis(a, orientation={"type": "anatomical", "value": RAS[a]}) for a in "zyx"]},
        at(1, 2, 3) * [-1, -1, 1], "",
    ),
    "an earlier draft's orientation": (
        {"axes": [axis(a, orientation=None, anatomicalOrientation=RAS[a]) for a in "zyx"]},
        at(1, 2, 3) * [-1, -1, 1], "",
    ),
    "axes as names alone (0.3)": ({"axes": ["z", "y", "x"]}, at(1, 2, 3), "no unit of length"),
    "a scale of all levels": (
        {"shared": [{"type": "scale", "scale": [2, 2, 2]}, {"type": "translation", "translation": [1, 2, 3]}]},
        2 * at(1, 2, 3) + [-3, -2, 1], "",
    ),
    "an identity": ({"shared": [{"type": "identity"}]}, at(1, 2, 3), ""),
    "two images": ({"twice": True}, at(1, 2, 3), "holds 2 images; the first is taken"),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_units_orientations_and_transformations_are_read_and_what_is_left_open_is_said(tmp_path, kind, caplog):
    options, wanted, said = READ[kind]
    options = dict(options)
    twice = options.pop("twice", False)
    path = store(tmp_path / "a.zarr", **options)
    if twice:
        group = zarr.open_group(path)
        group.attrs["ome"] = {"multiscales": group.attrs["ome"]["multiscales"] * 2}
    volume = open_volume(path, tmp_path)
    np.testing.assert_allclose(place(volume, 1, 2, 3, "zyx"), wanted)
    told = " ".join(record.getMessage() for record in caplog.records)
    assert said in told and bool(said) == bool(told)


@pytest.mark.parametrize("order", ["yx", "xy", "cyx", "zyx"])
def test_a_plane_is_a_picture_of_rows_and_columns(tmp_path, order, caplog):
    path = store(tmp_path / "a.zarr", order, size={"z": 1}, axes=[axis(a, orientation=None) for a in order])
    volume = open_volume(path, tmp_path)
    np.testing.assert_array_equal(everything(volume), VALUES[0])
    assert volume.spacing == (0.5, 0.75) and not caplog.records
    np.testing.assert_allclose((volume.affine @ [2, 3, 0, 1])[:2], at(0, 2, 3)[:2])


def test_each_level_has_its_own_scale(tmp_path):
    path = store(tmp_path / "a.zarr", levels=2)
    np.testing.assert_array_equal(everything(open_level(path, 1)), VALUES[::2, ::2, ::2])
    assert open_level(path, 1).spacing == (5.0, 1.0, 1.5)
    with pytest.raises(InputError, match=r"must have a level 2, got 2 levels"):
        open_level(path, 2)


def test_a_store_is_known_by_what_lies_in_it_whatever_its_name(tmp_path):
    for name in ("0", "b.ome.zarr"):
        store(tmp_path / name)
    assert [case["name"] for case in cases(dataset_dir=tmp_path)] == ["0", "b.ome"]
    np.testing.assert_array_equal(everything(open_volume(tmp_path / "0", tmp_path)), VALUES)


def test_the_same_metadata_with_other_values_is_another_image(tmp_path):
    digests = []
    for n in range(2):
        path = store(tmp_path / "a.zarr")
        zarr.open_group(path)["0"][3, 4, 5] = n
        digests.append(content_digest(open_volume(path, tmp_path)))
    assert digests[0] != digests[1]


# ---- refused in one sentence


def first(key, value):
    return lambda m: m["datasets"][0].__setitem__(key, value)


def transforms(*entries):
    return first("coordinateTransformations", list(entries))


def scale(*values):
    return {"type": "scale", "scale": list(values)}


REFUSED = {  # kind: (arguments of store, sentence)
    "three channels": (
        {"order": "czyx", "size": {"c": 3}}, r"got 3 channels \(shape \(3, 4, 5, 6\), axes c, z, y, x\)",
    ),
    "two times": ({"order": "tczyx", "size": {"t": 2}}, "got 2 time points"),
    "an axis of another kind": (
        {"order": "czyx", "size": {"c": 3}, "axes": [{"name": "b", "type": "b-value"}, *without()]},
        "got 3 places along its axis b",
    ),
    "an unknown unit": ({"axes": units("furlong")}, "unit 'furlong' of its axis z, which is no known length"),
    "an unknown orientation": ({"axes": without(orientation="sideways")}, "orientation 'sideways' of its axis z"),
    "an axis of no name and type": ({"axes": [{}, *without()[1:]]}, "an axis of no type"),
    "axes of space of other names": (
        {"axes": [{**axis("z"), "name": "depth"}, *without()[1:]]}, "two or three of x, y, z",
    ),
    "two axes of one name": ({"axes": [axis("z"), axis("y"), axis("y")]}, "two or three of x, y, z"),
    "orientations along one line": (
        {"axes": without(orientation={"value": "left-to-right"})}, "invertible .* affine",
    ),
    "fewer axes than the array": ({"axes": without()[1:]}, "2 axes of an array that has 3"),
    "no axes": ({"tell": lambda m: m.pop("axes")}, "axes that is no list"),
    "axes that are no objects": ({"axes": [1, 2, 3]}, "an axis that is no object"),
    "no datasets": ({"tell": lambda m: m.pop("datasets")}, "datasets that is no list"),
    "empty datasets": ({"tell": lambda m: m.update(datasets=[])}, "datasets that is no list with something in it"),
    "datasets that are no objects": ({"tell": lambda m: m.update(datasets=["0"])}, r"datasets\[0\] that is no object"),
    "a wrong path": ({"tell": first("path", "s0")}, "array 's0' cannot be opened"),
    "a path that leaves the store": ({"tell": first("path", "../b.zarr/0")}, "a dataset whose path is '../b.zarr/0'"),
    "a path that is a number": ({"tell": first("path", 0)}, "a dataset whose path is 0"),
    "no transformations": ({"tell": lambda m: m["datasets"][0].pop("coordinateTransformations")}, "is no list"),
    "a translation alone": ({"tell": transforms({"type": "translation", "translation": [0, 0, 0]})}, "without a scale"),
    "a rotation": ({"tell": transforms(scale(1, 1, 1), {"type": "rotation"})}, "transformation 'rotation'"),
    "a scale of two numbers": ({"tell": transforms(scale(1, 1))}, "scale that is not 3 finite numbers"),
    "a scale of text": ({"tell": transforms(scale("a", 1, 1))}, "scale that is not 3 finite numbers"),
    "a scale of 0": ({"tell": transforms(scale(0, 1, 1))}, r"got the scale \[0.0, 1.0, 1.0\]"),
    "an endless scale": ({"tell": transforms(scale(1e999, 1, 1))}, "scale that is not 3 finite numbers"),
    "shared transformations that are no list": (
        {"shared": {"type": "identity"}}, "coordinateTransformations that is no list",
    ),
}  # fmt: skip


def assert_refused(path, sentence, work):
    with pytest.raises(InputError, match=sentence) as caught:
        open_volume(path, work)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".") and len(str(caught.value)) < 500


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("kind", REFUSED)
def test_odd_metadata_are_refused_in_one_sentence(tmp_path, kind, version):
    options, sentence = REFUSED[kind]
    assert_refused(store(tmp_path / "a.zarr", version=version, **options), sentence, tmp_path)


ODD = {  # the content of zarr.json's attributes
    "attributes of a list": [1],
    "ome of text": {"ome": "0.5"},
    "ome of nothing": {"ome": None},
    "multiscales of an object": {"ome": {"multiscales": {}}},
    "no multiscale": {"ome": {"multiscales": []}},
    "a multiscale of a number": {"ome": {"multiscales": [7]}},
    "a plate": {"ome": {"plate": {"wells": []}}},
    "nothing at all": {},
    "ours, of text": {"ome": {"multiscales": [{"datasets": [{"path": "0"}]}]}, "hiresmed": "yes"},
    "ours, without its scales": {
        "ome": {"multiscales": [{"datasets": [{"path": "0"}]}]},
        "hiresmed": {"affine": [[1]]},
    },
}


@pytest.mark.parametrize("kind", ODD)
def test_attributes_of_any_kind_are_no_traceback(tmp_path, kind):
    path = store(tmp_path / "a.zarr")
    content = json.loads((path / "zarr.json").read_text()) | {"attributes": ODD[kind]}
    (path / "zarr.json").write_text(json.dumps(content))
    assert_refused(path, r"a\.zarr must be an OME-Zarr image \(0\.4 or 0\.5\), got", tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"zarr_format": 9, "node_type": "group"}'])
@pytest.mark.parametrize("file", ["zarr.json", "0/zarr.json"])
def test_damaged_metadata_are_no_traceback(tmp_path, file, content):
    path = store(tmp_path / "a.zarr")
    (path / file).write_bytes(content)
    assert_refused(path, r"a\.zarr must be an OME-Zarr image", tmp_path)


def test_a_collection_names_its_images(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.attrs["ome"] = {"bioformats2raw.layout": 3}
    store(tmp_path / "a.zarr" / "0")
    assert_refused(tmp_path / "a.zarr", r"a collection of several images; give one of its folders \(0\)", tmp_path)
    assert open_volume(tmp_path / "a.zarr" / "0", tmp_path).shape == VALUES.shape


# ---- chunks


def lose(path, level=0, chunk="c/0/0/0"):
    (path / str(level) / chunk).unlink()
    return path


def uniform(path, value=7, **options):
    """An image of one value in 2 x 1 x 1 chunks; its lower half is the fill value, and so not stored."""
    path = store(path, chunks=(2, 5, 6), **options)
    array = zarr.open_group(path)["0"]
    array[...] = value
    array[:2] = array.fill_value
    return path


def test_chunks_left_out_as_they_hold_the_fill_value_are_read_and_said(tmp_path, caplog):
    volume = open_volume(uniform(tmp_path / "a.zarr", fill=-1000), tmp_path)
    assert (everything(volume) == np.repeat([-1000, 7], 2)[:, None, None]).all()
    (record,) = caplog.records
    assert "1 of 2 chunks of level 0 are absent (e.g. 0/c/0/0/0); by zarr's definition all their values are -1000" in (
        record.getMessage()
    )


def test_a_chunk_that_a_coarser_level_shows_was_lost(tmp_path):
    path = tmp_path / "a.zarr"
    values = np.full((32, 32, 32), 9, np.int16)
    store(path, levels=2)
    group = zarr.open_group(path)
    for level in range(2):
        part = values[:: 2**level, :: 2**level, :: 2**level]
        group.create_array(str(level), shape=part.shape, chunks=(16, 16, 16), dtype="int16", overwrite=True)[...] = part
    assert open_volume(path, tmp_path).shape == (32, 32, 32)
    assert_refused(lose(path, chunk="c/1/0/1"), r"1 of 8 chunks.*c/1/0/1.*coarser level shows something", tmp_path)


def test_a_chunk_is_lost_where_empty_ones_are_stored(tmp_path):
    with zarr.config.set({"array.write_empty_chunks": True}):
        path = uniform(tmp_path / "a.zarr")
    assert open_volume(path, tmp_path).shape == VALUES.shape
    assert_refused(lose(path, chunk="c/1/0/0"), "others that hold nothing but the fill value are stored", tmp_path)


def test_an_array_without_any_chunk_holds_no_image(tmp_path):
    assert_refused(lose(store(tmp_path / "a.zarr")), "none is stored", tmp_path)


def test_every_chunk_of_our_own_finished_store_is_there_and_a_lost_one_is_refused(tmp_path):
    stores = ZarrStores(tmp_path)
    (level,) = stores.pyramid("result", [(8, 8, 8)], [1], np.diag([2.0, 3, 4, 1]), "int16", 1.0, [(8, 8, 8)])
    level.write((0, 0, 0), np.zeros((8, 8, 8)))
    level.mark(0)
    stores.finish()
    path = tmp_path / "result.ome.zarr"
    assert (everything(open_volume(path, tmp_path)) == 0).all(), "zeros are values, too"
    assert_refused(lose(path, chunk="c/1/1/0"), "this store was written with every chunk", tmp_path)


def test_shards_are_read_and_a_lost_one_is_told(tmp_path, caplog):
    path = store(tmp_path / "a.zarr")
    array = zarr.open_group(path).create_array(
        "0", shape=(4, 5, 6), dtype="int16", chunks=(1, 5, 6), shards=(2, 5, 6), overwrite=True
    )
    array[...] = VALUES
    np.testing.assert_array_equal(everything(open_volume(path, tmp_path)), VALUES)
    assert not caplog.records
    lose(path)
    assert (everything(open_volume(path, tmp_path))[:2] == 0).all()
    assert "1 of 2 chunks" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"lorem ipsum"])
def test_a_damaged_chunk_is_no_traceback(tmp_path, damage):
    path = store(tmp_path / "a.zarr")
    (path / "0/c/0/0/0").write_bytes(damage)
    volume = open_volume(path, tmp_path)
    with pytest.raises(InputError, match="got one that cannot be decoded"):
        everything(volume)


@pytest.mark.parametrize(
    ("shape", "chunk"), [([10**6] * 3, [10**5] * 3), ([10**6] * 3, [1] * 3), ([4, 5, 6], [2, 0, 6])]
)
def test_sizes_that_no_file_bears_out_are_refused_at_once(tmp_path, shape, chunk):
    path = store(tmp_path / "a.zarr")
    content = json.loads((path / "0/zarr.json").read_text())
    content["shape"] = shape
    content["chunk_grid"]["configuration"]["chunk_shape"] = chunk
    (path / "0/zarr.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"header promises|at most .* chunks|at least one voxel"):
        open_volume(path, tmp_path)


def test_complex_numbers_are_no_grey_values(tmp_path):
    path = store(tmp_path / "a.zarr")
    zarr.open_group(path).create_array("0", shape=(4, 5, 6), dtype="complex64", overwrite=True)[...] = 1
    assert_refused(path, "one real value per voxel, got complex64", tmp_path)


def test_consolidated_metadata_that_are_out_of_date_are_not_believed(tmp_path):
    path = store(tmp_path / "a.zarr", version="0.4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)
    shutil.rmtree(path / "0")
    zarr.open_group(path, use_consolidated=False).create_array("0", shape=(2, 5, 6), dtype="int16")[...] = 3
    assert open_volume(path, tmp_path).shape == (2, 5, 6)
