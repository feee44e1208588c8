"""The paper's table: means and intervals are over patients, misses count, one draw stands beside the paper's one."""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts/studies/patchddm_brats"))
import brats2020


def cases(dice):
    return {
        f"p{n}": {"dice_WT": value, "hd95_WT": 373.13 if value == 0 else 5.0, "missed_WT": float(value == 0)}
        for n, value in enumerate(dice)
    }


def test_the_interval_holds_the_true_mean_of_patients_in_nineteen_of_twenty_studies():
    random = np.random.default_rng(0)
    holds = []
    for study in range(80):
        low, high = brats2020.interval(random.beta(8, 2, 37), seed=study)
        holds.append(low < 0.8 < high)
    assert 0.86 < np.mean(holds) <= 1


def test_a_miss_is_counted_and_charged():
    row = brats2020.summary(cases([0.9, 0.0, 0.8]))
    assert (row["n"], row["misses"]) == (3, 1)
    assert row["dice"]["mean"] == pytest.approx(1.7 / 3) and row["hd95"]["mean"] == pytest.approx((373.13 + 10) / 3)


def test_one_draw_and_the_ensemble_stand_beside_the_papers_figures(tmp_path, monkeypatch, capsys):
    runs = []

    def run_bundle(bundle, configs, folder, **knobs):
        runs.append((configs, knobs))
        folder.mkdir(parents=True)
        dice = [0.7, 0.9] if knobs["num_samples"] == 1 else [0.8, 0.8]
        (folder / "metrics.json").write_text(json.dumps({"cases": cases(dice)}))

    monkeypatch.setattr(brats2020, "run_bundle", run_bundle)
    words = ["--dataset_dir", "/data", "--work_dir", str(tmp_path), "--overlays", "paper_inference.yaml", "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["brats2020.py", *words])
    brats2020.main()
    assert [configs for configs, _ in runs] == [["inference.yaml", "paper_inference.yaml", "evaluate.yaml"]] * 2
    assert all(k["section"] == "test" and k["seed"] == "3" and k["resume"] == "true" for _, k in runs)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| 1 | 2 | 0 | 0.800 [") and "| .888 |" in lines[2] and "9.04" in lines[2]
    assert lines[3].startswith("| 5 | 2 | 0 | 0.800 [0.800, 0.800]") and "| .899 |" in lines[3]
    assert (tmp_path / "table.md").read_text().count("\n") == 4
