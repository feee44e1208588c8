"""Weights that are damaged draw nothing, and two runs never share a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel
import numpy as np
import programs
import pytest
import torch
from hiresmed.core.autocast import AutocastInferer
from hiresmed.core.errors import InputError
from hiresmed.core.exact_tiling import ExactTiledInferer
from hiresmed.core.output_files import lock_folder, scratch_folder, unlock_folders
from hiresmed.core.views import as_canonical
from hiresmed.core.volumes import ArrayVolume, NiftiVolume, Volume, content_digest
from hiresmed.core.weights import load_weights
from hiresmed.phantoms import ThoraxPhantom
from hiresmed.training.checkpoint import save_weights
from torch import nn


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, 1, 3)


def saved(folder: Path, **changes: float) -> Path:
    state = network().state_dict()
    for name, value in changes.items():
        state[name].view(-1)[0] = value
    save_weights(state, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1e30])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_that_cannot_have_been_learnt_are_refused(tmp_path, name, value):
    with pytest.raises(InputError, match=rf"must hold weights below 1e\+06 in size, got .* in {name}"):
        load_weights(network(), saved(tmp_path, **{name: value}))


def test_one_flipped_byte_is_noticed_with_the_sha256_and_without_it(tmp_path):
    path = saved(tmp_path)
    load_weights(network(), path)
    note = path.with_name("model.pt.sha256")
    assert note.read_text().split()[1] == "model.pt"
    with zipfile.ZipFile(path) as archive:
        record = next(info for info in archive.infolist() if "/data/" in info.filename)
    raw = bytearray(path.read_bytes())
    at = raw.index(torch.load(path, weights_only=True)["weight"].numpy().tobytes())
    assert record.file_size > 0
    raw[at + 5] ^= 4
    path.write_bytes(raw)
    with pytest.raises(InputError, match="must have the sha256"):
        load_weights(network(), path)
    note.unlink()
    with pytest.raises(InputError, match="must hold the bytes that were saved, got others in"):
        load_weights(network(), path)


@pytest.mark.parametrize("inferer", [ExactTiledInferer(8, progress=False), AutocastInferer()])
def test_no_image_is_made_of_values_that_are_not_finite(inferer):
    with pytest.raises(InputError, match="The network must give finite values, got NaN or infinity"):
        broken = network()
        with torch.no_grad():
            broken.weight[0, 0, 1, 1] = float("nan")
        inferer(torch.ones(1, 1, 8, 8), broken)


def test_a_folder_is_one_process_alone_until_it_ends_and_that_leaves_no_file(tmp_path):
    code = (
        "import sys, time; from hiresmed.core.output_files import lock_folder; lock_folder(sys.argv[1]); "
        "lock_folder(sys.argv[1]); print('held', flush=True); time.sleep(600)"
    )
    other = programs.Program(["-c", code, tmp_path])
    while Path(other.folder, "stdout").read_text() != "held\n":
        assert other.poll() is None
    with pytest.raises(InputError, match="output_dir must be one run's alone"):
        lock_folder(tmp_path)
    other.kill()
    lock_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
    code = "import sys; from hiresmed.core.output_files import lock_folder; lock_folder(sys.argv[1])"
    next_run = ["-c", code, tmp_path]
    assert "must be one run's alone" in programs.run(next_run).stderr
    unlock_folders()
    assert programs.run(next_run).returncode == 0


def test_what_was_unpacked_is_removed_at_the_end(tmp_path):
    code = (
        "from hiresmed.core.output_files import scratch_folder; f = scratch_folder(); "
        "(f / 'a.nii').write_text('x'); print(f)"
    )
    done = programs.run(["-c", code])
    assert not Path(done.stdout.strip()).exists()
    assert scratch_folder() != scratch_folder()


class Computed(Volume):
    """Values that are computed when they are read."""

    shape, affine, dtype, name = (40, 30, 20), np.eye(4), np.dtype(np.int16), "same name"

    def __init__(self, value: int) -> None:
        self.value = value

    def read(self, start, shape) -> np.ndarray:
        return np.full(shape, self.value, np.int16)


def test_volumes_of_one_name_and_shape_are_told_apart_by_what_they_hold(tmp_path):
    values = np.random.default_rng(0).integers(0, 100, (20, 16, 12)).astype(np.int16)
    other = values.copy()
    other[7, 7, 7] += 1

    def in_a_file(array: np.ndarray, folder: str) -> NiftiVolume:
        (tmp_path / folder).mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / folder / "case.nii")
        return NiftiVolume(tmp_path / folder / "case.nii")

    pairs = [
        (ArrayVolume(values), ArrayVolume(values.copy()), ArrayVolume(other)),
        (in_a_file(values, "a"), in_a_file(values, "b"), in_a_file(other, "c")),
        (Computed(1), Computed(1), Computed(2)),
        (ThoraxPhantom((12, 10, 8)), ThoraxPhantom((12, 10, 8)), ThoraxPhantom((12, 10, 8), seed=1)),
    ]
    for one, same, another in pairs:
        assert content_digest(one) == content_digest(same) != content_digest(another)
    view = as_canonical(ArrayVolume(values, np.diag([-1.0, -1, 1, 1])))
    assert content_digest(view) == content_digest(ArrayVolume(values)), "a view holds what its source holds"
