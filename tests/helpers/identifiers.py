"""DICOM files in which every attribute of text is an identifier: SEED and a number."""

from __future__ import annotations

import pytest
from dicom_files import make_slice

pydicom = pytest.importorskip("pydicom", reason="the sources are made by pydicom")

SEED = "SEEDED"
TEXTS = {"LO", "PN", "SH", "ST", "LT", "UT", "UC", "CS", "AE"}
READ = {"Modality", "ImageType", "PhotometricInterpretation", "SpecificCharacterSet", "RescaleType"}
GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040, 0x0088, 0x4000)  # patient, study, equipment
SEQUENCES = {
    "ContributingEquipmentSequence": ("InstitutionName", "StationName", "Manufacturer", "InstitutionAddress"),
    "OtherPatientIDsSequence": ("PatientID", "IssuerOfPatientID"),
    "RequestAttributesSequence": ("RequestedProcedureDescription", "ScheduledProcedureStepID"),
    "ReferringPhysicianIdentificationSequence": ("InstitutionName",),
    "OriginalAttributesSequence": ("SourceOfPreviousValues", "ModifyingSystem"),
}


def seeds():
    """{keyword: value} of all attributes of text in the groups that name people, places and machines."""
    found = {}
    for tag, (vr, _, _, _, keyword) in pydicom.datadict.DicomDictionary.items():
        if tag >> 16 in GROUPS and vr in TEXTS and keyword and keyword not in READ:
            found[keyword] = f"{SEED}{len(found)}"
    return found


def seeded_headers(folder, count=6, **attributes):
    """A series in which every text is a seed, with dates of birth, private tags, an overlay and sequences."""
    named = seeds() | {"PatientBirthDate": "19610203", "StudyDate": "19990817", "PatientAge": "038Y"}
    for k in range(count):
        path = folder / f"{k}.dcm"
        make_slice(path, (0, 0, 2.5 * k), value=1000 + 10 * k, SliceThickness=4, **attributes)
        ds = pydicom.dcmread(path)
        for keyword, value in named.items():
            setattr(ds, keyword, value)
        for keyword, inner in SEQUENCES.items():
            item = pydicom.Dataset()
            for name in inner:
                setattr(item, name, f"{SEED}IN")
            setattr(ds, keyword, [item])
        ds.private_block(0x0029, f"{SEED} PRIVATE", create=True).add_new(1, "LO", f"{SEED}PRIVATE")
        ds.add_new(0x60000022, "LO", f"{SEED}OVERLAY")
        ds.add_new(0x60003000, "OW", SEED.encode() * 2)
        ds.save_as(path, enforce_file_format=True)
    return folder
