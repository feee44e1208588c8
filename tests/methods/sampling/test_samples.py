"""Laws: sample n is the same in every run; what is finished is kept, the rest generated; nothing is overwritten."""

from __future__ import annotations

import itertools
import json

import ignite.distributed as idist
import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.latents import latent_path, latents_of
from hiresmed.core.volumes import ArrayVolume
from hiresmed.methods.sampling import NumberedSamples, SampleBlocks, SampleFolder, SaveSamplesd, StoredSamplesd
from hiresmed.methods.sampling.sample_folder import SampleImages
from PIL import Image

SHAPE = (6, 8)
FOLDERS = itertools.count()


def numbered(count=3, latent_size=16, **options):
    return NumberedSamples(SHAPE, latent_size, count, **options)


def rows(tmp_path, samples, **options):
    """number -> (block's latents, place in it)."""
    blocks = SampleBlocks(samples, SampleFolder(str(tmp_path / f"out{next(FOLDERS)}")), **options)
    size = options.get("batch_size", 1)
    places = {}
    for index in range(len(blocks)):
        block = blocks[index]
        places |= {sample["number"]: (block["image"], sample["number"] % size) for sample in block["samples"]}
    return places


def on_rank(monkeypatch, rank, processes=3):
    monkeypatch.setattr(idist, "get_world_size", lambda: processes)
    monkeypatch.setattr(idist, "get_rank", lambda: rank)


def test_a_sample_is_computed_at_the_same_place_of_the_same_block_whatever_else_is(tmp_path, monkeypatch):
    everything = rows(tmp_path, numbered(20, seed=5), batch_size=4)
    few = rows(tmp_path, numbered(6, seed=5), batch_size=4)
    later = rows(tmp_path, numbered(5, seed=5, first_sample=6), batch_size=4)
    shared = {}
    for rank in range(3):
        on_rank(monkeypatch, rank)
        mine = rows(tmp_path, numbered(20, seed=5), batch_size=4)
        assert not mine.keys() & shared.keys()
        shared |= mine
    assert shared.keys() == everything.keys() == set(range(20))
    assert few.keys() == set(range(6)) and later.keys() == set(range(6, 11))
    for run in (few, later, shared):
        for number, (block, place) in run.items():
            assert place == everything[number][1] and torch.equal(block, everything[number][0])
    for number, (block, place) in everything.items():
        assert torch.equal(block[place], latents_of(5, [number], 16)[0])


def test_a_process_without_work_still_takes_a_turn_and_shared_work_is_everybodys(tmp_path, monkeypatch):
    on_rank(monkeypatch, 2)
    blocks = SampleBlocks(numbered(5), SampleFolder(str(tmp_path)), batch_size=4)
    assert len(blocks) == 1 and blocks[0]["samples"] == [] and blocks[0]["image"].shape == (4, 16)
    assert rows(tmp_path, numbered(5), share=False).keys() == set(range(5))


def test_an_interpolation_is_the_path_in_order_and_replaces_the_samples(tmp_path):
    samples = numbered(99, seed=1, interpolate=[2, 5], steps=5)
    blocks = rows(tmp_path, samples, batch_size=4)
    latents = torch.stack([blocks[n][0][blocks[n][1]] for n in range(6)])
    assert torch.equal(latents, latent_path(1, [2, 5], 5, 16)) and len(blocks) == len(samples) == 6


def save(folder: SampleFolder, images: torch.Tensor, samples=None, **options) -> None:
    """What the postprocessing of a run does with one block."""
    block = {"pred": images, "samples": folder.samples if samples is None else samples}
    SaveSamplesd("pred", folder)(StoredSamplesd("pred", folder, **options)(block))


def begun(folder, count=3, **options) -> SampleFolder:
    output = SampleFolder(str(folder), **options)
    output.begin(numbered(count))
    return output


def images(count=3, seed=0, channels=1):
    return torch.rand(count, channels, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("kind", ["png", "tiff", "nii.gz"])
def test_files_hold_the_images_to_16_bit_front_up_and_right_at_left(tmp_path, kind):
    made = images()
    output = begun(tmp_path, output_format=kind)
    save(output, made)
    read = SampleImages(output, output.samples)
    torch.testing.assert_close(torch.stack(list(read)), made, atol=2 / 65535, rtol=0)
    output.finish_run()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"sample_000{k}_synthetic.{kind}" for k in range(3)]
    if kind == "nii.gz":
        assert nibabel.aff2axcodes(nibabel.load(tmp_path / "sample_0002_synthetic.nii.gz").affine)[:2] == ("P", "L")


def test_the_window_is_what_the_ends_of_the_value_range_become(tmp_path):
    made = torch.tensor([0.0, 0.25, 1.0, 1.5]).expand(1, 1, 6, 4)
    save(begun(tmp_path, 1, dtype="uint8", window=(10, 210)), made, value_range=(0, 1))
    with Image.open(tmp_path / "sample_0000_synthetic.png") as picture:
        assert np.asarray(picture)[0].tolist() == [10, 60, 210, 210]
    for window in ((0, 256), (5, 5), "left"):
        with pytest.raises(InputError, match="window must be two rising numbers that dtype can hold"):
            SampleFolder(str(tmp_path), dtype="uint8", window=window)
    with pytest.raises(InputError, match="value_range must be two rising numbers"):
        StoredSamplesd("pred", SampleFolder(str(tmp_path)), (1, 1))


def test_a_region_is_the_crop_and_three_channels_of_a_grey_run_are_averaged(tmp_path):
    made = images(1)
    save(begun(tmp_path / "a", 1), made)
    save(begun(tmp_path / "b", 1, region=[[1, 4], [2, 8]]), torch.cat([made - 0.25, made, made + 0.25], 1))
    whole, crop = (np.asarray(Image.open(tmp_path / n / "sample_0000_synthetic.png")).astype(int) for n in "ab")
    assert np.abs(whole[1:4, 2:8] - crop).max() <= 1 and crop.std() > 1000


def test_colours_are_three_channels_of_one_picture(tmp_path):
    made = images(1, channels=3)
    output = begun(tmp_path, 1, channels=3, dtype="uint8", window=(0, 255))
    save(output, made)
    torch.testing.assert_close(SampleImages(output, output.samples)[0], made[0], atol=2 / 255, rtol=0)


def test_an_interrupted_run_keeps_what_it_had_and_continues_no_other(tmp_path):
    first = begun(tmp_path, 6, fingerprint={"seed": 1})
    save(first, images(4), first.samples[:4])
    with pytest.raises(InputError, match="must not hold an interrupted run, got one of sample_0000"):
        begun(tmp_path, 6, fingerprint={"seed": 1})
    with pytest.raises(InputError, match="got another seed"):
        begun(tmp_path, 6, fingerprint={"seed": 2}, resume=True)
    with pytest.raises(InputError, match="got another window"):
        begun(tmp_path, 6, fingerprint={"seed": 1}, resume=True, window=(0, 1000))
    again = SampleFolder(str(tmp_path), fingerprint={"seed": 1}, resume=True)
    blocks = SampleBlocks(numbered(6), again, batch_size=4)
    assert [[s["number"] for s in block] for block in blocks.blocks] == [[4, 5]]
    save(again, images(2), again.samples[4:])
    again.finish_run()
    with pytest.raises(InputError, match="nothing to resume"):
        begun(tmp_path, 6, fingerprint={"seed": 1}, resume=True)
    (tmp_path / "report.json").write_text(json.dumps({}))
    replaced = SampleFolder(str(tmp_path), fingerprint={"seed": 2}, overwrite=True)
    assert len(replaced.begin(numbered(6))) == 6 and not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("note", ["", "{", "[]", "a folder"])
def test_a_damaged_note_of_a_run_is_one_sentence(tmp_path, note):
    begun(tmp_path, 3)
    path = tmp_path / "samples.partial" / "recipe.json"
    path.unlink()
    if note == "a folder":
        path.mkdir()
    else:
        path.write_text(note)
    with pytest.raises(InputError, match=r"got a damaged samples\.partial; set overwrite to true\."):
        begun(tmp_path, 3, resume=True)
    assert len(begun(tmp_path, 3, overwrite=True).samples) == 3 and path.is_file()


def test_a_link_in_the_place_of_the_working_folder_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "samples.partial").symlink_to(tmp_path / "elsewhere")
    begun(tmp_path / "out", 3, resume=True)
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_set_is_enlarged_by_another_first_sample(tmp_path):
    output = begun(tmp_path, 2)
    save(output, images(2))
    output.finish_run()
    before = (tmp_path / "sample_0001_synthetic.png").read_bytes()
    more = SampleFolder(str(tmp_path))
    assert len(more.begin(numbered(2, first_sample=2))) == 2
    assert (tmp_path / "sample_0001_synthetic.png").read_bytes() == before


def test_nan_a_wrong_format_and_no_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="sample_0000 must have finite values"):
        save(begun(tmp_path / "a"), torch.full((3, 1, *SHAPE), torch.nan))
    assert not list((tmp_path / "a").glob("*.png"))
    for kind, sentence in (("bmp", "output_format"), ("ome-zarr", "since these images are not generated tile by tile")):
        with pytest.raises(InputError, match=sentence):
            begun(tmp_path / "b", output_format=kind)
    with pytest.raises(InputError, match="num_samples must be a whole number from 1 on, got '0'"):
        numbered(0)
    with pytest.raises(InputError, match=r"generates images from noise, got x\.png"):
        numbered(1, image="x.png")
    assert not (tmp_path / "b").exists()


def test_an_ome_zarr_gets_its_name_when_it_is_saved(tmp_path):
    output = begun(tmp_path, 1, output_format="ome-zarr", tiled=True)
    level = output.stores(output.samples[0], {}).pyramid("result", [SHAPE], [1], np.eye(4), "uint16", 1.0, [SHAPE])[0]
    level.write((0, 0), np.full(SHAPE, 7))
    output.save(output.samples[0], ArrayVolume(np.zeros(SHAPE)))
    (volume,) = output.volumes(output.samples[0])
    assert volume.shape == SHAPE and (volume.read((0, 0), SHAPE) == 7).all()
