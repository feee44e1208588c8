"""Laws: image n is the same in every run; what is finished is kept, the rest made anew; nothing is overwritten."""

from __future__ import annotations

import ignite.distributed as idist
import nibabel
import numpy as np
import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.latents import latent_path, latents_of
from hiresmed.methods.sampling import LatentBlocks, SampleSeries, count_samples


def rows(blocks):
    """number -> (block's latents, place in it)."""
    return {n: (b["image"], k) for b in (blocks[i] for i in range(len(blocks))) for k, n in enumerate(b["numbers"])}


def test_an_image_is_computed_at_the_same_place_of_the_same_block_however_many_there_are(monkeypatch):
    whole = rows(LatentBlocks(20, 16, seed=5, batch_size=4))
    few = rows(LatentBlocks(6, 16, seed=5, batch_size=4))
    shared = {}
    for rank in range(3):
        monkeypatch.setattr(idist, "get_world_size", lambda: 3)
        monkeypatch.setattr(idist, "get_rank", lambda r=rank: r)
        mine = rows(LatentBlocks(20, 16, seed=5, batch_size=4))
        assert not mine.keys() & shared.keys()
        shared |= mine
    assert shared.keys() == whole.keys() == set(range(20)) and few.keys() == set(range(6))
    for found in (few, shared):
        for number, (block, place) in found.items():
            assert place == whole[number][1] and torch.equal(block, whole[number][0])
    for number, (block, place) in whole.items():
        assert torch.equal(block[place], latents_of(5, [number], 16)[0])


def test_a_process_without_work_still_takes_a_turn(monkeypatch):
    monkeypatch.setattr(idist, "get_world_size", lambda: 3)
    monkeypatch.setattr(idist, "get_rank", lambda: 2)
    blocks = LatentBlocks(5, 16, batch_size=4)
    assert len(blocks) == 1 and blocks[0]["numbers"] == [] and blocks[0]["image"].shape == (4, 16)


def test_an_interpolation_is_the_path_in_order():
    found = rows(LatentBlocks(99, 16, seed=1, batch_size=4, interpolate=[2, 5], steps=5))
    made = torch.stack([found[n][0][found[n][1]] for n in range(6)])
    assert torch.equal(made, latent_path(1, [2, 5], 5, 16)) and len(found) == 6 == count_samples(99, [2, 5], 5)


def output(folder, count=3, **options):
    return SampleSeries(folder, count, 8, **options)


def images(count=3, seed=0):
    return torch.rand(count, 1, 6, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_pictures_and_stack_hold_the_images_to_16_bit_front_up_and_right_at_left(tmp_path):
    made = images()
    out = output(tmp_path)
    out.save([0, 1, 2], made)
    out.finish()
    held = out.images()
    assert len(held) == 3
    torch.testing.assert_close(torch.stack([held[k] for k in range(3)]), made, atol=2 / 65535, rtol=0)
    stack = nibabel.load(tmp_path / "samples.nii.gz")
    assert nibabel.aff2axcodes(stack.affine)[:2] == ("L", "P") and stack.shape == (8, 6, 3)
    seen = np.asarray(stack.dataobj).transpose(2, 1, 0) / 65535 * 2 - 1
    np.testing.assert_allclose(seen, made[:, 0].numpy(), atol=2 / 65535)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "samples.nii.gz"]


def test_other_value_ranges_and_three_channels_become_the_same_grey(tmp_path):
    made = images(1)
    output(tmp_path / "a", 1).save([0], made)
    output(tmp_path / "b", 1, value_range=(0, 1)).save([0], ((made + 1) / 2).expand(1, 3, 6, 8))
    a, b = (output(tmp_path / n, 1, resume=True).images()[0] for n in "ab")
    torch.testing.assert_close(a, b, atol=2 / 65535, rtol=0)


def test_a_run_that_was_broken_off_keeps_what_it_had_and_begins_no_other(tmp_path):
    first = output(tmp_path, 6, fingerprint={"seed": 1})
    first.save(range(4), images(4))
    with pytest.raises(InputError, match="should not yet hold images, but does"):
        output(tmp_path, 6, fingerprint={"seed": 1})
    with pytest.raises(InputError, match="but seed changed"):
        output(tmp_path, 6, fingerprint={"seed": 2}, resume=True)
    again = output(tmp_path, 6, fingerprint={"seed": 1}, resume=True)
    assert again.done == {0, 1, 2, 3}
    assert [b.start for b in LatentBlocks(6, 8, batch_size=4, output=again).blocks] == [4]
    again.save([4, 5], images(2))
    again.finish()
    with pytest.raises(InputError, match="nothing to resume"):
        output(tmp_path, 6, fingerprint={"seed": 1}, resume=True)
    assert output(tmp_path, 6, fingerprint={"seed": 2}, overwrite=True).done == set()


def test_nan_a_wrong_format_and_no_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="Image 0 should have finite values"):
        output(tmp_path / "a").save([0], torch.full((1, 1, 4, 4), torch.nan))
    assert not list((tmp_path / "a" / "images").iterdir())
    with pytest.raises(InputError, match=r"nii or nii\.gz"):
        output(tmp_path / "b", output_format="png")
    with pytest.raises(InputError, match="num_samples should be a whole number from 1 on, but is '0'"):
        LatentBlocks(0, 8)
