"""Which cases a folder holds: a table of kinds (what lies there, names of the cases, reasons of those refused)."""

from __future__ import annotations

import json
from pathlib import Path

import dicom_files
import nibabel
import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.datasets.brats import SEQUENCES, brain_cases, brats_case, brats_cases
from hiresmed.datasets.brats_labels import label_codings
from hiresmed.datasets.brats_read import read_brats
from hiresmed.methods.patchddm import LoadImageBraind


def save(path: Path, value: float = 1, channels: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((6, 6, 5), value, np.float32)
    values[0] = 0
    if channels:
        values = values[..., None] * (1 + np.arange(channels, dtype=np.float32))
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), path)
    return path


def case(folder: Path, name: str = "p") -> Path:
    for n, sequence in enumerate(SEQUENCES):
        save(folder / f"{name}_{sequence}.nii.gz", n + 1)
    return folder


def label(path: Path, codes) -> Path:
    values = np.zeros((6, 6, 5), np.uint8)
    values[1, : len(codes), 0] = codes
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 1, 1])), path)
    return path


def links(root: Path) -> None:
    case(root.parent / "store", "linked")
    (root / "linked").symlink_to(root.parent / "store")
    (root / "linked" / "round").symlink_to(root)  # a circle


def capitals(root: Path) -> None:
    for path in list(case(root / "b", "b").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))


def pairs(root: Path) -> None:
    for path in list(case(root / "pair", "pair").iterdir()):
        image = nibabel.load(path)
        name = str(path).replace(".nii.gz", ".img")
        nibabel.save(nibabel.Nifti1Pair(np.asarray(image.dataobj), image.affine), name)
        path.unlink()


def dots(root: Path) -> None:
    (case(root / "mac", "mac") / "._mac_seg.nii.gz").write_bytes(b"\0\5\x16\7" * 40)


def dicom(root: Path) -> None:
    pytest.importorskip("pydicom", reason="the series are made by pydicom")
    for n, sequence in enumerate(SEQUENCES):
        values = np.full((6, 6, 5), n + 1, np.float32)
        values[0] = 0
        dicom_files.write_series(root / "series" / sequence, values, np.diag([-1.0, -1, 1, 1]))


def untold(root: Path) -> None:
    save(root / "scans" / "a.nii.gz")


def half(root: Path) -> None:
    (case(root / "half", "half") / "half_t2.nii.gz").unlink()


def inside(root: Path) -> None:
    save(case(root / "deep", "deep") / "masks" / "roi.nii.gz")


def decathlon(root: Path) -> None:
    save(root / "imagesTr" / "BRATS_001.nii.gz", 1, 4)
    save(root / "labelsTr" / "BRATS_001.nii.gz")
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}))


KINDS = {
    links: ({"linked"}, {}),
    capitals: ({"b"}, {}),
    dots: ({"mac"}, {}),
    dicom: ({"series"}, {}),
    inside: ({"deep"}, {}),
    decathlon: ({"BRATS_001"}, {}),
    untold: (set(), {"scans": "no name in it tells a sequence"}),
    half: (set(), {"half": "got no t2"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_case_is_found_beside_a_plain_one_or_named_with_the_reason(tmp_path, kind):
    root = tmp_path / "root"
    case(root / "plain", "plain")
    kind(root)
    names, reasons = KINDS[kind]
    cases = {c["name"]: c for c in brats_cases(root, keep_refused=True)}
    assert {*cases} == {"plain", *names, *reasons}
    for name, found in cases.items():
        if name in reasons:
            assert reasons[name] in found["refused"]
        else:
            image = read_brats(found["image"])[0]
            assert name != "series" or [path.name for path in found["image"]] == list(SEQUENCES)
            wanted = [2, 3, 4, 1] if name == "BRATS_001" else [1, 2, 3, 4]
            assert name == "series" or [channel.max() for channel in image] == wanted
    if reasons:
        with pytest.raises(InputError, match=next(iter(reasons.values()))):
            brats_cases(root)


def test_pairs_of_header_and_voxels_are_read_and_an_analyze_is_refused(tmp_path):
    pairs(tmp_path)
    (found,) = brats_cases(tmp_path)
    assert [channel.max() for channel in read_brats(found["image"])[0]] == [1, 2, 3, 4]
    header = tmp_path / "pair" / "pair_t1.hdr"
    header.write_bytes(header.read_bytes()[:344] + bytes(4))  # without its magic ni1
    with pytest.raises(InputError, match=r"pair_t1.hdr must be a NIfTI image, got Analyze 7.5"):
        read_brats(found["image"])


def test_a_section_that_no_name_falls_into_says_where_the_cases_are(tmp_path):
    case(tmp_path / "one", "one")
    section = next(s for s in ("training", "validation") if _holds(tmp_path, s) is not True)
    with pytest.raises(InputError, match=rf"the {section} section must hold .* of the 1 cases .*one is for "):
        brain_cases(tmp_path, section)


def _holds(root: Path, section: str) -> bool:
    try:
        brain_cases(root, section)
    except InputError as error:
        return "must have a label" in str(error)
    return True


CODES = {
    "2020: a case without enhancing tumour beside one with": ([[0, 1, 2], [0, 1, 2, 4]], "p{}", "brats2020"),
    "2023": ([[0, 1, 2], [0, 1, 2, 3]], "p{}", "brats2023"),
    "a cavity, or enhancing tumour without a core": ([[0, 2, 4]], "p{}", "unclear"),
    "3 and 4 in two cases of one set": ([[0, 1, 3], [0, 1, 4]], "p{}", "unclear"),
    "2024, by the name": ([[0, 2, 4], [0, 1, 2]], "BraTS-GLI-0000{}-100", "brats2024"),
    "2020, by the name": ([[0, 2, 4]], "BraTS20_Training_00{}", "brats2020"),
}


@pytest.mark.parametrize("kind", CODES)
def test_what_labels_mean_is_decided_for_a_data_set(tmp_path, kind):
    sets, name, wanted = CODES[kind]
    for n, codes in enumerate(sets):
        case(tmp_path / str(n), name.format(n))
        label(tmp_path / str(n) / f"{name.format(n)}_seg.nii.gz", codes)
    cases = brats_cases(tmp_path)
    assert [c["coding"] for c in cases] == [wanted] * len(sets) == label_codings(cases)
    load = LoadImageBraind("image")
    if wanted == "unclear":
        with pytest.raises(InputError, match="must tell what its code 4 is"):
            load(cases[0])
        cases[0] = {**cases[0], "coding": "brats2024"}
    assert load(cases[0])["label"].max() <= 3


def test_a_label_of_most_of_the_brain_or_of_tissues_is_no_tumour(tmp_path, caplog):
    case(tmp_path, "p")
    save(tmp_path / "p_seg.nii.gz")
    with pytest.raises(InputError, match="must mark a tumour"):
        LoadImageBraind("image")(brats_case(tmp_path))
    (tmp_path / "p_seg.nii.gz").rename(tmp_path / "p_brain_segmentation.nii.gz")
    assert "label" not in brats_case(tmp_path) and "no segmentation of a tumour" in caplog.text


def test_a_list_is_taken_in_its_order_where_names_do_not_tell_all_four(tmp_path):
    names = ["AX_T1", "T1_FLAIR", "T2", "scan"]  # the second would be another T1
    paths = [save(tmp_path / f"{name}.nii.gz", n + 1) for n, name in enumerate(names)]
    assert [c.max() for c in read_brats(paths)[0]] == [1, 2, 3, 4]
    assert read_brats(paths)[3]["sequences"]["t1ce"] == "T1_FLAIR.nii.gz"
