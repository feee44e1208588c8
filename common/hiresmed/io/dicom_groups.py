"""Slices of two acquisitions, phases or echoes in one DICOM series: told apart by their tags and times."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise

from ..core.errors import InputError

logger = logging.getLogger(__name__)

# what is one within a volume; a series may hold several volumes
ONE_IN_A_VOLUME = (
    "AcquisitionNumber", "TemporalPositionIdentifier", "TriggerTime", "NominalPercentageOfCardiacPhase", "EchoNumbers",
    "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle", "DiffusionBValue", "KVP", "ConvolutionKernel",
    "ImageType",
)  # fmt: skip
PAUSE = 5.0  # seconds between two acquisitions, at the least
CURE = "export each acquisition as a series of its own, or remove the slices of the other"


def check_one_acquisition(slices: Sequence, name: str) -> None:
    """Refuses slices of two acquisitions that lie between one another, and warns where they lie behind one another.

    A tag that differs from slice to slice says nothing (each slice may be an acquisition of its own).

    Args:
        slices: in the order of their positions, each with `tags`, `path` and `modality`.

    Raises:
        InputError: two values of a tag, or two times of acquisition, that alternate along the volume.
    """
    for keyword in ONE_IN_A_VOLUME:
        values = [s.tags.get(keyword, "") for s in slices]
        if 1 < len(set(values)) < len(values):
            _judge(values, keyword, slices, name)
    if slices[0].modality == "CT":  # an MR's slices are often acquired in another order than that of their positions
        for keyword in ("AcquisitionTime", "ContentTime"):
            readings = [_seconds(s.tags.get(keyword, "")) for s in slices]
            times = [t for t in readings if t is not None]
            pause = _pause(times) if len(times) == len(readings) else None
            if pause is not None:
                _judge([t > pause for t in times], keyword, slices, name)


def _judge(values: list, keyword: str, slices: Sequence, name: str) -> None:
    changes = [n for n in range(1, len(values)) if values[n] != values[n - 1]]
    first = slices[changes[0] - 1].path.name
    second = slices[changes[0]].path.name
    if len(changes) >= len(set(values)):  # a value comes again after another
        raise InputError(
            f"{name} must hold one acquisition, got several whose slices lie between one another ({first} and {second} "
            f"differ in {keyword}); {CURE}."
        )
    logger.warning(
        f"{name} holds parts of different {keyword} behind one another (from {first} to {second}); the result treats "
        "them as one image."
    )


def _seconds(text: str) -> float | None:
    """Of a DICOM time HHMMSS.FFFFFF."""
    digits = text.replace(":", "")
    try:
        return 3600 * int(digits[:2]) + 60 * int(digits[2:4]) + float(digits[4:])
    except ValueError:
        return None


def _pause(times: list[float]) -> float | None:
    """A time between two acquisitions, each of at least two slices and much shorter than the pause; None: no pause."""
    ordered = sorted(times)
    gaps = [b - a for a, b in pairwise(ordered)]
    at = max(range(len(gaps)), key=gaps.__getitem__)
    longest = max(ordered[at] - ordered[0], ordered[-1] - ordered[at + 1])
    if at < 1 or at > len(gaps) - 2 or gaps[at] < max(PAUSE, 3 * longest):
        return None
    return (ordered[at] + ordered[at + 1]) / 2
