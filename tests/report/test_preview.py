"""The preview: where it looks, what it shows, and what it says of the whole run."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from cristae.engine.executors import Resources
from cristae.errors import InputError, OutputExistsError
from cristae.networks.families.unet.inference import TileNetwork
from cristae.networks.families.unet.network import UNetConfig, build_network
from cristae.networks.model import Model, save_model
from cristae.prediction import predict as predict_module
from cristae.report import preview
from cristae.volumes.formats import open_volume
from cristae.volumes.intensity import sample_intensity

ONE = Resources(1, "serial")
NETWORK = UNetConfig(widths=(4, 6), strides=((1, 2, 2),), z_kernel_levels=(1,))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    state = build_network(NETWORK).state_dict()
    return Model(NETWORK, state, ("mask", "contour"), thresholds={"min_size": 1})


@pytest.fixture
def volume():
    grey = np.random.default_rng(0).integers(40, 200, (12, 90, 100)).astype(np.uint8)
    return open_volume(grey, voxel_size_nm=(30.0, 8.0, 8.0))


def test_places_spread_over_the_whole(volume):
    boxes = preview.choose_places(volume, (2, 20, 20), 12)
    assert len(set(boxes)) == 12
    assert all(volume.box.contains(box) and box.shape == (2, 20, 20) for box in boxes)
    middles = np.array([[(a + b) / 2 for a, b in zip(x.start, x.stop, strict=True)] for x in boxes])
    for axis, length in enumerate(volume.shape):  # each third along each axis has some
        thirds = np.histogram(middles[:, axis], 3, (0, length))[0]
        assert thirds.min() >= 2


def test_padding_is_no_place(volume):
    grey = volume.read()
    grey[:, :, 30:] = 0
    boxes = preview.choose_places(open_volume(grey), (2, 20, 20), 4)
    assert boxes
    assert all(box.start[2] < 30 for box in boxes)
    with pytest.raises(InputError, match="no place with contrast"):
        preview.choose_places(open_volume(np.zeros_like(grey)), (2, 20, 20), 4)


def test_the_page_shows_places_and_projects(volume, model, tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "EXTENTS", ((2, 24, 24),))
    used, predict = [], preview.predict_volume

    def watched(source, *arguments, **options):
        used.append(sample_intensity(source))
        return predict(source, *arguments, **options)

    monkeypatch.setattr(preview, "predict_volume", watched)
    page = preview.preview_volume(volume, model, tmp_path / "p.html", places=2, resources=ONE)
    text = page.read_text()
    assert text.count('class="sample"') == 2
    for caption in ("raw", "probability of mask", "probability of contour", "instances"):
        assert text.count(f"<figcaption>{caption}</figcaption>") == 2
    tiles = dict(re.findall(r"<dt>([^<]+)</dt><dd>([\d.e+]+)<", text))
    for name in ("Predicting", "Prediction on disk", "Memory to predict"):
        assert float(tiles[name]) > 0
    assert float(tiles["Segmenting"]) >= 0  # so small a place may take no longer than none
    assert "http" not in text.replace("http://www.w3.org", "")  # nothing is fetched
    assert used == [sample_intensity(volume)] * 2  # statistics of the whole, not of a place
    preview.preview_volume(volume, model, page, places=2, resources=ONE)
    assert len(used) == 2  # already done
    with pytest.raises(OutputExistsError, match=r"settings.places: 2 there, 1 now"):
        preview.preview_volume(volume, model, page, places=1, resources=ONE)


def test_a_place_is_predicted_as_in_the_whole(volume, model, tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "MARGIN", (12, 90, 100))
    config = predict_module.PredictConfig(precision="float32")
    known = {**volume.attributes, "intensity": sample_intensity(volume).to_dict()}
    box = preview.choose_places(volume, (4, 20, 20), 1)[0]
    place, precision = preview._look(volume.with_(attributes=known), box, (model,), config, ONE)
    whole = predict_module.predict_volume(
        volume, model, tmp_path / "w.zarr", config=config, resources=ONE
    )
    assert precision == "float32"
    section = whole.read()[(slice(None), *box.slices())][:, 2]
    assert np.array_equal(place.levels, section)
    assert np.array_equal(place.image, volume.read()[box.slices()][2])


def test_what_a_place_took_is_counted_as_the_whole_is(volume, model, monkeypatch):
    """On a working grid that is not the source's, and with variants."""
    model = replace(model, working_voxel_size_nm=(None, 12.0, 12.0))
    config = predict_module.PredictConfig(precision="float32", tta=4)
    seen, logits = [], TileNetwork.logits

    def watched(network, image, core):
        seen.append(image.size)
        return logits(network, image, core)

    monkeypatch.setattr(TileNetwork, "logits", watched)
    box = preview.choose_places(volume, (4, 20, 20), 1)[0]
    place, _ = preview._look(volume, box, (model,), config, ONE)
    assert place.computed == sum(seen) > 0


def test_the_page_depends_on_volume_model_and_settings_alone(volume, model, tmp_path, monkeypatch):
    """Neither on the time nor on workers or memory; and a place is as large on a slow machine."""
    monkeypatch.setattr(preview, "EXTENTS", ((2, 24, 24), (1, 8, 8)))
    one = preview.preview_volume(volume, model, tmp_path / "1.html", places=2, resources=ONE)
    clock = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(preview.time, "perf_counter", lambda: float(next(clock)))
    more = Resources(2, "threads", 1.0)
    two = preview.preview_volume(volume, model, tmp_path / "2.html", places=2, resources=more)
    assert one.read_bytes() == two.read_bytes()


def test_places_are_as_large_as_their_work_allows(volume, model, monkeypatch):
    config = predict_module.PredictConfig(precision="float32")
    monkeypatch.setattr(preview, "EXTENTS", ((4, 64, 64), (2, 24, 24), (1, 8, 8)))
    found = []
    for work in (1e18, 2e8, 1.0):
        monkeypatch.setattr(preview, "WORK", work)
        found.append(preview._affordable(volume, (model,), config, 2))
    assert found[0] == (4, 64, 64)
    assert found[2] == (1, 8, 8)
    assert found == sorted(found, reverse=True)


def test_a_file_of_others_is_never_replaced(volume, model, tmp_path):
    page = tmp_path / "p.html"
    page.write_text("of a person")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="not made by cristae"):
            preview.preview_volume(volume, model, page, resources=ONE, overwrite=overwrite)
    assert page.read_text() == "of a person"
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]


KILLED = """
import os, signal, sys
from cristae.engine.executors import Resources
from cristae.networks.model import load_model
from cristae.report import preview
from cristae.volumes.formats import open_volume
preview.EXTENTS = ((2, 24, 24),)
whole = preview.segment_volume
def dying(*arguments, **options):
    whole(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[4] == "kill":
    preview.segment_volume = dying
volume = open_volume(sys.argv[1], voxel_size_nm=(30.0, 8.0, 8.0))
model = load_model(sys.argv[2])
preview.preview_volume(volume, model, sys.argv[3], places=2, resources=Resources(1, "serial"))
"""


@pytest.mark.long
def test_killed_and_called_again_it_is_the_same_page(volume, model, tmp_path):
    """What the killed call has left of temporary folders goes with the next one."""
    tifffile.imwrite(tmp_path / "v.tif", volume.read(), photometric="minisblack")
    save_model(model, tmp_path / "m.pt")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}

    def call(out, how):
        inputs = [str(tmp_path / name) for name in ("v.tif", "m.pt", out)]
        command = [sys.executable, "-c", KILLED, *inputs, how]
        return subprocess.run(command, check=False, env=environment).returncode

    assert call("killed.html", "kill") == -signal.SIGKILL
    assert any(temporary.iterdir())
    assert call("killed.html", "go on") == 0
    assert not list(temporary.glob("cristae-*"))
    assert call("whole.html", "go on") == 0
    pages = [(tmp_path / name).read_bytes() for name in ("killed.html", "whole.html")]
    assert pages[0] == pages[1]
