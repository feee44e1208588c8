"""Pyramids on disk: geometry that any viewer reads, bytes that an interruption does not change."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import pytest
import torch
import zarr
from hiresmed.core.errors import InputError
from hiresmed.core.pyramids import Level
from hiresmed.core.volumes import ArrayVolume
from hiresmed.io import CaseOutput, MemoryStores, ZarrStores, open_level
from hiresmed.methods.msgan import CascadeInferer, GradientSketch, MultiScaleGenerator, cascade_run, conditions

OBLIQUE = np.array([[0.6, -0.4, 0.0, 11.0], [0.3, 0.8, 0.1, -7.0], [0.0, -0.1, 2.0, 30.0], [0, 0, 0, 1]])


def pyramid(folder: Path, shapes=((20, 13), (10, 7)), dtype="int16", slope=1.0, tile=(8, 8), **how) -> list[Level]:
    scales = [2**k for k in range(len(shapes))]
    return ZarrStores(folder, **how).pyramid("result", shapes, scales, OBLIQUE, dtype, slope, [tile] * len(shapes))


def everything(level: Level) -> np.ndarray:
    return np.asarray(level.read([0] * len(level.shape), level.shape))


@pytest.mark.parametrize("stores", ["zarr", "memory"])
def test_numbers_are_rounded_to_the_nearest_stored_unit_and_limited(tmp_path, stores):
    image = np.array([[-0.6, 0.4, 0.6], [1e6, -1e6, 7]])
    sketch = np.array([[0, 0.1, 0.5], [1, 1.7, -0.2]])
    make = ZarrStores(tmp_path) if stores == "zarr" else MemoryStores(None)
    (hu,) = make.pyramid("image", [(2, 3)], [1], np.eye(4), "int16", 1.0, [(2, 3)])
    hu.write((0, 0), image)
    assert everything(hu).tolist() == [[-1, 0, 1], [32767, -32768, 7]]
    (strength,) = make.pyramid("sketch", [(2, 3)], [1], np.eye(4), "uint8", 1 / 255, [(2, 3)])
    strength.write((0, 0), sketch)
    assert strength.dtype == everything(strength).dtype == np.float32
    assert np.allclose(everything(strength) * 255, [[0, 26, 128], [255, 255, 0]])


def test_levels_share_the_outer_corner_of_the_first_voxel(tmp_path):
    fine, coarse = pyramid(tmp_path)
    assert np.array_equal(fine.affine, OBLIQUE)
    corner = np.array([-0.5, -0.5, -0.5, 1])
    assert np.allclose(fine.affine @ corner, coarse.affine @ corner)
    assert np.allclose(coarse.affine[:3, :2], 2 * OBLIQUE[:3, :2])


def test_a_viewer_finds_names_spacing_and_offset_of_every_level(tmp_path):
    pyramid(tmp_path, shapes=((6, 8, 10), (3, 4, 5)), tile=(4, 4, 4))
    attributes = json.loads((tmp_path / "result.ome.zarr" / "zarr.json").read_text())["attributes"]
    image = attributes["ome"]["multiscales"][0]
    assert attributes["ome"]["version"] == "0.5"
    assert [axis["type"] for axis in image["axes"]] == ["space"] * 3
    spacing = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    for k, dataset in enumerate(image["datasets"]):
        scale, translation = dataset["coordinateTransformations"]
        assert (scale["type"], translation["type"]) == ("scale", "translation")
        assert np.allclose(scale["scale"], spacing * 2**k)
        assert np.allclose(translation["translation"], spacing * (2**k - 1) / 2)
        names = zarr.open_array(str(tmp_path / "result.ome.zarr" / dataset["path"]), mode="r").metadata.dimension_names
        assert list(names) == [axis["name"] for axis in image["axes"]]


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "a::b" / "#[1], $(x)"
    (level,) = pyramid(folder, shapes=[(4, 4)])
    level.write((0, 0), np.full((4, 4), 3))
    assert (everything(open_level(folder / "result.ome.zarr")) == 3).all()
    (level,) = pyramid(folder, shapes=[(4, 4)], resume=True)
    assert (everything(level) == 3).all()
    (level,) = pyramid(folder, shapes=[(4, 4)])
    assert not (everything(level) == 3).any()
    assert [path.name for path in tmp_path.iterdir()] == ["a::b"]


def test_a_written_pyramid_opens_as_volumes_where_it_lay(tmp_path):
    for level in pyramid(tmp_path):
        level.write((0, 0), np.arange(np.prod(level.shape)).reshape(level.shape))
    for k in (0, 1):
        level, again = pyramid(tmp_path, resume=True)[k], open_level(tmp_path / "result.ome.zarr", k)
        assert np.array_equal(again.affine, level.affine)
        assert np.array_equal(everything(again), np.arange(np.prod(level.shape)).reshape(level.shape))


def test_resume_goes_on_where_tiles_were_finished_and_a_new_start_does_not(tmp_path):
    level = pyramid(tmp_path)[0]
    level.write((0, 0), np.full((8, 8), 5))
    level.mark(3)
    again = pyramid(tmp_path, resume=True)[0]
    assert [n for n in range(6) if again.done(n)] == [3]
    assert everything(again)[0, 0] == 5
    anew = pyramid(tmp_path)[0]
    assert not any(anew.done(n) for n in range(6)) and not everything(anew).any()


def test_a_store_that_was_only_begun_is_no_store(tmp_path):
    pyramid(tmp_path)[0].mark(0)
    (tmp_path / "result.ome.zarr").rename(tmp_path / "result.ome.begun")
    assert not pyramid(tmp_path, resume=True)[0].done(0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fingerprint": {"weights": "b", "seed": 0}}, "weights"),
        ({"fingerprint": {"weights": "a", "seed": 1}}, "seed"),
        ({"tile": (4, 8)}, "tiles"),
        ({"shapes": ((20, 14), (10, 7))}, "shapes"),
        ({"dtype": "float32"}, "dtype"),
    ],
)
def test_resume_with_other_settings_is_refused_by_their_names(tmp_path, changes, named):
    begun = {"fingerprint": {"weights": "a", "seed": 0}}
    pyramid(tmp_path, **begun)
    pyramid(tmp_path, resume=True, **begun)
    with pytest.raises(InputError, match=f"begun with, got another .*{named}"):
        pyramid(tmp_path, resume=True, **begun | changes)


def test_resume_with_other_tiles_of_a_coarse_level_is_refused(tmp_path):
    """The journal numbers tiles: under another tile shape the same number is another box."""
    levels = [(16, 16), (8, 8)], [1, 2], np.eye(4), "int16", 1.0
    ZarrStores(tmp_path).pyramid("result", *levels, [(8, 8), (8, 8)])
    with pytest.raises(InputError, match="begun with, got another tiles"):
        ZarrStores(tmp_path, resume=True).pyramid("result", *levels, [(8, 8), (4, 4)])


def test_when_all_is_done_a_plain_ome_zarr_is_left(tmp_path):
    stores = ZarrStores(tmp_path)
    stores.pyramid("result", [(4, 4)], [1], np.eye(4), "int16", 1.0, [(4, 4)])[0].mark(0)
    stores.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["result.ome.zarr"]


# ---- a cascade on these stores


def tiny() -> MultiScaleGenerator:
    small = {"width": 8, "num_blocks": 1, "fine_width": 4}
    network = MultiScaleGenerator(2, num_stages=2, base=small, stage=small).eval()
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.15 * torch.randn(weight.shape, generator=draw))
    return network


def image() -> ArrayVolume:
    bricks = np.random.default_rng(0).integers(-1000, 1000, (9, 8)).repeat(7, 0).repeat(7, 1)
    return ArrayVolume(bricks[:59, :52].astype(np.int16), OBLIQUE)


def run(folder: Path, resume: bool = False, tile_size: int = 18, **options) -> None:
    stores = CaseOutput(folder, resume=resume, fingerprint={"tile_size": tile_size})
    inferer = CascadeInferer(GradientSketch(), stores, tile_size, num_scales=2, progress=False, seed=4, **options)
    mask = ArrayVolume((np.indices((59, 52)).sum(0) < 60).astype(np.uint8), OBLIQUE)
    inferer({"image": image(), "mask": mask, "name": "case"}, tiny())


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of the pyramids."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".tiles"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_two_runs_leave_the_same_bytes(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(digests(tmp_path / "a")) > 100
    assert everything(open_level(tmp_path / "a/case.partial/result.ome.zarr")).std() > 30


class PowerCutError(Exception):
    """The power goes out in the k-th write of a tile."""


class Writes:
    """Counts the tiles that are written; the power goes out in one of them."""

    def __init__(self, monkeypatch) -> None:
        self.count, self.cut, self.on_disk, self.write = 0, None, False, Level.write
        monkeypatch.setattr(Level, "write", lambda level, *box: self(level, *box))

    def __call__(self, level: Level, *box) -> None:
        self.count += 1
        if self.count == self.cut and not self.on_disk:
            raise PowerCutError
        self.write(level, *box)
        if self.count == self.cut:
            raise PowerCutError


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_interruption_anywhere_leaves_the_same_bytes_and_repeats_no_finished_tile(tmp_path, monkeypatch, on_disk):
    writes = Writes(monkeypatch)
    run(tmp_path / "whole")
    total, reference = writes.count, digests(tmp_path / "whole")
    for cut in (1, total // 2, total):
        folder, writes.count, writes.cut, writes.on_disk = tmp_path / str(cut), 0, cut, on_disk
        with pytest.raises(PowerCutError):
            run(folder)
        writes.count, writes.cut = 0, None
        run(folder, resume=True)
        assert digests(folder) == reference
        assert writes.count == total - (cut - 1)


def test_processes_do_each_tile_once_and_leave_the_same_bytes(tmp_path, monkeypatch):
    """The shares of three ranks, done one after the other at each barrier."""
    run(tmp_path / "one")
    share_of_one = conditions.shared_tiles

    def shares_of_three(grid, box, level):
        monkeypatch.setattr(idist, "get_world_size", lambda: 3)
        shares = []
        for rank in range(3):
            monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
            shares.append(list(share_of_one(grid, box, level)))
        monkeypatch.setattr(idist, "get_rank", lambda: 0)
        numbers = [n for share in shares for n in share]
        assert sorted(numbers) == grid.touching(box)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1, "nobody idles"
        return numbers

    for module in (conditions, cascade_run):
        monkeypatch.setattr(module, "shared_tiles", shares_of_three)
    run(tmp_path / "three")
    assert digests(tmp_path / "three") == digests(tmp_path / "one")


@pytest.mark.parametrize("tile_size", [18, 22, 30, 128])
def test_no_chunk_belongs_to_two_tiles(tmp_path, tile_size, monkeypatch):
    """Else two processes would write one file at once, and one of them would lose."""
    places: dict[tuple[int, ...], set] = {}
    write = Level.write

    def noted(level, start, values):
        chunks = [range(s // c, -(-(s + n) // c)) for s, n, c in zip(start, values.shape, level.array.chunks)]
        for chunk in itertools.product(*chunks):
            places.setdefault((level.name, level.shape, chunk), set()).add(tuple(start))
        write(level, start, values)

    monkeypatch.setattr(Level, "write", noted)
    run(tmp_path, tile_size=tile_size)
    assert places and all(len(starts) == 1 for starts in places.values())
