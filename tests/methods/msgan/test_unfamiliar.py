"""An image that the weights have hardly seen the like of is rendered with a warning, others without one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hiresmed.core.pyramids import MemoryStores
from hiresmed.core.volumes import ArrayVolume
from hiresmed.methods.msgan import CascadeInferer, GradientSketch, MultiScaleGenerator

SMALL = {"width": 8, "num_blocks": 1, "fine_width": 4}


def body(low: float = -1000.0) -> np.ndarray:
    """A ball of soft tissue with two lungs, which is cut off above and below."""
    image = np.full((40, 40, 20), low)
    at = np.indices(image.shape)
    image[(at[0] - 20) ** 2 + (at[1] - 20) ** 2 < 17**2] = 40
    image[(abs(at[0] - 20) > 3) & ((at[0] - 20) ** 2 + (at[1] - 20) ** 2 < 11**2)] = -870
    return image


def sentences(image: np.ndarray, **options) -> list[str]:
    options = {"num_scales": 1, "progress": False, "air": -950} | options
    inferer = CascadeInferer(GradientSketch(), MemoryStores("int16"), 16, **options)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        inferer(
            ArrayVolume(image.astype(np.int16), name="scan"), MultiScaleGenerator(3, base=SMALL, stage=SMALL).eval()
        )
    return [str(w.message) for w in shown]


def test_a_whole_body_is_no_reason_to_warn():
    assert sentences(body()) == []


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (body()[9:31, 9:31], "scan has air along 0% of its sides only"),
        (body(0) + 1000, "scan has no value near air (-950)"),
    ],
)
def test_a_crop_and_what_is_no_ct_are_warned_about_unless_nobody_asked(image, sentence):
    assert len(sentences(image)) == 1 and sentence in sentences(image)[0]
    assert sentences(image, air=None) == []
    assert sentences(image, first_image="real") == [], "super-resolution needs no whole body"
