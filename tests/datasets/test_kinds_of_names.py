"""Which sequence a name and a header tell: a table of kinds (input, wanted), for files, folders and descriptions.

A wanted sequence is told without doubt; None is another kind of image, left out; several are a doubt, which is refused.
"""

from __future__ import annotations

import pytest
from hiresmed.datasets.brats_names import (
    Acquisition,
    checked_by_acquisition,
    named,
    told_by_file,
    told_by_title,
)

T1, T1CE, T2, FLAIR, EITHER = "t1", "t1ce", "t2", "flair", ("t1", "t1ce")
TITLES = {
    # no contrast medium, in words of several languages
    "AX T1": T1, "AX T1 WITHOUT CONTRAST": T1, "AX T1 W/O": T1, "AX T1 W/O CONTRAST": T1, "AX T1 WO": T1,
    "AX T1 NON CONTRAST": T1, "T1 noncontrast": T1, "T1 non-enhanced": T1, "T1 UNENHANCED": T1, "AX T1 NO GD": T1,
    "AX T1 PRE": T1, "AX T1 (PRE)": T1, "AX T1 PRE GD": T1, "T1 pre-contrast": T1, "T1 before contrast": T1,
    "AX T1 without IV contrast": T1, "AX T1 prior to contrast": T1, "T1 MINUS CONTRAST": T1, "T1 -C": T1, "T1 C-": T1,
    "AX T1 GD-": T1, "T1 contrast: none": T1, "t1 tse tra ohne KM": T1, "T1 vor KM": T1, "T1 nativ": T1,
    "T1w sin contraste": T1, "T1 EG sans injection": T1, "T1 senza mdc": T1, "T1 POST OP": T1, "T1 PRESAT": T1,
    "T1 NO FS": T1, "t1_mprage_sag_p2_iso": T1, "SPGR 3D": T1, "T1 FLAIR": T1, "eT1W_SE": T1, "T1W_SE_CLEAR": T1,
    # contrast medium
    "AX T1 +C": T1CE, "3D T1 BRAVO +C": T1CE, "T1C": T1CE, "T1 C+": T1CE, "T1+": T1CE, "T1 + GD": T1CE,
    "T1+GD FS": T1CE,
    "AX T1 [POST]": T1CE, "T1Post": T1CE, "SAG T1 SE POST GAD": T1CE, "AX T1 post-contrast": T1CE, "T1 CE": T1CE,
    "T1 POSTCONTRAST": T1CE, "T1 W/ CONTRAST": T1CE, "T1 W CONTRAST": T1CE, "AX T1 with Gd": T1CE, "T1 with": T1CE,
    "T1 GADOLINIUM": T1CE, "T1 0.1 mmol Gadobutrol": T1CE, "t1_mprage_sag_p2_iso_KM": T1CE, "t1 tse tra nach KM": T1CE,
    "t1 tse tra mit KM": T1CE, "T1 con contraste": T1CE, "T1 EG avec injection": T1CE, "T1 après gado": T1CE,
    "T1 POST GD FLAIR": T1CE, "T1 W/O FS +C": T1CE, "T1 PRE SAT POST GD": T1CE, "sT1W_3D_TFE_Gd": T1CE,
    # both: doubt
    "T1 W/WO CONTRAST": EITHER, "T1 pre and post": EITHER, "T1 without and with contrast": EITHER,
    # the other two, whatever is said of contrast medium
    "AX T2": T2, "T2W_TSE": T2, "AX T2 WITHOUT CONTRAST": T2, "AX FLAIR": FLAIR, "T2_FLAIR": FLAIR, "T2Flair": FLAIR,
    "t2_tirm_tra_dark-fluid": FLAIR, "AX T2 FLAIR +C": FLAIR, "Sag FLAIR 3D": FLAIR,
    # doubt
    "AX T1/T2": ("t1", "t2"), "t2_tirm_tra": ("t2", "flair"), "AX T2 GRE": ("t2",),
    # other kinds of image
    "DWI T2": None, "b1000 T2": None, "T2*": None, "AX T2* GRE": None, "T2 STIR": None, "T1 MAP": None, "ADC": None,
    "ep2d_diff_3scan_trace": None, "T1 SUBTRACTION": None, "TOF 3D": None, "AX PD T2": None, "DWI": None, "": None,
}  # fmt: skip
FILES = {
    "BraTS20_Training_007_t1ce.nii": ("BraTS20_Training_007", T1CE),
    "BraTS-GLI-00001-000-t2f.nii.gz": ("BraTS-GLI-00001-000", FLAIR),
    "sub-3_T1w.nii.gz": ("sub-3", T1), "sub-01_ce-gadolinium_T1w.nii.gz": ("sub-01", T1CE), "t1.nii": ("", T1),
    "C_t1.nii": ("C", T1), "plain_t1ce.nii": ("plain", T1CE),
    "p01_ax_t1_post.NII.GZ": ("p01", T1CE), "p01_T1-WITHOUT-CONTRAST.nii.gz": ("p01", T1), "x_t1_pre.nii": ("x", T1),
    "POST_001_t1.nii.gz": ("POST_001", T1), "PD_001_t1.nii": ("PD_001", T1), "11_AX_T1_FLAIR.nii.gz": ("11", T1),
    "x_dwi_t2.nii": ("x", None), "x_t1_mask.nii.gz": ("x", None), "x_seg.nii.gz": ("x", "label"),
    "BRATS_001.nii.gz": ("BRATS_001", None),
}  # fmt: skip
AGENT = Acquisition(agent="Dotarem")
HEADERS = {
    "a contrast medium in the header": ("AX T1", AGENT, T1CE),
    "a contrast medium that the name denies": ("AX T1 WITHOUT CONTRAST", AGENT, EITHER),
    "a contrast medium, but no T1": ("AX T2", AGENT, T2),
    "an echo too short for a T2": ("AX T2", Acquisition(echo_ms=11), ("t2", "t1", "t1ce")),
    "an echo too long for a T1": ("AX T1", Acquisition(echo_ms=95), ("t1", "t2", "flair")),
    "a T2 whose liquor is nulled": ("AX T2", Acquisition(echo_ms=95, inversion_ms=2500), ("t2", "flair")),
    "a FLAIR whose liquor is not": ("FLAIR", Acquisition(echo_ms=95, inversion_ms=160), ("t2", "flair")),
    "a T1 FLAIR with the figures of a FLAIR": ("T1 FLAIR", Acquisition(inversion_ms=2500), ("t1", "flair")),
    "a T1 FLAIR as it should be": ("T1 FLAIR", Acquisition(echo_ms=9, inversion_ms=860), T1),
    "a FLAIR as it should be": ("FLAIR", Acquisition(echo_ms=125, inversion_ms=2370), FLAIR),
    "a T2 with a b-value": ("AX T2", Acquisition(diffusion=1000), None),
}


def answer(told):
    return told.candidates or told.sequence


@pytest.mark.parametrize("title", TITLES)
def test_a_description_tells_one_sequence_or_none_or_leaves_doubt(title):
    told = told_by_title(title)
    assert answer(told) == TITLES[title]
    assert told.why or not told.candidates
    assert told_by_title(title.lower()).sequence == told_by_title(f"{title.upper()} ").sequence == told.sequence


@pytest.mark.parametrize("name", FILES)
def test_a_file_name_tells_subject_and_sequence_by_the_same_rules(name):
    assert named(name) == FILES[name]


def test_another_weighting_in_a_subjects_name_is_a_doubt_and_the_same_one_is_not():
    assert told_by_file("T1_cohort_9_flair.nii.gz").candidates == ("t1", "flair")
    assert told_by_file("T1_cohort_9_t1.nii.gz").sequence == "t1"
    assert told_by_file("pre_t1ce.nii.gz").candidates == EITHER


@pytest.mark.parametrize("kind", HEADERS)
def test_contrast_medium_and_times_in_the_header_decide_or_leave_doubt(kind):
    title, made, wanted = HEADERS[kind]
    told = checked_by_acquisition(told_by_title(title), made)
    assert answer(told) == wanted and (told.why or told.sequence)
