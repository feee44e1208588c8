"""Whether an image is of the kind that a network was trained on: by what its file tells, and by its values.

What is certainly another kind is refused, what is likely one is warned of. A network draws a plausible CT of anything.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags

from ..core.errors import InputError
from ..core.volumes import Volume
from .dicom import dicom_files, is_dicom, read_header
from .dicom_tags import RADIOGRAPHS
from .pictures import check_justified, opened_picture

logger = logging.getLogger(__name__)

CHECKS = ("check", "warn", "ignore")
CHEST = ("CHEST", "THOR", "LUNG", "HEART", "CARD", "MEDIAST", "RIB", "AORTA", "BODY", "TRUNK", "TORSO")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SAMPLED = 2**22  # voxels that are looked at, about
AIR = -200.0  # HU; fat, the lightest tissue beside the lung, has about -100
FEW = 0.005  # share of the voxels
CHEST_MM = 200.0  # a child's chest is about as wide
_NUMBER = re.compile(r"[-+]?\d[\d.e+-]*")
COLOURED = 0.02  # mean difference of red, green and blue, as a share of the range, that no grey scan has


@dataclass(frozen=True)
class Told:
    """What a file says of its kind; empty where it says nothing.

    Attributes:
        modality: DICOM's (CT, MR, DX ...).
        localizer: a CT's scout.
        body_part: BodyPartExamined.
        coloured: a picture with colours.
        camera: a picture's EXIF names a camera.
    """

    modality: str = ""
    localizer: bool = False
    body_part: str = ""
    coloured: bool = False
    camera: bool = False


def told_by(source: str | Path | Volume | None) -> Told:
    """What a case's file or folder says of its kind.

    Raises:
        InputError: a DICOM file that cannot be read.
    """
    if source is None or isinstance(source, Volume):
        return Told()
    path = Path(source).expanduser()
    files = dicom_files(path) if path.is_dir() else [path] if path.is_file() and is_dicom(path) else []
    if files:
        header = read_header(files[0])
        part = "".join(c for c in header.tags.get("BodyPartExamined", "").upper() if c.isalpha())
        return Told(header.modality, header.localizer, part)
    return _told_by_picture(path) if path.suffix.lower() in PICTURES else Told()


def _told_by_picture(path: Path) -> Told:
    try:
        with opened_picture(path) as picture:
            camera = ExifTags.Base.Make in picture.getexif()
            if picture.mode not in ("RGB", "RGBA", "P", "CMYK", "YCbCr", "LAB", "HSV"):
                return Told(camera=camera)
            check_justified(picture, path)
            small = np.asarray(picture.convert("RGB").resize((256, 256)), dtype=np.float32) / 255
    except Exception:  # Pillow raises many kinds of a damaged file; tifffile may read what it does not
        return Told()
    return Told(coloured=float(np.ptp(small, axis=2).mean()) > COLOURED, camera=camera)


class ImageKind:
    """Checks that an image is what the network was trained on.

    Args:
        kind: ct (a chest CT in HU, 3-D) or radiograph (of a chest, 2-D).
        check: check refuses what is certainly another kind and warns of what is likely one; warn only warns; ignore
            does neither.

    Raises:
        InputError: another kind or check; when called: an image that is certainly of another kind.
    """

    def __init__(self, kind: str, check: str = "check") -> None:
        if kind not in ("ct", "radiograph"):
            raise InputError(f"kind must be ct or radiograph, got {kind!r}; choose one of them.")
        if check not in CHECKS:
            raise InputError(f"check must be check, warn or ignore, got {check!r}; choose one of them.")
        self.kind = kind
        self.check = check

    def __call__(self, source: str | Path | Volume | None, volume: Volume) -> bool:
        """Of what the source tells, and of the volume's values; a Volume as source (a phantom) is taken as it is.

        Returns:
            Whether it is settled that the image has little air: that was warned of, or nothing is to be checked.
        """
        doubts = self.doubts(source, volume, "give another image, or set check to ignore")
        for sentence in doubts:
            logger.warning(f"{volume.name} {sentence}; the result may be wrong (check: ignore silences this).")
        return self.check == "ignore" or any("air" in sentence for sentence in doubts)

    def doubts(self, source: str | Path | Volume | None, volume: Volume, cure: str) -> list[str]:
        """What is to be warned of, each without the image's name.

        Raises:
            InputError: certainly another kind, and check is check; it ends with the cure.
        """
        if self.check == "ignore" or isinstance(source, Volume):
            return []
        certain, likely = (_not_ct if self.kind == "ct" else _not_radiograph)(told_by(source), volume)
        if certain and self.check == "check":
            raise InputError(f"{volume.name} {certain[0]}; {cure}.")
        return [*certain, *likely]


class KindOfSet:
    """Checks the images of a training, one by one as they are opened, and warns of each kind of doubt once.

    Args:
        kind: what each is checked by; None: nothing is.

    Raises:
        InputError: when called: an image that is certainly of another kind.
    """

    def __init__(self, kind: ImageKind | None) -> None:
        self.kind = kind
        self._doubts: dict[str, list[str]] = {}  # the sentence without its numbers -> whole sentences

    def __call__(self, source: str | Path | Volume | None, volume: Volume) -> None:
        """Of one image, as ImageKind."""
        if self.kind is None:
            return
        for sentence in self.kind.doubts(source, volume, "leave it out of the training, or set check to ignore"):
            self._doubts.setdefault(_NUMBER.sub("", sentence), []).append(f"{volume.name} {sentence}")

    def tell(self, images: str) -> None:
        """Warns of what was found among `images`, in words."""
        for sentences in self._doubts.values():
            more = f"; likewise {len(sentences) - 1} more of the {images}" if len(sentences) > 1 else ""
            logger.warning(f"{sentences[0]}{more} (check: ignore silences this).")


def _not_ct(told: Told, volume: Volume) -> tuple[list[str], list[str]]:
    certain = []
    likely = []
    if told.modality not in ("", "CT"):
        certain.append(f"must be a CT, got modality {told.modality[:16]}")
    if told.body_part and not any(part in told.body_part for part in CHEST):
        likely.append("should show a chest, but its BodyPartExamined names another part")
    if len(volume.shape) != 3 or certain:
        return certain, likely
    extent = sorted(n * mm for n, mm in zip(volume.shape, volume.spacing))
    if extent[1] < CHEST_MM:
        likely.append(f"should show a whole chest, but its field of view is {extent[2]:.0f} x {extent[1]:.0f} mm")
    values = _sample(volume)
    least, most = float(values.min()), float(values.max())
    no_air = float((values < AIR).mean()) < FEW
    if least >= -10 and most <= 10:
        certain.append(f"must hold HU (air -1000, water 0), got values from {least:.3g} to {most:.3g}, as if scaled")
    elif volume.dtype == np.uint8:
        certain.append(f"must hold HU (air -1000, water 0), got 8-bit values from {least:g} to {most:g}")
    elif no_air and _shifted(values):
        certain.append("must hold HU (air -1000, water 0), got air at 0 and water at 1024: subtract 1024")
    elif no_air:
        likely.append(
            f"should hold HU of a chest with the air around it, but {least:g} is its least value; of a crop inside the "
            "body, or of values without a unit, tissue may be drawn with its contrast turned round"
        )
    elif float(((values > -150) & (values < 200)).mean()) < FEW:
        likely.append("should hold HU, but next to none of its values is soft tissue's (-150 to 200)")
    elif float((values > 4000).mean()) > FEW:
        likely.append(f"should hold HU, but many values are above 4000, up to {most:g}")
    return certain, likely


def _shifted(values: np.ndarray) -> bool:
    """Whether air lies at 0 ... 60 and water and tissue at 1024, with less between them than at either."""
    air = float(((values >= 0) & (values <= 60)).mean())
    tissue = float(((values >= 890) & (values <= 1150)).mean())
    between = float(((values > 400) & (values < 800)).mean())
    return air > 0.03 and tissue > 0.03 and between < min(air, tissue)


def _not_radiograph(told: Told, volume: Volume) -> tuple[list[str], list[str]]:
    certain = []
    likely = []
    if told.modality == "CT" and told.localizer:
        likely.append("should be a radiograph, but is the localizer of a CT")
    elif told.modality not in ("", "OT", "SC", *RADIOGRAPHS):
        certain.append(f"must be a radiograph, got modality {told.modality[:16]}")
    elif told.modality in ("MG", "IO", "PX"):
        likely.append(f"should be a radiograph of a chest, but its modality is {told.modality}")
    if told.body_part and not any(part in told.body_part for part in CHEST):
        likely.append("should show a chest, but its BodyPartExamined names another part")
    if told.camera:
        likely.append("should be a radiograph, but its EXIF names a camera")
    if told.coloured:
        likely.append("should be a radiograph in grey, but has colours")
    if len(volume.shape) == 2 and not certain and volume.dtype.kind != "u" and float(_sample(volume).min()) < AIR:
        likely.append("should be a radiograph, but has values below -200, as a slice of a CT in HU")
    return certain, likely


def _sample(volume: Volume) -> np.ndarray:
    """Values of some planes across the last axis, evenly spread."""
    return np.concatenate([plane.ravel() for plane in _planes(volume)])


def _planes(volume: Volume) -> Iterator[np.ndarray]:
    *across, depth = volume.shape
    count = min(depth, max(8, SAMPLED // max(1, int(np.prod(across)))))
    for k in np.unique(np.linspace(0, depth - 1, count).round().astype(int)):
        yield volume.read([0] * len(across) + [int(k)], [*across, 1])
