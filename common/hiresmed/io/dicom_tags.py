"""What one DICOM file says, and what it does not say: tags by their keyword, numbers that are numbers, bits that fit.

GDCM fills in what is absent (a spacing of 1 mm, a slope of 1, an axial orientation), reads a decimal comma as the end
of the number, and ends the process over a palette without its table. So what a value depends on is read here.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from ..core.errors import InputError

TAGS = {
    "ImageType": "0008|0008", "AcquisitionTime": "0008|0032", "ContentTime": "0008|0033", "Modality": "0008|0060",
    "SeriesDescription": "0008|103e", "BodyPartExamined": "0018|0015", "SliceThickness": "0018|0050",
    "KVP": "0018|0060", "RepetitionTime": "0018|0080", "EchoTime": "0018|0081", "InversionTime": "0018|0082",
    "EchoNumbers": "0018|0086", "TriggerTime": "0018|1060", "ImagerPixelSpacing": "0018|1164",
    "ConvolutionKernel": "0018|1210", "FlipAngle": "0018|1314", "NominalScannedPixelSpacing": "0018|2010",
    "DiffusionBValue": "0018|9087", "SeriesInstanceUID": "0020|000e", "AcquisitionNumber": "0020|0012",
    "ImagePositionPatient": "0020|0032", "ImageOrientationPatient": "0020|0037",
    "TemporalPositionIdentifier": "0020|0100", "NominalPercentageOfCardiacPhase": "0020|9241",
    "SamplesPerPixel": "0028|0002", "PhotometricInterpretation": "0028|0004", "Rows": "0028|0010",
    "Columns": "0028|0011", "PixelSpacing": "0028|0030", "BitsAllocated": "0028|0100", "BitsStored": "0028|0101",
    "HighBit": "0028|0102", "PixelRepresentation": "0028|0103", "RescaleIntercept": "0028|1052",
    "RescaleSlope": "0028|1053", "RescaleType": "0028|1054",
}  # fmt: skip
RADIOGRAPHS = ("CR", "DX", "RG", "RF", "XA", "MG", "IO", "PX", "DR")  # projections through the body
PIXELS = (
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation",
)  # fmt: skip
IMPLICIT, BIG_ENDIAN = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2"  # transfer syntaxes: without VRs; big endian
LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
SYNTAXES = (b"1.2.840.10008.1.2", b"1.2.840.113619.")  # beginnings: the standard's, one maker's own
ENDLESS = 2**32 - 1  # length of a sequence that ends with a delimiter
SHORT_VRS = (
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
)  # fmt: skip
DEFLATED = b"1.2.840.10008.1.2.1.99"
HEAD_BYTES = 2**20  # the attributes of the image stand within these
MOST_UNPACKED = 1032  # bytes that one byte of a deflated file can stand for
PIXELS_PER_BYTE = 2**14  # beyond, no codec has packed an image; a header lies about its size
PHOTOMETRIC = b"\x28\x00\x04\x00", b"\x00\x28\x00\x04"  # little and big endian
MODALITY_LUT = b"\x28\x00\x00\x30SQ", b"\x00\x28\x30\x00SQ"
PALETTE = (0x1101, 0x1102, 0x1103, 0x1201, 0x1202, 0x1203)  # descriptors and data of red, green and blue
PIXEL_DATA = b"\xe0\x7f\x10\x00O"


def tags_of(dictionary) -> dict[str, str]:
    """{keyword: text} of the tags that the file has, from ITK's dictionary; an empty value is as none."""
    found = {name: str(dictionary[key]).strip(" \0") for name, key in TAGS.items() if dictionary.HasKey(key)}
    return {name: text for name, text in found.items() if text}


def numbers(tags: Mapping[str, str], keyword: str, count: int, file: str) -> list[float] | None:
    """The numbers of a tag; None where the file has none.

    Raises:
        InputError: another number of values, or one that is no finite number (such as 0,8).
    """
    if keyword not in tags:
        return None
    parts = tags[keyword].split("\\")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != count or not all(math.isfinite(v) for v in values):
        noun = "number" if count == 1 else f"{count} numbers"
        raise InputError(
            f"{file} must have {noun} with decimal points as {keyword}, got {tags[keyword]!r}; correct the tag, or "
            "export the series again."
        )
    return values


def check_before_decoding(path: Path) -> None:
    """InputError for what GDCM would misread or not survive: a palette, a modality table, lengths beyond the file."""
    head = _head(path)
    check_lengths(path)
    if b"PALETTE" in _first_value(head):
        raise InputError(f"{path.name} must be grey, got PALETTE COLOR; convert it to grey values first.")
    if b"PALETTE COLOR" in head and not all(_has(head, 0x0028, n) for n in PALETTE):
        raise InputError(
            f"{path.name} must have a table for its icon's PALETTE COLOR, got none; remove the IconImageSequence."
        )
    pixels = head.rfind(PIXEL_DATA)
    if any(tag in head[: pixels if pixels > 0 else None] for tag in MODALITY_LUT):
        raise InputError(
            f"{path.name} must have RescaleSlope and RescaleIntercept, got a table (ModalityLUTSequence), which is not "
            "read here; apply it, and export the image again."
        )


def check_pixels(tags: Mapping[str, str], path: Path) -> None:
    """InputError where attributes of the pixels are missing, or contradict each other or the file's size."""
    missing = [keyword for keyword in PIXELS if keyword not in tags]
    if missing:
        raise InputError(
            f"{path.name} must say how its pixels are stored, got no {', '.join(missing)}; export the series again."
        )
    counts = [k for k in PIXELS if k != "PhotometricInterpretation"]
    whole = {k: int(number) for k in counts for number in numbers(tags, k, 1, path.name) or ()}
    stored = whole["BitsStored"]
    if not 0 < stored <= whole["BitsAllocated"] or whole["HighBit"] != stored - 1:
        raise InputError(
            f"{path.name} must have a HighBit of BitsStored - 1 within BitsAllocated, got {whole['HighBit']} for "
            f"{stored} of {whole['BitsAllocated']} bits; export the series again in today's form of the standard."
        )
    size = path.stat().st_size
    count = whole["Rows"] * whole["Columns"] * whole["SamplesPerPixel"]
    told = _native_bytes(path)
    wanted = -(-count * whole["BitsAllocated"] // 8)
    if count > PIXELS_PER_BYTE * size or (told is not None and told < wanted):
        raise InputError(
            f"{path.name} must hold {whole['Rows']} x {whole['Columns']} pixels, got "
            f"{size if told is None else told} bytes for them; it is truncated or its header is wrong: export it again."
        )


def check_rescale(tags: Mapping[str, str], file: str) -> None:
    """InputError where stored values have no unit: CT without Rescale, half of it, a slope of 0, other units.

    The standard requires both tags of a CT image, whose values are HU only through them (PS3.3, C.8.2.1).
    """
    slope = numbers(tags, "RescaleSlope", 1, file)
    intercept = numbers(tags, "RescaleIntercept", 1, file)
    if (slope is None) != (intercept is None) or (slope is None and tags.get("Modality") == "CT"):
        absent = " and ".join(k for k in ("RescaleSlope", "RescaleIntercept") if k not in tags)
        raise InputError(
            f"{file} must have RescaleSlope and RescaleIntercept, or its values have no unit, got no {absent}; export "
            "the series again from the scanner or archive."
        )
    if slope is not None and slope[0] == 0:
        raise InputError(f"{file} must have a RescaleSlope other than 0, got 0; export the series again.")
    if tags.get("Modality") == "CT":
        kind = tags.get("RescaleType", "HU")
        if kind not in ("HU", "US"):  # US: unspecified, as some archives write where the scanner's HU stood
            raise InputError(f"{file} must hold HU as a CT does, got RescaleType {kind[:16]!r}; give the series in HU.")
        if tags.get("PhotometricInterpretation") == "MONOCHROME1":
            raise InputError(
                f"{file} must be MONOCHROME2 as a CT is, got MONOCHROME1; export the series again without inversion."
            )


def pixel_spacing(tags: Mapping[str, str], file: str) -> tuple[float, float] | None:
    """Distance of columns and of rows in mm (rows first in DICOM); None for a projection that tells none.

    PixelSpacing in slices through the body; the detector's spacing may stand for it in radiographs only, where zeros
    mean that the patient's is not known.

    Raises:
        InputError: no such distances in a slice; distances that are no numbers or not above 0.
    """
    projection = tags.get("Modality", "") not in ("CT", "MR", "PT", "NM") and "ImageOrientationPatient" not in tags
    keywords = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
    for keyword in keywords if projection else keywords[:1]:
        values = numbers(tags, keyword, 2, file)
        if values is not None and min(values) > 0:
            return values[1], values[0]
        if values is not None and (max(values) > 0 or min(values) < 0 or not projection):
            raise InputError(
                f"{file} must have a {keyword} above 0, got {tags[keyword]}; correct the tag, or export it again."
            )
    if projection:
        return None
    raise InputError(
        f"{file} must have PixelSpacing, or nobody knows how large its pixels are, got none; export the series again."
    )


def check_orientation(tags: Mapping[str, str], file: str) -> None:
    """InputError where the direction of rows and columns is not that of two unit vectors at right angles."""
    numbers(tags, "ImagePositionPatient", 3, file)
    values = numbers(tags, "ImageOrientationPatient", 6, file)
    if values is None:
        return
    row, column = values[:3], values[3:]
    lengths = [math.hypot(*row), math.hypot(*column)]
    across = sum(a * b for a, b in zip(row, column))
    if max(abs(n - 1) for n in lengths) > 0.01 or abs(across) > 0.01:
        raise InputError(
            f"{file} must have two unit vectors at right angles as ImageOrientationPatient, got "
            f"{tags['ImageOrientationPatient']}; export the series again."
        )


def check_lengths(path: Path) -> None:
    """InputError where an element is longer than the file by what it says, which GDCM would allocate, or has no type.

    The walk goes through sequences, past the pixels and to the end of the file, or to the zeros that fill it.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(128)
        _walk(file, size, path.name, 132 if file.read(4) == b"DICM" else 0)


def _walk(file: BinaryIO, size: int, name: str, at: int) -> None:
    """Goes from element to element as GDCM does, starting at byte `at`.

    A type that nobody knows, such as ??, has a length of 16 bits for GDCM, and one of 32 bits if what follows makes no
    sense; so what follows must.
    """
    order = "<"
    explicit: bool | None = None
    syntax = b""  # said in group 2, which comes first and has VRs
    fragments = False  # in the items of packed pixels, which hold no elements
    mixed = 0  # depth in a UN without length, whose elements have no VRs in most files
    while True:
        file.seek(at)
        head = file.read(12).ljust(12, b"\0")
        group, element = struct.unpack_from(order + "HH", head)
        meta = group == 2 and explicit is None
        if explicit is None and not meta:  # whatever the syntax is called: some files are without VRs all the same
            if syntax == DEFLATED:
                file, size, at, explicit = _unpacked(file, at, name), MOST_UNPACKED * size, 0, True
                continue
            if syntax == BIG_ENDIAN or (not syntax and head[0] == 0 < head[1]):  # 00 08 is group 8
                order = ">"
                group, element = struct.unpack_from(order + "HH", head)
            explicit = syntax != IMPLICIT and head[4:6] in (*LONG_VRS, *SHORT_VRS)
        if at + 8 > size or (head[:8] == bytes(8) and not file.read(HEAD_BYTES).strip(b"\0")):
            return
        pixels = (group, element) == (0x7FE0, 0x0010)
        known = head[4:6] in LONG_VRS or head[4:6] in SHORT_VRS
        has_vr = group != 0xFFFE and (meta or (known if mixed else bool(explicit)))
        vr = head[4:6] if has_vr else b""
        if has_vr and not known and (meta or not (vr.isascii() and vr.decode().isprintable())):
            raise InputError(
                f"{name} must be a DICOM image, got an element ({group:04x},{element:04x}) without a type; it is "
                "damaged: export it again."
            )
        if vr in LONG_VRS or (vr and pixels):
            form, place, start = "I", 8, 12
        else:
            form, place, start = ("H", 6, 8) if vr else ("I", 4, 8)
        length = struct.unpack_from(order + form, head, place)[0]
        endless = length == ENDLESS
        end = at + start + (0 if endless else length)
        if end > size:
            raise InputError(
                f"{name} must be a DICOM image, got an element ({group:04x},{element:04x}) of {length} bytes in "
                f"a file of {size}; it is truncated or damaged: export it again."
            )
        if meta and element == 0x0010:
            file.seek(at + start)
            syntax = file.read(min(length, 64)).strip(b"\0 ")
            if not syntax.startswith(SYNTAXES):
                raise InputError(
                    f"{name} must be a DICOM image, got the transfer syntax {syntax[:40].decode('latin-1')!r}, "
                    "which is none; it is damaged: export it again."
                )
        if (group, element) == (0xFFFE, 0xE0DD):
            fragments, mixed = False, max(mixed - 1, 0)
        elif endless and pixels:
            fragments = True
        elif endless and group != 0xFFFE and (mixed or vr == b"UN"):
            mixed += 1
        holds = vr == b"SQ" or (group == 0xFFFE and not fragments)  # what it holds follows
        if not vr and group != 0xFFFE and not pixels:  # without types, a sequence is what begins with an item
            file.seek(at + start)
            holds = file.read(4) == b"\xfe\xff\x00\xe0"
        at = at + start if holds else end


def _unpacked(file: BinaryIO, at: int, name: str) -> BinaryIO:
    file.seek(at)
    try:
        return io.BytesIO(zlib.decompressobj(-15).decompress(file.read(HEAD_BYTES), HEAD_BYTES))
    except zlib.error as error:
        raise InputError(
            f"{name} must be a DICOM image, got deflated attributes that cannot be unpacked; it is damaged: export it "
            "again."
        ) from error


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    at = head.find(DEFLATED, 128, 1024)
    if at > 0:  # all after the file meta information (12 bytes of its length, 132 before it) is packed
        start = 144 + int.from_bytes(head[140:144], "little")
        try:
            return zlib.decompressobj(-15).decompress(head[start:], HEAD_BYTES)
        except zlib.error:
            return b""
    return head


def _has(head: bytes, group: int, element: int) -> bool:
    """Whether the tag's four bytes stand anywhere, in either byte order; its value is not looked at."""
    return any(group.to_bytes(2, order) + element.to_bytes(2, order) in head for order in ("little", "big"))


def _first_value(head: bytes) -> bytes:
    """The bytes behind the first PhotometricInterpretation: an icon's own comes after the image's."""
    places = [at for at in (head.find(tag) for tag in PHOTOMETRIC) if at >= 0]
    return head[min(places) + 4 : min(places) + 28] if places else b""


def _native_bytes(path: Path) -> int | None:
    """Length of pixel data that are not packed, by the longest such element (an icon has its own); None: not known."""
    head = _head(path)
    lengths = []
    at = head.find(PIXEL_DATA)
    while at >= 0:
        length = int.from_bytes(head[at + 8 : at + 12], "little")
        if head[at + 4 : at + 6] not in (b"OW", b"OB") or length == 0xFFFFFFFF:
            return None
        lengths.append(length)
        at = head.find(PIXEL_DATA, at + 12 + length)
    return max(lengths, default=None) if len(head) < HEAD_BYTES or max(lengths, default=0) > HEAD_BYTES // 2 else None
