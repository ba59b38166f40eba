"""Colours that hold for readers with any kind of colour blindness, measured."""

import itertools

import numpy as np
import pytest

from regrow.report import palette

# Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009), severity 1.0, for linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
PALETTE = (palette.BASE, palette.PRUNED, palette.MERGED, *palette.TUNED)


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    ratios = XYZ @ rgb.clip(0, 1) / WHITE
    f = np.where(ratios > 216 / 24389, np.cbrt(ratios), (24389 / 27 * ratios + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(colour: str, other: str = "#ffffff") -> float:
    light, dark = sorted((float(XYZ[1] @ linear(one)) for one in (colour, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_measure_knows_black_and_white():
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.01)
    assert contrast("#000000") == pytest.approx(21)


@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_colours_are_far_apart(sight: str):
    """A distance of 2.3 in CIELAB can just be seen; 15 is told apart in thin lines."""
    seen = [lab(SIGHT[sight] @ linear(colour)) for colour in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def test_red_and_green_of_equal_lightness_would_fail():
    a, b = (lab(SIGHT["deuteranopia"] @ linear(colour)) for colour in ("#d55e00", "#b07d00"))
    assert np.linalg.norm(a - b) < 5


@pytest.mark.parametrize("colour", PALETTE)
def test_marks_have_the_contrast_that_wcag_asks_of_graphics(colour: str):
    assert contrast(colour) >= 3


@pytest.mark.parametrize("colour", dict.fromkeys((*PALETTE, *palette.DECISIONS)))
def test_letters_on_a_colour_can_be_read(colour: str):
    """WCAG: 3 for bold letters of 14 points and more; labels on bars are bold and shown larger."""
    assert contrast(colour, "#ffffff" if palette.on(colour) == "white" else palette.on(colour)) >= 3


def test_arms_differ_without_colour():
    styles = palette.arms({f"arm {i}": i > 0 for i in range(14)})
    looks = [(style.marker, style.dashes) for style in styles.values()]
    assert len(set(looks)) == 14
    assert len({style.marker for style in list(styles.values())[:7]}) == 7
    assert len({style.dashes for style in list(styles.values())[:7]}) == 7
    assert len({style.colour for style in list(styles.values())[:7]}) == 7


def test_untuned_arms_are_grey():
    styles = palette.arms({"none": False, "a": True})
    assert styles["none"].colour == palette.BASE
    assert styles["a"].colour != palette.BASE
