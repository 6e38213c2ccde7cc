"""WindowData: windows as R-CNN cuts them, against cutting them by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modum.caffe.data.windows import Window, warp
from modum.caffe.errors import ModelError
from modum.caffe.proto import BlobProto
from modum.data import DataError
from tests.caffe.data.making import layer, quote

GRADIENT = np.add.outer(np.arange(20) * 5, np.arange(30) * 3).astype(np.uint8)[np.newaxis]
"""[1, 20, 30]; five brighter each row, three each column."""


def test_a_window_of_the_size_of_the_crop_is_cut_as_it_is() -> None:
    for mirror in (False, True):
        warped, top, left = warp(GRADIENT, Window(0, 1, 3, 4, 10, 11), 8, 0, False, mirror)
        cut = GRADIENT[:, 4:12, 3:11]
        assert np.array_equal(warped, cut[..., ::-1] if mirror else cut)
        assert (top, left) == (0, 0)


def test_a_window_is_warped_to_a_square() -> None:
    warped, _, _ = warp(GRADIENT, Window(0, 1, 0, 0, 15, 7), 8, 0, False, False)
    expected = GRADIENT[0, :8, :16].reshape(8, 8, 2).mean(2)
    assert np.abs(warped[0] - expected).max() <= 0.5


def test_context_around_the_window_fills_as_many_pixels_on_each_side() -> None:
    # 12 pixels and 2 of context on each side make 16: the window is cut 2 wider, and R-CNN's rounding adds one
    warped, top, left = warp(GRADIENT, Window(0, 1, 8, 4, 19, 15), 16, 2, False, False)
    assert warped.shape == (1, 16, 16)
    assert (top, left) == (0, 0)
    assert abs(int(warped[0, 0, 0]) - int(GRADIENT[0, 2, 6])) <= 3
    assert abs(int(warped[0, -1, -1]) - int(GRADIENT[0, 18, 22])) <= 3


def test_what_lies_beyond_the_image_stays_empty_on_the_side_that_it_is_on() -> None:
    window = Window(0, 1, 0, 4, 11, 15)  # at the left edge
    warped, top, left = warp(GRADIENT, window, 16, 2, False, False)
    assert (top, left) == (0, 2)
    assert warped.shape == (1, 16, 14)
    mirrored, top, left = warp(GRADIENT, window, 16, 2, False, True)
    assert (top, left) == (0, 0)
    assert np.array_equal(mirrored[..., ::-1], warped)


def test_a_square_reaches_as_far_in_both_directions() -> None:
    # 5 columns and 11 rows around column 14.5 and row 9.5: 11 columns, and one more by rounding
    warped, top, left = warp(GRADIENT, Window(0, 1, 12, 4, 16, 14), 12, 0, True, False)
    assert warped.shape == (1, 12, 12)
    assert (top, left) == (0, 0)
    assert abs(int(warped[0, 5, 0]) - int(GRADIENT[0, 9, 9])) <= 5
    assert abs(int(warped[0, 5, -1]) - int(GRADIENT[0, 9, 20])) <= 5


def test_a_window_outside_of_its_image_is_refused() -> None:
    with pytest.raises(DataError, match=r"Window\(image=0, .*x2=30.* is not inside of its image of 20 x 30"):
        warp(GRADIENT, Window(0, 1, 25, 0, 30, 5), 8, 0, False, False)


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    """Two images, red 100 and 200, with three windows of objects, four of background, one between."""
    text = ""
    for index, red in enumerate((100, 200)):
        rows = np.zeros((20, 30, 3), np.uint8)
        rows[..., 0] = red
        Image.fromarray(rows).save(tmp_path / f"{index}.png")
        boxes = [(index + 1, 0.9), (5, 0.6), (3, 0.4), (3, 0.1), (0, 0.0)][index:]
        text += f"# {index}\n{index}.png\n3\n20\n30\n{len(boxes)}\n"
        text += "".join(f"{label} {overlap} 2 3 12 13\n" for label, overlap in boxes)
    (tmp_path / "windows.txt").write_text(text)
    return tmp_path / "windows.txt"


def window_data(windows: Path, more: str = "", transform: str = "crop_size: 8 mirror: true") -> str:
    return f"""type: "WindowData" top: "data" top: "label" transform_param {{ {transform} }}
        window_data_param {{ source: {quote(windows)} root_folder: "{windows.parent}/" batch_size: 10
        fg_threshold: 0.5 bg_threshold: 0.3 fg_fraction: 0.35 {more} }}"""


@pytest.mark.parametrize("cache", ["", "cache_images: true"])
def test_a_batch_is_background_first_then_its_share_of_objects(cache: str, windows: Path) -> None:
    with layer(window_data(windows, cache)) as source:
        assert source.tops == [(10, 3, 8, 8), (10,)]
        seen = set()
        for _ in range(20):
            images, labels = source.forward()
            assert labels[:7].tolist() == [0] * 7
            for image, label in zip(images[7:], labels[7:].tolist(), strict=True):
                assert image[:2].unique().tolist() == [0]
                (red,) = image[2].unique().tolist()
                seen.add((red, label))
        assert seen == {(100, 1), (100, 5), (200, 5)}


def test_workers_draw_windows_of_their_own(windows: Path) -> None:
    drawn = []
    for worker in range(2):
        with layer(window_data(windows)) as source:
            source.shard(worker, 2)
            drawn.append([source.forward()[1].tolist() for _ in range(10)])
    assert drawn[0] != drawn[1]


def test_the_middle_of_the_mean_is_subtracted_where_the_window_is(windows: Path, tmp_path: Path) -> None:
    mean = np.random.default_rng(0).uniform(0, 9, (3, 12, 12)).astype(np.float32)
    blob = BlobProto(num=1, channels=3, height=12, width=12, data=mean.reshape(-1).tolist())
    (tmp_path / "mean").write_bytes(blob.SerializeToString())
    lines = (windows.parent / "windows.txt").read_text().replace("2 3 12 13", "0 3 5 8")
    windows.write_text(lines)
    text = window_data(windows, "context_pad: 1", f'crop_size: 8 scale: 2 mean_file: "{tmp_path}/mean"')
    with layer(text) as source:
        images, _ = source.forward()
    for image in images.numpy():
        assert not image[:, :, 0].any()  # beyond the left edge
        red = (image[2, :, 1:] / 2 + mean[2, 2:10, 3:10]).round(3)
        assert np.unique(red).tolist() in ([100], [200])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("crop_size: 8", ""), "crop_size must be positive for WindowData"),
        (("batch_size: 10", ""), "batch_size must be positive"),
        (("batch_size: 10", 'batch_size: 10 crop_mode: "round"'), 'crop_mode: "round" must be "warp" or "square"'),
        (("batch_size: 10", "batch_size: 10 context_pad: 4"), r"context_pad \(4\) must be less than half"),
        (("fg_threshold: 0.5", "fg_threshold: 0.95"), "no window that overlaps an object by 0.95 or more"),
        (("bg_threshold: 0.3", "bg_threshold: 0"), "no window that overlaps all objects by less than 0"),
        (("windows.txt", "nowhere"), "the window file .*nowhere cannot be read"),
        (("mirror: true", "mean_value: 1 mean_value: 2"), "3 channels has 2 mean_value"),
    ],
)
def test_settings_that_do_not_go_are_refused(change: tuple[str, str], message: str, windows: Path) -> None:
    with pytest.raises(ModelError, match=f'^net.prototxt:2: layer "in": .*{message}'):
        with layer(window_data(windows).replace(*change)):
            pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("0 a.png", "'0' instead of '#'"),
        ("# 0 a.png 3 20 30 1 4 0.9 1 2 3", "the file ends in the middle of an image"),
        ("# 0 a.png 3 20 30 1 0 0.9 1 2 3 4", "a window with an object has class 0"),
        ("# 0 a.png 3 20 30 1 cat 0.9 1 2 3 4", "invalid literal"),
    ],
)
def test_files_that_are_no_window_files_are_refused(content: str, message: str, windows: Path) -> None:
    windows.write_text(content)
    with pytest.raises(ModelError, match=message):
        with layer(window_data(windows)):
            pass
