"""Laws: report.json has exactly the promised fields, no folder of the user, no patient, and is whole or absent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hiresmed.core.output_files import sha256_of
from hiresmed.reports.report import FIELDS, last_line, to_json_safe, without_folders, write_report


def fields(**changes):
    base = {
        "bundle": "msgan_ct3d",
        "version": "0.1.0",
        "config": {"image": "/home/ann/patients/case 1.nii.gz", "tile_size": np.int64(128), "amp": False},
        "seed": 0,
        "input": {"file": Path("/home/ann/case 1.nii.gz"), "shape": (512, 512, 120), "spacing": (0.78, 0.78, 1)},
        "output": {"files": [Path("/o/result.nii.gz")], "shape": torch.Size([512, 512, 120]), "dtype": np.dtype("i2")},
        "seconds": np.float32(83.5),
        "peak_rss_bytes": 424_000_000,
        "synthetic": True,
    }
    return base | changes


def test_the_file_holds_exactly_the_promised_fields_and_is_what_is_returned(tmp_path):
    returned = write_report(tmp_path / "report.json", **fields())
    read = json.loads((tmp_path / "report.json").read_text())
    assert tuple(read) == FIELDS[:-1] and read == returned  # no sequences, no such field
    assert read["output"] == {"files": ["result.nii.gz"], "shape": [512, 512, 120], "dtype": "int16"}
    assert read["seconds"] == 83.5 and read["config"]["tile_size"] == 128 and read["metrics"] is None
    assert read["synthetic"] is True and read["warnings"] == []
    assert write_report(tmp_path / "report.json", **fields(warnings=["It is large."]))["warnings"] == ["It is large."]


def test_no_folder_of_the_user_is_in_it(tmp_path):
    config = {
        "image": "/home/ann/patients/x.nii.gz",
        "bundle_root": "~/ann/bundle",
        "dataset_dir": "../ann/data",
        "output_dir": "ann/my output/run1.out",
        "config_file": "['/home/ann/a.yaml', '/home/ann/b.yaml']",
        "windows": "C:\\Users\\ann\\scan.nii",
        "nested": [Path("/home/ann/deeper"), {"/home/ann/key": "see /home/ann/log.txt"}],
    }
    write_report(tmp_path / "report.json", **fields(config=config))
    text = (tmp_path / "report.json").read_text()
    assert "ann" not in text and "Users" not in text and "my output" not in text
    assert json.loads(text)["config"]["config_file"] == "['a.yaml', 'b.yaml']"


def test_what_a_reader_knows_of_the_patient_stays_out(tmp_path):
    image = {"file": "x.dcm", "shape": [2, 2], "spacing": [1, 1], "PatientName": "Ann", "affine": np.eye(4)}
    report = write_report(tmp_path / "report.json", **fields(input=[image, image]))
    assert report["input"] == [{"file": "x.dcm", "shape": [2, 2], "spacing": [1, 1]}] * 2
    assert "Ann" not in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize(
    "text", ["https://example.org/a/b", "bicubic, antialiased (torch)", "12 mm", "", "result.nii.gz", "[1.0, 2.0]"]
)
def test_text_without_paths_stays_as_it_is(text):
    assert without_folders(text) == text


def test_values_become_json_and_no_number_is_infinite():
    values = {"a": np.arange(3), "b": torch.tensor([0.5, float("nan")]), "c": float("inf"), 1: {2}, "d": int}
    found = to_json_safe(values)
    assert found == {"a": [0, 1, 2], "b": [0.5, None], "c": None, "1": [2], "d": "type"}
    assert to_json_safe(object()) == "object" and to_json_safe(torch.float16) == "torch.float16"
    assert to_json_safe(True) is True and to_json_safe(np.bool_(True)) is True


def test_unknown_and_missing_fields_are_our_mistake(tmp_path):
    with pytest.raises(TypeError, match="patient"):
        write_report(tmp_path / "report.json", **fields(patient="Ann"))
    with pytest.raises(TypeError, match="synthetic"):
        write_report(tmp_path / "report.json", **{k: v for k, v in fields().items() if k != "synthetic"})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_report_and_nothing_else(tmp_path, monkeypatch):
    write_report(tmp_path / "report.json", **fields(seed=1))

    def broken(*_args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path / "report.json", **fields(seed=2))
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert json.loads((tmp_path / "report.json").read_text())["seed"] == 1


def test_the_sum_is_that_of_the_bytes(tmp_path):
    (tmp_path / "w").write_bytes(b"x" * 3_000_001)
    assert sha256_of(tmp_path / "w") == hashlib.sha256(b"x" * 3_000_001).hexdigest()


def test_the_last_line_says_what_where_how_long_and_with_how_much(tmp_path):
    report = write_report(tmp_path / "report.json", **fields(peak_device_bytes=2_200_000_000))
    assert last_line(report, folder="output") == (
        "msgan_ct3d made a synthetic image (512 x 512 x 120 int16): result.nii.gz in output, "
        "in 1 min 24 s and 424 MB of memory (2.2 GB on the device)."
    )


def test_the_last_line_of_many_cases_counts_them_and_names_three(tmp_path):
    outputs = [{"files": [f"{i}.png"], "shape": [256, 256], "dtype": "uint8"} for i in range(5)]
    report = write_report(
        tmp_path / "report.json", **fields(output=outputs, seconds=7325, peak_rss_bytes=None, synthetic=False)
    )
    assert last_line(report) == (
        "msgan_ct3d made 5 images (256 x 256 uint8): 0.png, 1.png, 2.png and 2 more, in 2 h 2 min."
    )
