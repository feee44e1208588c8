"""A sketch from outside: bright lines on black stay as they are, a drawing on paper is inverted."""

import numpy as np
import pytest
from hiresmed.core.errors import InputError
from hiresmed.core.volumes import ArrayVolume
from hiresmed.methods.msgan.conditions import SketchVolume


def lines(shape=(60, 80)):
    """Edge strengths in 0 ... 1, 4 % of them not 0; none in the middle column."""
    values = np.zeros(shape, np.float32)
    values[10, 5:35], values[20:50, 60], values[30, 3:30] = 1.0, 0.6, 0.2
    return values


def read(values):
    volume = SketchVolume.of(ArrayVolume(values))
    return volume.read([0] * values.ndim, values.shape)


@pytest.mark.parametrize("paper", [255, 250, 180])
def test_pencil_on_paper_is_lines_on_black_whatever_the_papers_grey(paper):
    drawn = np.rint(paper * (1 - lines())).astype(np.uint8)
    np.testing.assert_allclose(read(drawn), lines(), atol=1 / paper)
    assert (read(drawn)[lines() == 0] == 0).all()


def test_a_bright_speck_on_grey_paper_is_paper():
    drawn = np.rint(200 * (1 - lines())).astype(np.uint8)
    drawn[0, 0] = 255
    assert read(drawn)[0, 0] == 0 and read(drawn).max() == 1


@pytest.mark.parametrize("kind", ["float", "0 to 255", "0 and 1", "bool"])
def test_an_edge_map_stays_what_it_is(kind):
    strong = (lines() > 0).astype(np.float32)
    given, expected = {
        "float": (lines(), lines()),
        "0 to 255": (np.rint(255 * lines()).astype(np.uint8), lines()),
        "0 and 1": (strong.astype(np.uint8), strong),
        "bool": (strong.astype(bool), strong),
    }[kind]
    np.testing.assert_allclose(read(given), expected, atol=1 / 255)


@pytest.mark.parametrize("kind", ["float", "0 and 1"])
def test_paper_of_strengths_0_to_1_is_inverted_too(kind):
    strong = (lines() > 0).astype(np.float32)
    given = 1 - strong if kind == "float" else (1 - strong).astype(np.uint8)
    np.testing.assert_array_equal(read(given), strong)


def test_the_scale_is_found_though_the_middle_column_is_empty_and_boxes_agree_with_the_whole():
    drawn = np.zeros((700, 900), np.uint8)
    drawn[650, 880] = 200
    volume = SketchVolume.of(ArrayVolume(drawn))
    assert volume.read((650, 880), (1, 1))[0, 0] == pytest.approx(200 / 255)
    paper = SketchVolume.of(ArrayVolume(255 - drawn))
    whole = paper.read((0, 0), drawn.shape)
    np.testing.assert_array_equal(paper.read((600, 850), (70, 40)), whole[600:670, 850:890])
    assert np.count_nonzero(whole) == 1


def test_a_volume_of_three_axes_is_never_taken_for_paper():
    values = np.full((6, 6, 6), 255, np.uint8)
    assert (read(values) == 1).all()


def test_an_image_in_place_of_a_sketch_is_refused():
    for values in (np.full((20, 20), 3000, np.int16), np.full((20, 20), -3.0, np.float32)):
        with pytest.raises(InputError, match="give an image as --image"):
            read(values)
