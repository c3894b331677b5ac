"""Which numbers a decoder gets, and which it refuses."""

from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
from tests.segmentation.helpers import decode as segmented

from cristae.configuration import load_config, to_plain
from cristae.engine import plugins
from cristae.errors import ConfigError, InputError
from cristae.segmentation.config import PRESETS, SegmentConfig
from cristae.segmentation.decode import decode
from cristae.segmentation.decoder import Decoder, Parameter
from cristae.segmentation.decoders import DECODERS, added_settings, register_decoder, resolve
from cristae.segmentation.levels import distance_bound, quantise
from cristae.segmentation.pieces import WholePieces
from cristae.volumes.volume import array_volume


def volume(channels=3, dtype=np.uint8, **attributes):
    return array_volume(np.zeros((channels, 2, 3, 4), dtype)).with_(attributes=attributes)


def test_defaults_without_any_word():
    found = resolve(SegmentConfig(), volume())
    assert found.decoder == "bc_watershed"
    assert found.rules == ((216, 256, -1), (229, 204, -1))  # int(255 * .85), .9, .8
    assert (found.min_size, found.min_seed_size) == (128, 32)


def test_mitoem_preset():
    found = resolve(SegmentConfig(decoder="mitoem"), volume(2))
    assert found.rules == ((204, 256, -1), (216, 153, -1))
    assert found.min_size == 1024


def test_config_before_prediction_before_decoder():
    tuned = {"seed_threshold": 0.5, "min_size": 7}
    prediction = volume(2, decoder="mitoem", thresholds=tuned)
    found = resolve(SegmentConfig(min_size=9), prediction)
    assert found.decoder == "mitoem"
    assert found.parameters["seed_threshold"] == 0.5
    assert found.min_size == 9
    assert found.parameters["foreground_threshold"] == 0.8


def test_another_decoder_does_not_take_the_predictions_thresholds():
    prediction = volume(2, decoder="mitoem", thresholds={"seed_threshold": 0.5})
    found = resolve(SegmentConfig(decoder="bc_watershed"), prediction)
    assert found.parameters["seed_threshold"] == 0.9


def test_unknown_decoder_lists_the_known():
    with pytest.raises(ConfigError, match="malis_watershed") as error:
        resolve(SegmentConfig(decoder="malis_watershed"), volume())
    assert all(name in str(error.value) for name in PRESETS)


def test_all_faults_at_once_with_both_values():
    config = SegmentConfig(
        decoder="bcd_watershed",
        seed_threshold=1.5,
        distance_seed_threshold=-2.0,
        min_size=-1,
        small="neighbour",
        dilation=(1, 3, 3),
    )
    with pytest.raises(ConfigError) as error:
        resolve(config, volume(2, np.float32).with_(dtype=np.dtype(np.complex64)))
    text = str(error.value)
    for part in (
        "seed_threshold: 1.5 found, expected a number in [0, 1]",
        "distance_seed_threshold: -2.0 found, expected a number in [-1, 1]",
        "min_size: -1 found",
        "small: 'neighbour' found, expected 'background' or 'neighbor'",
        "dilation: bcd_watershed has no such parameter",
        "2 channels found (channel_0, channel_1), bcd_watershed needs mask, contour, distance",
        "complex64 voxels found",
    ):
        assert part in text


def test_a_channel_of_another_name_than_its_position_is_refused():
    """However many channels there are; names that say nothing are taken as they come."""
    edges = array_volume(
        np.zeros((4, 2, 3, 4), np.uint8), channels=("affinity_z", "contour", "mask", "affinity_x")
    )
    with pytest.raises(ConfigError, match=r"channel 1: contour found, .*takes it for affinity\n?"):
        resolve(SegmentConfig(decoder="affinity_connected"), edges)
    with pytest.raises(ConfigError, match="channel 0: affinity_z found, mitoem takes it for mask"):
        resolve(SegmentConfig(decoder="mitoem"), edges)
    resolve(SegmentConfig(decoder="affinity_connected"), volume(3))


def test_offsets_of_channels_that_are_not_read_are_left_out():
    names = ("affinity_x", "affinity_z", "affinity_y", "affinity_z8")
    far = array_volume(np.zeros((4, 2, 3, 4), np.uint8), channels=names)
    near = [[0, 0, -1], [-1, 0, 0], [0, -1, 0]]
    found = resolve(
        SegmentConfig(decoder="affinity_connected"),
        far.with_(attributes={"offsets": [*near, [-8, 0, 0]]}),
    )
    assert found.offsets == tuple(map(tuple, near))


@pytest.mark.parametrize("dilation", [(3, 5, 5), (1, 4, 5), (1, 0, 5)])
def test_dilation_is_odd_and_in_plane(dilation):
    with pytest.raises(ConfigError, match="dilation"):
        resolve(SegmentConfig(decoder="bc_connected", dilation=dilation), volume())


def test_unknown_key_is_named():
    with pytest.raises(ConfigError, match="sed_threshold"):
        load_config(SegmentConfig, {"sed_threshold": 0.5})


@pytest.mark.parametrize("threshold", [-1.0, -0.5, 0.0, 0.3, 1.0])
def test_distance_bound_is_the_float_comparison(threshold):
    values = np.arange(256)
    np.testing.assert_array_equal(
        values > distance_bound(threshold), values / 127.5 - 1 > threshold
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_truncated_as_the_reference_writes_them(dtype):
    probability = np.linspace(0, 1, 500).astype(dtype).reshape(1, 5, 10, 10)
    wide = probability if dtype == np.float64 else probability.astype(np.float32)
    np.testing.assert_array_equal(quantise(probability, "p"), (wide * 255).astype(np.uint8))


def test_uint16_keeps_the_order_and_the_ends():
    values = np.array([0, 256, 257, 65534, 65535], np.uint16)
    np.testing.assert_array_equal(quantise(values, "p"), [0, 0, 1, 254, 255])


@pytest.mark.parametrize("bad", [-0.1, 1.01, np.nan])
def test_floats_outside_are_refused(bad):
    with pytest.raises(InputError, match=r"expected \[0, 1\]"):
        quantise(np.array([0.5, bad]), "p")


@dataclass(frozen=True)
class Halves(WholePieces):
    """Every component in two, by its middle plane."""

    def split(self, piece, value, raster):
        z, _, _ = raster.locate(piece.start)
        part = np.where(z < z.min() + self.parameters["depth"], 1, 2)
        return np.repeat(part, piece.length).astype(np.int32)


def is_depth(value):
    return isinstance(value, int) and value > 0


DEFAULTS = {"foreground_threshold": 0.5, "depth": 2, "min_size": 1, "small": "background"}
DEPTH = Parameter("depth", is_depth, "planes, 1 or more", "planes of the first half")
HALVES = Decoder(Halves, ("mask",), DEFAULTS, (DEPTH,))


@pytest.fixture
def halves():
    register_decoder("halves", HALVES)
    yield
    del DECODERS["halves"]


def test_a_decoder_of_another_package(halves):
    config = SegmentConfig(decoder="halves", depth=3)
    assert load_config(SegmentConfig, {"decoder": "halves"}, ["depth=3"]) == config
    assert to_plain(config)["depth"] == 3
    assert replace(config, depth=1, min_size=4).given == {"min_size": 4, "depth": 1}
    block = np.zeros((5, 9, 9), np.uint8)
    block[:, 2:7, 2:7] = 200
    labels = decode(block, config)
    np.testing.assert_array_equal(labels[:, 4, 4], [1, 1, 1, 2, 2])
    for shape in ((2, 4, 4), (5, 9, 9), (3, 5, 2)):
        np.testing.assert_array_equal(
            segmented(block[None], block_shape=shape, **to_plain(config)), labels
        )
    assert [(each.key, each.default) for each in added_settings()] == [("depth", "2")]


def test_faults_of_its_parameters(halves):
    with pytest.raises(ConfigError, match="depth: 0 found, expected planes, 1 or more"):
        resolve(SegmentConfig(decoder="halves", depth=0), volume(1))
    with pytest.raises(ConfigError, match=r"dept: halves has no such parameter, it has .*depth"):
        resolve(SegmentConfig(decoder="halves", dept=1), volume(1))
    with pytest.raises(ConfigError, match="depth: no such key"):
        load_config(SegmentConfig, {"decoder": "mitoem", "depth": 1})
    with pytest.raises(InputError, match="there is one of that name"):
        register_decoder("mitoem", HALVES)


def test_labels_that_are_not_of_the_piece_are_refused(halves, monkeypatch):
    monkeypatch.setattr(Halves, "split", lambda *_: np.ones(3, np.int32))
    with pytest.raises(InputError, match=r"halves: \(3,\) labels found for 8 voxels"):
        decode(np.full((2, 2, 2), 200, np.uint8), SegmentConfig(decoder="halves"))


def test_a_plugin_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(EntryPoint, "load", lambda self: HALVES)
    entry = EntryPoint("halves", "a_package:HALVES", "cristae.decoders")
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: EntryPoints([entry]).select(group=group)
    )
    assert resolve(SegmentConfig(decoder="halves"), volume(1)).parameters["depth"] == 2
