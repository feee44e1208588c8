"""What a DICOM series does not say is not made up: kinds of headers, each read as the standard says, or refused.

A row is (kind, change of the sound series, wanted): `wanted` is a sentence, a warning, or None for the right values.
"""

from __future__ import annotations

import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from dicom_files import make_slice
from hiresmed.core.errors import InputError
from hiresmed.io.dicom import open_series
from hiresmed.io.dicom_tags import check_lengths

pydicom = pytest.importorskip("pydicom", reason="the series are made by pydicom")

MR = {"Modality": "MR", "SOPClassUID": pydicom.uid.MRImageStorage, "RescaleSlope": None, "RescaleIntercept": None}
COUNT = 8


def series(folder, change):
    """A series of COUNT slices; `change(k)` gives the attributes in which slice k differs from a sound one."""
    attributes = [change(k) for k in range(COUNT)]
    return [make_slice(folder / f"{k}.dcm", (0, 0, 2.5 * k), value=100 * k, **a) for k, a in enumerate(attributes)]


def everywhere(**attributes):
    return lambda k: dict(attributes)


def at(*slices, **attributes):
    return lambda k: dict(attributes) if k in slices else {}


def counted(keyword, *values, **attributes):
    """The attribute's value slice by slice."""
    return lambda k: {keyword: values[k], **attributes}


def times(keyword, *seconds, **attributes):
    return counted(keyword, *(f"10{s // 60:02d}{s % 60:02d}.5" for s in seconds), **attributes)


ALTERNATING, BLOCKS = (1, 2) * 4, (1,) * 4 + (2,) * 4
SENTENCES = [
    ("CT, no Rescale at all", everywhere(RescaleSlope=None, RescaleIntercept=None), "no RescaleSlope and Rescale"),
    ("CT, no Rescale in three slices", at(1, 4, 5, RescaleSlope=None, RescaleIntercept=None), "1.dcm must have Resc"),
    ("CT, no intercept", everywhere(RescaleIntercept=None), "got no RescaleIntercept"),
    ("CT, empty slope", at(2, RescaleSlope=""), "2.dcm must have Rescale.*got no RescaleSlope"),
    ("CT, slope of 0", at(2, RescaleSlope=0), "other than 0"),
    ("CT, other unit", everywhere(RescaleType="EDW"), "must hold HU"),
    ("CT, MONOCHROME1", everywhere(PhotometricInterpretation="MONOCHROME1"), "must be MONOCHROME2"),
    ("CT, table of values", everywhere(ModalityLUTSequence=[pydicom.Dataset()]), "ModalityLUTSequence"),
    ("MR, Rescale in some slices", lambda k: MR | ({} if k % 3 else {"RescaleSlope": 2, "RescaleIntercept": 0}),
     "in every slice or in none"),
    ("no PixelSpacing", everywhere(PixelSpacing=None), "must have PixelSpacing"),
    ("no PixelSpacing in one slice", at(5, PixelSpacing=None), "5.dcm must have PixelSpacing"),
    ("the detector's spacing in a CT", everywhere(PixelSpacing=None, ImagerPixelSpacing=[1, 1]), "must have PixelSp"),
    ("PixelSpacing 0", everywhere(PixelSpacing=[0, 0]), "PixelSpacing above 0"),
    ("negative PixelSpacing", everywhere(PixelSpacing=[-0.5, 0.75]), "PixelSpacing above 0"),
    ("orientation 0", everywhere(ImageOrientationPatient=[0] * 6), "two unit vectors"),
    ("orientation of one direction", everywhere(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "two unit vectors"),
    ("orientation of no length 1", everywhere(ImageOrientationPatient=[2, 0, 0, 0, 1, 0]), "two unit vectors"),
    ("HighBit 15 of 12 bits", everywhere(HighBit=15), "HighBit of BitsStored - 1"),
    ("more bits stored than allocated", everywhere(BitsStored=20, HighBit=19), "within BitsAllocated"),
    ("no BitsStored", everywhere(BitsStored=None), "got no BitsStored"),
    ("no PixelRepresentation", everywhere(PixelRepresentation=None), "got no PixelRepresentation"),
    ("more rows than pixels", everywhere(Rows=60), "must hold 60 x 5 pixels"),
    ("a palette without its table", everywhere(PhotometricInterpretation="PALETTE COLOR"), "got PALETTE COLOR"),
    ("acquisitions between one another", counted("AcquisitionNumber", *ALTERNATING), "differ in AcquisitionNumber"),
    ("one slice of another acquisition", at(3, AcquisitionNumber=2), "differ in AcquisitionNumber"),
    ("phases between one another", counted("TemporalPositionIdentifier", *ALTERNATING), "differ in TemporalPosition"),
    ("cardiac phases", counted("NominalPercentageOfCardiacPhase", *ALTERNATING), "NominalPercentageOfCardiac"),
    ("echoes", counted("EchoTime", *ALTERNATING, **MR), "differ in EchoTime"),
    ("trigger times", counted("TriggerTime", *(3, 403) * 4, **MR), "differ in TriggerTime"),
    ("two energies", counted("KVP", *(80, 140) * 4), "differ in KVP"),
    ("two kernels", counted("ConvolutionKernel", *("B30f", "B70f") * 4), "differ in ConvolutionKernel"),
    ("magnitude and phase", counted("ImageType", *(["ORIGINAL", "PRIMARY", c] for c in "MP" * 4), **MR), "ImageType"),
    ("phases told by the time", times("AcquisitionTime", 0, 60, 1, 61, 2, 62, 3, 63), "differ in AcquisitionTime"),
    ("phases told by the content's time", times("ContentTime", 0, 60, 1, 61, 2, 62, 3, 63), "differ in ContentTime"),
]  # fmt: skip
RIGHT = [
    ("as it should be", everywhere()),
    ("RescaleType HU", everywhere(RescaleType="HU")),
    ("RescaleType unspecified", everywhere(RescaleType="US")),
    ("each slice an acquisition", counted("AcquisitionNumber", *range(COUNT))),
    ("one acquisition number", everywhere(AcquisitionNumber=4)),
    ("helical, each slice its time", times("AcquisitionTime", *range(COUNT))),
    ("from the feet upwards", times("ContentTime", *reversed(range(COUNT)))),
    ("reconstructed out of order", times("ContentTime", 0, 3, 1, 2, 5, 4, 7, 6)),
    ("slightly off unit vectors", everywhere(ImageOrientationPatient=[0.9999, 0.001, 0, -0.001, 0.9999, 0])),
]


@pytest.mark.parametrize(("change", "sentence"), [pytest.param(c, s, id=kind) for kind, c, s in SENTENCES])
def test_what_a_header_leaves_open_is_refused_in_one_sentence(tmp_path, change, sentence):
    series(tmp_path, change)
    for source in (tmp_path, tmp_path / "0.dcm"):  # the folder, or one of its files
        with pytest.raises(InputError, match=sentence) as caught:
            open_series(source)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("change", [pytest.param(c, id=kind) for kind, c in RIGHT])
def test_what_scanners_rightly_write_is_read(tmp_path, change, caplog):
    series(tmp_path, change)
    volume = open_series(tmp_path)
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape)[2, 3], 200 * np.arange(COUNT) - 1024)
    np.testing.assert_allclose(volume.spacing, (0.75, 0.5, 2.5), rtol=1e-3)
    assert not caplog.records


def test_mr_needs_no_rescale_and_its_slices_may_be_acquired_in_any_order(tmp_path):
    series(tmp_path, times("AcquisitionTime", 0, 60, 1, 61, 2, 62, 3, 63, **MR))
    volume = open_series(tmp_path)
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape)[2, 3], 100 * np.arange(COUNT))


def test_each_slices_own_rescale_holds(tmp_path):
    slopes = [1, 2, 0.5, 1, 3, 1, 1, 2]
    series(tmp_path, lambda k: MR | {"RescaleSlope": slopes[k], "RescaleIntercept": k})
    volume = open_series(tmp_path)
    expected = 100 * np.arange(COUNT) * slopes + np.arange(COUNT)
    np.testing.assert_array_equal(volume.read((0, 0, 0), volume.shape)[2, 3], expected)


def test_two_acquisitions_behind_one_another_are_one_image_with_a_warning(tmp_path, caplog):
    series(tmp_path, counted("AcquisitionNumber", *BLOCKS))
    assert open_series(tmp_path).shape == (5, 6, COUNT)
    (record,) = caplog.records
    assert "different AcquisitionNumber behind one another (from 3.dcm to 4.dcm)" in record.getMessage()


@pytest.mark.parametrize(("keyword", "point", "comma"), [
    ("PixelSpacing", b"0.5\\0.75", b"0,5\\0,75"),
    ("RescaleIntercept", b"-1024.5 ", b"-1024,5 "),
    ("RescaleSlope", b"2.5 ", b"2,5 "),
    ("ImagePositionPatient", b"0.000000\\0.000000\\0.000000 ", b"0,000000\\0,000000\\0,000000 "),
    ("ImageOrientationPatient", b"1.0\\0.0\\0.0\\0.0\\1.0\\0.0 ", b"1,0\\0,0\\0,0\\0,0\\1,0\\0,0 "),
])  # fmt: skip
def test_a_decimal_comma_is_no_number(tmp_path, keyword, point, comma):
    series(tmp_path, everywhere(RescaleIntercept="-1024.5", RescaleSlope="2.5"))
    raw = (tmp_path / "0.dcm").read_bytes()
    assert point in raw
    (tmp_path / "0.dcm").write_bytes(raw.replace(point, comma))
    with pytest.raises(InputError, match=f"decimal points as {keyword}"):
        open_series(tmp_path)


LONE = {
    "HighBit 15 of 12 bits": ({"HighBit": 15}, "HighBit of BitsStored - 1"),
    "no BitsStored": ({"BitsStored": None}, "got no BitsStored"),
    "PixelSpacing below 0": ({"PixelSpacing": [-1, 1]}, "PixelSpacing above 0"),
    "a detector's spacing of one axis": (
        {"PixelSpacing": None, "ImagerPixelSpacing": [0.1, 0]},
        "ImagerPixelSpacing a",
    ),
    "half a rescaling": ({"RescaleSlope": None}, "got no RescaleSlope"),
    "a palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "got PALETTE COLOR"),
    "fewer pixels than rows": ({"Rows": 60}, "must hold 60 x 5 pixels"),
}


@pytest.mark.parametrize("kind", LONE)
def test_a_lone_radiograph_is_checked_as_the_slices_of_a_series_are(tmp_path, kind):
    attributes, sentence = LONE[kind]
    sound = {"Modality": "DX", "ImagePositionPatient": None, "ImageOrientationPatient": None}
    make_slice(tmp_path / "sound" / "a.dcm", (0, 0, 0), **sound)
    assert open_series(tmp_path / "sound" / "a.dcm").shape == (6, 5)
    make_slice(tmp_path / "a.dcm", (0, 0, 0), **sound | attributes)
    with pytest.raises(InputError, match=sentence):
        open_series(tmp_path / "a.dcm")


def test_pydicoms_own_files_are_no_damaged_ones():
    """Old scanners' files, private elements, sequences of either form, files whose syntax is called otherwise."""
    unreadable = ("rtplan_truncated.dcm", "MR_truncated.dcm", "no_meta.dcm")  # the last starts amid an element
    files = [
        p for p in (Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm") if p.name not in unreadable
    ]
    assert len(files) > 50
    for path in files:
        check_lengths(path)


@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian])
def test_an_element_longer_than_its_file_is_refused_before_it_is_allocated(tmp_path, syntax):
    make_slice(tmp_path / "a.dcm", (0, 0, 0), IconImageSequence=[icon()])
    file = pydicom.dcmread(tmp_path / "a.dcm")
    file.add_new(0x00091002, "OB", bytes(16))
    file.file_meta.TransferSyntaxUID = syntax
    file.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert open_series(tmp_path / "a.dcm").shape == (6, 5)
    without_type = (tmp_path / "a.dcm").read_bytes().replace(b"PN\x08\x00", b"P\xff\xff\xff")
    raw = bytearray((tmp_path / "a.dcm").read_bytes())
    at = raw.index(b"\x09\x00\x02\x10") + (8 if syntax.is_implicit_VR is False else 4)
    raw[at : at + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "a.dcm").write_bytes(raw)
    with pytest.raises(InputError, match=r"got an element \(0009,1002\) of 2147483648 bytes in a file of"):
        open_series(tmp_path / "a.dcm")
    if syntax == pydicom.uid.ExplicitVRLittleEndian:
        (tmp_path / "a.dcm").write_bytes(without_type)
        with pytest.raises(InputError, match=r"got an element \(0010,0010\) without a type"):
            open_series(tmp_path / "a.dcm")


HUGE = (2**31).to_bytes(4, "little")
ENDLESS, ITEM = b"\xff" * 4, b"\xfe\xff\x00\xe0"
BEHIND = {  # what follows a sound image
    "an element": b"\xfc\xff\xfc\xffOB\0\0" + HUGE,
    "packed pixels": b"\xe0\x7f\x10\0OB\0\0" + ENDLESS + ITEM + bytes(4) + ITEM + HUGE,
    "elements without types": b"\x09\0\x02\x10UN\0\0" + ENDLESS + ITEM + ENDLESS + b"\x08\0\x60\0" + HUGE,
    "a type that nobody knows": b"\x09\0\x02\x10??\2\0ab" + b"\x09\0\x03\x10OB\0\0" + HUGE,
}


@pytest.mark.parametrize("behind", BEHIND)
def test_lengths_are_bounded_to_the_end_of_the_file(tmp_path, behind):
    make_slice(tmp_path / "a.dcm", (0, 0, 0))
    sound = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(sound + bytes(64))  # some archives fill files up
    check_lengths(tmp_path / "a.dcm")
    (tmp_path / "a.dcm").write_bytes(sound + BEHIND[behind])
    with pytest.raises(InputError, match="of 2147483648 bytes in a file of"):
        check_lengths(tmp_path / "a.dcm")
    # a last element that ends with the file, and one that ends a byte behind it
    for length, missing in ((4, 0), (5, 1)):
        element = b"\xfc\xff\xfc\xffOB\0\0" + length.to_bytes(4, "little") + b"abcd"
        (tmp_path / "a.dcm").write_bytes(sound + element)
        with pytest.raises(InputError, match="of 5 bytes in a file of") if missing else nullcontext():
            check_lengths(tmp_path / "a.dcm")


@pytest.mark.parametrize("syntax", [pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.DeflatedExplicitVRLittleEndian])
def test_lengths_in_sequences_without_types_and_in_deflated_files_are_bounded(tmp_path, syntax):
    make_slice(tmp_path / "a.dcm", (0, 0, 0), IconImageSequence=[icon()])
    file = pydicom.dcmread(tmp_path / "a.dcm")
    file.file_meta.TransferSyntaxUID = syntax
    file.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    check_lengths(tmp_path / "a.dcm")
    raw = (tmp_path / "a.dcm").read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little")
    packed = not syntax.is_implicit_VR
    body = zlib.decompress(raw[start:], -15) if packed else raw[start:]
    at = body.rindex(b"\x28\0\x01\x12") + (8 if packed else 4)  # the icon's red table
    body = body[:at] + HUGE + body[at + 4 :]
    if packed:
        body = zlib.compress(body, wbits=-15)
    (tmp_path / "a.dcm").write_bytes(raw[:start] + body)
    with pytest.raises(InputError, match=r"\(0028,1201\) of 2147483648 bytes"):
        check_lengths(tmp_path / "a.dcm")


def icon():
    icon = pydicom.Dataset()
    icon.PhotometricInterpretation, icon.Rows, icon.Columns = "PALETTE COLOR", 2, 2
    icon.SamplesPerPixel, icon.BitsAllocated, icon.BitsStored, icon.HighBit, icon.PixelRepresentation = 1, 8, 8, 7, 0
    for colour in ("Red", "Green", "Blue"):
        setattr(icon, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(icon, f"{colour}PaletteColorLookupTableData", bytes(512))
    icon.PixelData = bytes(4)
    return icon


def test_an_icon_with_a_palette_does_not_make_the_image_one(tmp_path):
    series(tmp_path, everywhere(IconImageSequence=[icon()]))
    assert open_series(tmp_path).shape == (5, 6, COUNT)


def test_an_icon_whose_palette_has_no_table_does_not_end_the_process(tmp_path):
    bare = icon()
    del bare.RedPaletteColorLookupTableDescriptor
    series(tmp_path, everywhere(IconImageSequence=[bare]))
    with pytest.raises(InputError, match="remove the IconImageSequence"):
        open_series(tmp_path)
