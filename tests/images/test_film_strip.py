"""Film strips and plots: every frame and every value is where it belongs."""

import numpy as np
import pytest
from PIL import Image

from sfumato.errors import ImageError
from sfumato.images.film_strip import film_strip, step_plot
from sfumato.images.ink import CHANGED, GAP, MARGIN, PAPER

COLOURS = [(200, 40, 30), (40, 180, 60), (30, 60, 200), (220, 200, 40), (120, 60, 140)]


def frames(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (16, 8), COLOURS[k]) for k in range(count)]


def test_frames_stand_in_rows_of_about_one_length() -> None:
    sheet = film_strip(frames(5), columns=4, tile=32)  # rows of 3 and 2
    for k, colour in enumerate(COLOURS):
        x = MARGIN + k % 3 * (32 + GAP // 2) + 16
        y = MARGIN + k // 3 * (16 + GAP // 2) + 8
        assert sheet.getpixel((x, y)) == colour, k
    assert sheet.getpixel((MARGIN + 2 * (32 + GAP // 2) + 16, MARGIN + 16 + GAP // 2 + 8)) == PAPER


def test_captions_and_heading_take_room_and_leave_the_frames() -> None:
    plain, told = film_strip(frames(2)), film_strip(frames(2), ["0", "1"], heading="a morph")
    assert told.height > plain.height
    assert {color for _, color in told.getcolors(1 << 20)} > set(COLOURS[:2])
    with pytest.raises(ImageError, match="one caption each: 2 and 1"):
        film_strip(frames(2), ["0"])
    with pytest.raises(ImageError, match="needs frames"):
        film_strip([])


def highest(plot: Image.Image, colour: tuple[int, int, int], left: int, right: int) -> int:
    """The topmost row of a colour between two columns right of the legend."""
    found = (np.asarray(plot)[:, left:right] == colour).all(-1).any(1)
    assert found.any()
    return int(np.argmax(found))


def test_the_higher_value_stands_higher() -> None:
    plot = step_plot({"even": [1.0, 1.0], "uniform": [0.1, 0.9]}, measure="pixel")
    assert highest(plot, CHANGED, 470, 486) < highest(plot, CHANGED, 194, 210) - 100


def test_equal_steps_are_a_level_line() -> None:
    plot = step_plot({"uniform": [0.3] * 6}, measure="pixel")
    heights = {highest(plot, CHANGED, x, x + 40) for x in range(120, 560, 40)}
    assert max(heights) - min(heights) <= 4


@pytest.mark.parametrize("values", [[1e-7, 2e-7], [0.0, 0.0], [3e4, 1.0], [0.5]])
def test_any_size_of_value(values: list[float]) -> None:
    assert step_plot({"even": values}, measure="lpips-alex").size == (640, 360)


def test_what_cannot_be_plotted() -> None:
    for series in ({}, {"even": []}, {"even": [float("nan")]}):
        with pytest.raises(ImageError, match="finite distances"):
            step_plot(series, measure="pixel")
