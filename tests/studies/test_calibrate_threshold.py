"""The threshold's table: Dice of the mean of the draws, cut at each threshold, on phantoms that are done once."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from hiresmed.methods.patchddm import PatchDDMUNet

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts/studies/patchddm_brats"


def test_dice_is_that_of_the_mean_of_the_draws_and_a_phantom_is_drawn_once(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    network = PatchDDMUNet(3, 8, 1, 4, (1, 2), 1)
    torch.nn.init.normal_(network.head[-1].weight, std=0.3)
    torch.save(network.state_dict(), tmp_path / "tiny.pt")
    knobs = {
        "weights_path": tmp_path / "tiny.pt",
        "network_def#channels": 4,
        "network_def#channel_multipliers": "[1,2]",
    }
    words = [str(word) for name, value in knobs.items() for word in (f"--{name}", value)]
    own = [
        "--work_dir",
        str(tmp_path / "out"),
        "--recipe",
        "fast",
        "--phantoms",
        "1",
        "--draws",
        "1",
        "2",
        "--steps",
        "1",
    ]
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    monkeypatch.setattr(sys, "argv", ["calibrate_threshold.py", *own, *words])
    script = runpy.run_path(str(SCRIPTS / "calibrate_threshold.py"))
    drawn = {}

    def scores(case, loading, knobs, draws):
        found, label = script["scores"](case, loading, knobs, draws)
        drawn["mean"], drawn["label"] = found.mean(0), label
        assert len(found) == draws == 2 and not torch.equal(found[0], found[1])
        return found, label

    script["main"].__globals__["scores"] = scores
    script["main"]()
    (figures,) = json.loads((tmp_path / "out" / "threshold.json").read_text())["phantoms"]
    for threshold, dice in figures["2"].items():
        above = drawn["mean"] > float(threshold)
        both = (above & drawn["label"]).sum()
        assert dice == pytest.approx(float(2 * both / (above.sum() + drawn["label"].sum())))
    assert len(set(figures["1"].values())) > 3 and figures["1"] != figures["2"]
    assert "2 draws" in capsys.readouterr().out
    drawn.clear()
    script["main"]()
    assert not drawn, "the phantom was done"
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--eta", "1"])
    with pytest.raises(SystemExit, match="take another folder"):
        script["main"]()
