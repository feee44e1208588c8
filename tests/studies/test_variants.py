"""The study of patchddm_brats from end to end with tiny networks: trains, scores, draws; done again, nothing again."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/studies/patchddm_brats/variants.py"
TINY = {
    "phantom": "{'shape': [16, 16, 16], 'spacing': [12, 12, 12]}", "phantoms": 4, "reference_size": "[16, 16, 16]",
    "patch_size": 8, "crops": 1, "network_def::channels": 4, "network_def::channel_multipliers": "[1, 2]",
}  # fmt: skip


def study(work_dir: pathlib.Path, *words: str) -> subprocess.CompletedProcess:
    words = [*words, *(word for name, value in TINY.items() for word in (f"--{name}", value))]
    command = [sys.executable, SCRIPT, "--work_dir", work_dir, "--steps", 2, "--cases", 1, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([str(w) for w in command], env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_two_tables_are_trained_scored_and_drawn_once(tmp_path):
    words = ("--seeds", "3", "--tables", "recipes", "coordinates")
    done = study(tmp_path, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    tables = json.loads((tmp_path / "table.json").read_text())["tables"]
    assert {"base", "endpoint coordinates", "no coordinates"} < {row["variant"] for row in tables["coordinates"]}
    assert all({row["inference"] for row in rows} == {"whole", "sliding"} for rows in tables.values())
    assert all(0 <= row["dice_WT"] <= 1 and row["seed"] == 3 for rows in tables.values() for row in rows)
    evaluations = {row["variant"]: row["evaluations"] for row in tables["recipes"]}
    assert evaluations == {"base": 5, "paper's recipe": 20}, "each recipe's own number of steps"
    assert "| no coordinates | WT | whole | ddim | 5 | 1 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.parent != tmp_path}
    again = study(tmp_path, *words)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {p: p.stat().st_mtime_ns for p in before} == before
