"""Pictures: sizes, proportions and colours that can be counted in the pixels."""

import re
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest

from cristae.figures.canvas import ScaleBar, scale_bar
from cristae.figures.charts import precision_recall_chart, size_histogram
from cristae.figures.colours import instance_colours, oklch_to_rgb
from cristae.figures.crops import ThreePlanes, place_picture
from cristae.figures.projection import GROUND, project
from cristae.figures.raster import (
    contrast_window,
    data_uri,
    jpeg,
    nearest_index,
    physical_size,
    png,
    resize_image,
    resize_labels,
    to_grey,
)
from cristae.figures.sections import (
    annotate,
    clear_plates,
    draw_cross,
    grey_picture,
    instance_overlay,
    overlay_png,
)


def test_an_id_has_one_colour_wherever_it_is_asked_for():
    alone = instance_colours([7])[0]
    among = instance_colours(np.array([[3, 7], [0, 7]], np.uint64))
    assert (among[0, 1] == alone).all()
    assert (among[1, 1] == alone).all()
    assert (among[1, 0] == 0).all()


def test_colours_of_ids_that_follow_one_another_are_far_apart():
    colours = instance_colours(np.arange(1, 400)).astype(float)
    for step in (1, 2, 3):
        assert np.linalg.norm(colours[step:] - colours[:-step], axis=1).min() > 30


def test_oklch_of_pure_red_is_red():
    # OKLCH of sRGB red by Ottosson's page: L 0.62796, C 0.25768, h 29.23 degrees.
    assert oklch_to_rgb(0.62796, 0.25768, np.deg2rad(29.2339)).tolist() == [255, 0, 0]


def test_window_is_robust_and_never_empty():
    section = np.full((100, 100), 100, np.uint8)
    section[:50] = 50
    section[0, 0], section[0, 1] = 0, 255
    assert contrast_window([section]) == (50, 100)
    assert contrast_window([np.full((4, 4), 9)]) == (8.5, 9.5)
    assert contrast_window([np.array([[np.nan, 1.0], [1.0, np.inf]])]) == (0.5, 1.5)
    assert contrast_window([np.full((2, 2), np.nan)]) == (0.0, 1.0)


def test_grey_follows_the_window():
    assert to_grey(np.array([[0, 50, 75, 100, 200]]), (50, 100)).tolist() == [[0, 0, 128, 255, 255]]


def test_a_voxel_of_30_by_8_nm_is_drawn_30_by_8():
    assert physical_size((10, 100), (30.0, 8.0), 2.0) == (150, 400)
    section = np.zeros((10, 100), np.uint8)
    assert grey_picture(section, (30.0, 8.0), 2.0, (0, 1)).shape == (150, 400)
    assert instance_overlay(section, (30.0, 8.0), 2.0).shape == (150, 400, 4)


def test_shrinking_keeps_the_mean_and_enlarging_keeps_the_values():
    rng = np.random.default_rng(0)
    section = rng.random((60, 80))
    assert resize_image(section, (6, 8)).mean() == pytest.approx(section.mean(), abs=0.01)
    assert resize_image(section, (60, 80)) == pytest.approx(section, abs=1e-6)
    # Linear between the two centres, flat outside them.
    line = resize_image(np.array([[0.0, 4.0]]), (1, 8))[0]
    assert line.tolist() == [0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4]


def test_labels_are_repeated_never_mixed():
    labels = np.array([[1, 9], [5, 0]])
    big = resize_labels(labels, (6, 4))
    assert big.shape == (6, 4)
    assert (big[:3, :2] == 1).all()
    assert (big[3:, 2:] == 0).all()
    assert nearest_index(10, 5).tolist() == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(
    ("width", "scale", "unit", "expected"),
    [
        (1000, 8.0, "nm", ScaleBar(250.0, "2 µm")),
        (1000, 5.0, "nm", ScaleBar(200.0, "1 µm")),
        (100, 8.0, "nm", ScaleBar(25.0, "200 nm")),
        (800, 0.5, "voxels", ScaleBar(200.0, "100 voxels")),
    ],
)
def test_scale_bar_is_a_round_length_within_a_quarter(width, scale, unit, expected):
    assert scale_bar(width, scale, unit=unit) == expected


def test_scale_bar_has_its_length_in_pixels():
    picture, plates = annotate(np.zeros((300, 400), np.uint8), bar=ScaleBar(123.0, "1 µm"))
    row = (picture[:, :, 0] == 255).sum(axis=1).argmax()
    white = np.flatnonzero(picture[row, :, 0] == 255)
    assert len(white) == 123
    assert np.ptp(white) == 122
    (plate,) = plates
    assert plate.left <= white[0]
    assert white[-1] < plate.right


def test_annotation_leaves_the_rest_of_the_picture_alone():
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (240, 320)).astype(np.uint8)
    picture, plates = annotate(grey, text="xy", bar=ScaleBar(60.0, "1 µm"))
    same = (picture == grey[..., None]).all(axis=2)
    outside = np.ones(grey.shape, bool)
    for plate in plates:
        outside[plate.top : plate.bottom, plate.left : plate.right] = False
    assert len(plates) == 2
    assert same[outside].all()
    assert annotate(grey[:30], text="xy", bar=ScaleBar(60.0, "1 µm"))[1] == []


def test_overlay_has_solid_outlines_and_see_through_insides():
    labels = np.zeros((40, 40), np.uint32)
    labels[10:30, 10:30] = 5
    overlay = instance_overlay(labels, (1, 1), 1, fill=0.4, line_px=2)
    assert overlay[0, 0].tolist() == [0, 0, 0, 0]
    assert overlay[20, 20].tolist() == [*instance_colours(5).tolist(), 102]
    assert overlay[10, 20].tolist() == [*instance_colours(5).tolist(), 255]
    assert (overlay[20, 10:30, 3] == 255).sum() == 4


def test_touching_instances_are_parted_by_a_line():
    labels = np.ones((9, 20), np.uint8)
    labels[:, 10:] = 2
    overlay = instance_overlay(labels, (1, 1), 1, line_px=1)
    assert overlay[4, 9, 3] == overlay[4, 10, 3] == 255
    assert overlay[4, 8, 3] < 255


def test_cross_and_cleared_plates():
    overlay = np.zeros((100, 100, 4), np.uint8)
    draw_cross(overlay, 50, 20)
    assert (overlay[50, 60:, 3] > 0).any()
    assert (overlay[:30, 20, 3] > 0).any()
    assert not overlay[45:55, 15:25].any()
    _, plates = annotate(np.zeros((100, 100), np.uint8), text="xy")
    overlay[:] = 255
    clear_plates(overlay, plates)
    assert not overlay[plates[0].top, plates[0].left].any()
    assert overlay[99, 99].all()


def test_encoded_pictures_read_back_at_their_size():
    rgb = np.zeros((21, 33, 3), np.uint8)
    assert imagecodecs.png_decode(png(rgb)).shape == (21, 33, 3)
    assert imagecodecs.jpeg8_decode(jpeg(rgb)).shape == (21, 33, 3)
    assert data_uri(png(rgb)).startswith("data:image/png;base64,iVBOR")
    assert data_uri(jpeg(rgb)).startswith("data:image/jpeg;base64,/9j/")
    assert imagecodecs.png_decode(overlay_png(np.zeros((9, 9, 4), np.uint8))).shape == (1, 1, 4)


# --- the picture in space


def test_a_ball_looks_like_a_disc_of_its_own_colour_and_size():
    z, y, x = np.indices((48, 48, 48)) - 23.5
    labels = ((z**2 + y**2 + x**2) < 15**2).astype(np.uint32) * 3
    picture, scale = project(labels, (10, 10, 10), 0, 160)
    disc = (picture != GROUND).any(axis=2)
    assert 2 * np.sqrt(disc.sum() / np.pi) * scale == pytest.approx(300, rel=0.04)
    colour = picture.astype(float)
    mean, expected = colour[disc].mean(axis=0), instance_colours(3).astype(float)
    assert mean @ expected / np.linalg.norm(mean) / np.linalg.norm(expected) > 0.99
    # Lit from the upper left.
    rows, columns = np.indices(disc.shape) - 79.5
    assert (
        colour[disc & (rows + columns < 0)].mean()
        > 1.1 * colour[disc & (rows + columns > 0)].mean()
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_is_in_front_hides_what_is_behind(axis):
    labels = np.zeros((20, 20, 20), np.uint16)
    labels[2:8, 2:8, 2:8], labels[12:18, 12:18, 12:18] = 1, 2
    near = tuple(slice(2, 8) if i == axis else slice(9, 11) for i in range(3))
    far = tuple(slice(12, 18) if i == axis else slice(9, 11) for i in range(3))
    labels[near], labels[far] = 3, 4
    picture, _ = project(labels, (8, 8, 8), axis, 80)
    colours = [picture[at, at].astype(float) for at in (20, 40, 60)]
    for colour, label in zip(colours, (1, 3, 2), strict=True):
        expected = instance_colours(label).astype(float)
        cosine = colour @ expected / np.linalg.norm(colour) / np.linalg.norm(expected)
        assert cosine > 0.999
    assert (
        colours[0].sum() / instance_colours(1).sum() > colours[2].sum() / instance_colours(2).sum()
    )


def test_thick_sections_keep_their_proportions():
    labels = np.zeros((12, 64, 64), np.uint8)
    labels[3:9, 16:48, 16:48] = 1  # 6 x 40 = 240 nm high, 32 x 8 = 256 nm wide
    picture, scale = project(labels, (40, 8, 8), 1, 128)
    rows, columns = np.nonzero((picture != GROUND).any(axis=2))
    assert (np.ptp(columns) + 1) * scale == pytest.approx(256, rel=0.02)
    assert (np.ptp(rows) + 1) * scale == pytest.approx(240, rel=0.02)


def test_no_instances_give_the_ground_alone():
    picture, _ = project(np.zeros((5, 9, 9), np.uint8), (1, 1, 1), 0, 90)
    assert picture.shape == (90, 90, 3)
    assert (picture == GROUND).all()


# --- close-ups


def _place(shape=(20, 60, 80), size=(30.0, 8.0, 8.0)):
    z, y, x = shape
    grey = tuple(np.full(s, 128, np.uint8) for s in ((y, x), (y, z), (z, x)))
    truth = tuple(np.zeros_like(g) for g in grey)
    prediction = tuple(np.zeros_like(g) for g in grey)
    truth[0][10:30, 10:30] = 4
    prediction[0][35:55, 40:70] = 9
    return ThreePlanes(grey, truth, prediction, size, (0, 255), (4,), (9,))


def test_close_up_has_all_three_planes_at_one_scale():
    picture = imagecodecs.jpeg8_decode(place_picture(_place(), width=400))
    # xy 640 x 480 nm beside yz 600 nm wide, above xz 600 nm high; 8 pixels between.
    scale = (640 + 600) / (400 - 8)
    assert picture.shape[1] == pytest.approx(400, abs=1)
    assert picture.shape[0] == pytest.approx((480 + 600) / scale + 8, abs=2)


def test_close_up_draws_truth_blue_and_prediction_orange():
    picture = imagecodecs.jpeg8_decode(place_picture(_place(), width=600)).astype(int)
    blue = (picture[..., 2] - picture[..., 0]) > 100
    orange = (picture[..., 0] - picture[..., 2]) > 100
    rows, columns = np.nonzero(blue)
    scale = (640 + 600) / 592 / 8
    assert rows.min() == pytest.approx(10 / scale, abs=4)
    assert columns.max() == pytest.approx(30 / scale, abs=4)
    rows, columns = np.nonzero(orange)
    assert rows.max() == pytest.approx(55 / scale, abs=4)
    assert columns.min() == pytest.approx(40 / scale, abs=4)


def test_figures_can_be_made_in_threads():
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda _: place_picture(_place(), width=300), range(6)))
        charts = list(pool.map(lambda _: precision_recall_chart(_curves(), name="c"), range(6)))
    assert len(set(pictures)) == 1
    assert len(set(charts)) == 1


# --- charts


def _curves():
    recall = np.array([0.2, 0.4, 0.4])
    return {0.75: (recall, np.array([1.0, 0.9, 0.6])), 0.5: (recall, np.ones(3))}


def test_charts_are_svg_in_the_colours_of_the_page():
    chart = precision_recall_chart(_curves(), name="a")
    assert chart.startswith("<svg")
    assert chart.endswith("</svg>")
    assert "IoU 0.5" in chart
    assert "var(--ink" in chart
    assert "http" not in chart
    ids = re.findall(r'id="([^"]+)"', chart)
    assert all(i.startswith("a-") for i in ids)
    assert len(ids) == len(set(ids))


def test_histogram_counts_whole_and_cut_instances():
    sizes = np.array([1e-6, 0.002, 0.02, 0.03, 2.0])
    chart = size_histogram(sizes, np.array([1, 0, 0, 1, 0], bool), unit="µm³", name="h")
    assert "whole (3)" in chart
    assert "cut by the border (2)" in chart
    assert "10⁻⁶" in chart
    one = size_histogram(np.array([0.5]), np.array([True]), unit="µm³", name="h")
    assert "whole (0)" in one


def test_curve_without_predictions_is_an_empty_chart():
    chart = precision_recall_chart({0.5: (np.zeros(0), np.zeros(0))}, name="e")
    assert "IoU 0.5" in chart
