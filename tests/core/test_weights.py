"""Weights are found, checked and loaded strictly, or it is said in one sentence why not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.core.weights import load_weights, weights_sha256
from torch import nn


def network(width: int = 4) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.5), nn.Conv2d(width, 1, 1))


def saved(path: Path, state) -> Path:
    torch.save(state, path)
    return path


def test_the_file_s_weights_and_no_others_are_in_the_network_ready_to_infer(tmp_path):
    trained = network()
    for weight in trained.parameters():
        nn.init.normal_(weight)
    trained[1].running_mean.fill_(3.0)
    path = saved(tmp_path / "model.pt", trained.state_dict())
    loaded = load_weights(network(), path)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in trained.state_dict().items())
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_half_precision_files_and_a_checkpoint_of_one_model_are_read(tmp_path):
    state = network().state_dict()
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    for path in (saved(tmp_path / "half.pt", halves), saved(tmp_path / "ckpt.pt", {"model": halves})):
        loaded = load_weights(network(), path).state_dict()
        for name, value in state.items():
            assert loaded[name].dtype == value.dtype and torch.equal(loaded[name], halves[name].to(value.dtype))


def test_the_sha256_is_that_of_the_file_and_is_held_against_the_note_beside_it(tmp_path):
    path = saved(tmp_path / "model.pt", network().state_dict())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights_sha256(path) == digest
    note = tmp_path / "model.pt.sha256"
    note.write_text(f"{digest}  model.pt\n")
    assert weights_sha256(str(path)) == digest
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    for check in (weights_sha256, lambda p: load_weights(network(), p)):
        with pytest.raises(InputError, match=rf"the sha256 {digest[:12]}.* damaged or was replaced"):
            check(path)
    note.write_text("")
    with pytest.raises(InputError, match=r"model\.pt\.sha256"):
        weights_sha256(path)


def test_missing_weights_are_missed_with_the_cure(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(InputError, match=r"weights must be in .* --bundle_root, or train with"):
            load_weights(network(), path)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (network(8).state_dict(), "size mismatch"),
        ({k: v for k, v in network().state_dict().items() if k != "3.bias"}, "Missing key.*3.bias"),
        (network().state_dict() | {"extra": torch.zeros(1)}, "Unexpected key.*extra"),
        ({"generator": network().state_dict(), "epoch": 3}, "Missing key|Unexpected key"),
        ([1, 2], ""),
        (7, ""),
    ],
)
def test_weights_of_another_network_are_refused_with_the_first_difference(tmp_path, state, reason):
    path = saved(tmp_path / "model.pt", state)
    with pytest.raises(InputError, match=rf"hold the weights of Sequential as configured.*{reason}") as caught:
        load_weights(network(), path)
    assert "\n" not in str(caught.value)


class Command:
    """Pickled code: what weights_only refuses to run."""

    def __reduce__(self):
        return (print, ("code has run",))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half a zip"])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pt must hold a state_dict, got a file that cannot be read"):
        load_weights(network(), tmp_path / "model.pt")


def test_code_in_a_weight_file_is_not_run(tmp_path, capsys):
    path = saved(tmp_path / "model.pt", {"w": Command()})
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(network(), path)
    assert "code has run" not in capsys.readouterr().out
