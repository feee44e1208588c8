"""A chart's lines lie where the numbers say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hiresmed.reports.chart import BOTTOM, LEFT, RIGHT, TOP, draw_chart
from hiresmed.reports.preview import LABEL_COLOURS

WIDTH, HEIGHT = 400, 300


def pixels_of(picture, colour) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the plot that have a colour."""
    match = (np.asarray(picture) == colour).all(-1)
    match[: TOP - 6] = False  # its name is there
    return np.nonzero(match)


def test_a_rising_line_goes_from_the_lower_left_to_the_upper_right():
    rows, columns = pixels_of(draw_chart((WIDTH, HEIGHT), "rising", {"a": [(0, 0), (10, 10)]}), LABEL_COLOURS[0])
    assert abs(columns.min() - LEFT) <= 3 and abs(columns.max() - (WIDTH - RIGHT)) <= 3
    assert rows[columns.argmin()] > rows[columns.argmax()]
    across = (columns - columns.min()) / np.ptp(columns)
    up = (rows.max() - rows) / np.ptp(rows)
    assert np.abs(across - up).max() < 0.03, "straight"


def test_two_lines_share_one_scale():
    picture = draw_chart((WIDTH, HEIGHT), "two", {"low": [(0, 1), (1, 1)], "high": [(0, 3), (1, 3)]})
    low, high = (pixels_of(picture, LABEL_COLOURS[n])[0].mean() for n in (0, 1))
    assert low - high == pytest.approx((HEIGHT - TOP - BOTTOM) / 1.1, abs=3), "5 % of margin above and below"


def test_points_that_are_not_finite_are_left_out_and_one_point_is_enough():
    picture = draw_chart((WIDTH, HEIGHT), "one", {"a": [(1, math.nan), (2, 5.0), (3, math.inf)]})
    rows, columns = pixels_of(picture, LABEL_COLOURS[0])
    assert len(rows) and np.ptp(rows) <= 5 and np.ptp(columns) <= 5
    empty = draw_chart((WIDTH, HEIGHT), "none", {"a": [(1, math.nan)]})
    assert not len(pixels_of(empty, LABEL_COLOURS[0])[0])
