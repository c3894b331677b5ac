"""Simulated EM: what is read does not depend on how it is read, and is what it claims to be."""

import pickle
from collections import Counter
from functools import lru_cache

import cc3d
import numpy as np
import pytest

from cristae.configuration import load_config
from cristae.errors import ConfigError, InputError
from cristae.grid import Box, tile
from cristae.simulation.looks import draw_look, texture_table
from cristae.simulation.shading import other_organelle
from cristae.simulation.simulate import SimulationConfig, simulate_volume, touching_pairs
from cristae.simulation.spines import (
    LYSOSOME_BODY,
    O_COLUMNS,
    O_KIND,
    O_PHASE,
    VACUOLE_BODY,
)
from cristae.simulation.tissue import BODY, EMPTY, LYSOSOME, VACUOLE, plan_stray

SECTIONS = (30.0, 8.0, 8.0)
ISOTROPIC = (5.0, 5.0, 5.0)
THICK = (50.0, 4.0, 4.0)


@lru_cache
def simulated(config):
    image, labels = simulate_volume(config)
    return image.read(), labels.read()


@lru_cache
def large():
    """Two seeds, 1.5 x 3 x 3 um each."""
    return [simulated(SimulationConfig(shape=(50, 380, 380), seed=seed)) for seed in (1, 6)]


@pytest.mark.parametrize("voxel_size_nm", [SECTIONS, ISOTROPIC, THICK])
@pytest.mark.parametrize("block", [(3, 17, 41), (9, 50, 23)])
def test_pieces_equal_the_whole(voxel_size_nm, block):
    config = SimulationConfig(shape=(9, 67, 90), voxel_size_nm=voxel_size_nm, seed=4)
    whole = simulated(config)
    for volume, array in zip(simulate_volume(config), whole, strict=True):
        for box in tile(volume.box, block):
            np.testing.assert_array_equal(volume.read(box), array[box.slices()])


def test_regions_join_without_a_seam():
    """Regions end every 768 voxels of 8 nm: a box across the border equals its two halves."""
    config = SimulationConfig(shape=(3, 64, 900), seed=2)
    for volume in simulate_volume(config):
        across = volume.read(Box((0, 10, 740), (3, 60, 800)))
        left = volume.read(Box((0, 10, 740), (3, 60, 768)))
        right = volume.read(Box((0, 10, 768), (3, 60, 800)))
        np.testing.assert_array_equal(across, np.concatenate([left, right], 2))
        step = np.abs(np.diff(across.astype(float), axis=2)).mean((0, 1))
        assert step[27] < 2 * step.mean() + 1 or volume.kind == "labels"


def test_a_smaller_volume_is_the_corner_of_a_larger_one_but_for_ids():
    small = simulated(SimulationConfig(shape=(4, 60, 60), seed=3))
    wide = simulated(SimulationConfig(shape=(9, 90, 100), seed=3))
    np.testing.assert_array_equal(small[0], wide[0][:4, :60, :60])
    np.testing.assert_array_equal(small[1] > 0, wide[1][:4, :60, :60] > 0)


def test_equal_configurations_give_equal_voxels_and_seeds_differ():
    config = SimulationConfig(shape=(4, 64, 64), seed=9)
    image, labels = simulate_volume(config)
    again = pickle.loads(pickle.dumps(image))
    np.testing.assert_array_equal(image.read(), again.read())
    other, _ = simulate_volume(SimulationConfig(shape=(4, 64, 64), seed=10))
    assert (image.read() != other.read()).mean() > 0.5
    assert len({image.fingerprint, labels.fingerprint, other.fingerprint}) == 3


def test_volumes_say_what_they_are():
    config = SimulationConfig(shape=(4, 30, 40), voxel_size_nm=THICK, seed=1)
    image, labels = simulate_volume(config)
    assert (image.kind, image.dtype, image.shape) == ("image", np.uint8, (4, 30, 40))
    assert (labels.kind, labels.dtype, labels.shape) == ("labels", np.uint32, (4, 30, 40))
    assert image.voxel_size_nm == labels.voxel_size_nm == THICK
    assert image.read().dtype == np.uint8
    assert labels.read().dtype == np.uint32


def test_mitochondria_fill_their_share():
    for _, labels in large():
        assert 0.02 < (labels > 0).mean() < 0.12
        assert 25 < len(np.unique(labels)) - 1 < 200


def test_a_wish_for_fewer_mitochondria_is_heard():
    config = SimulationConfig(shape=(50, 380, 380), seed=1, mitochondria_fraction=0.02)
    _, few = simulate_volume(config)
    assert (few.read() > 0).sum() < 0.7 * (large()[0][1] > 0).sum()
    _, none = simulate_volume(SimulationConfig(shape=(9, 200, 200), mitochondria_fraction=0.0))
    assert not none.read().any()


def test_some_mitochondria_touch_and_keep_their_own_ids():
    for _, labels in large():
        pairs = touching_pairs(labels)
        share = len(np.unique(pairs)) / (len(np.unique(labels)) - 1)
        assert 0.1 < share < 0.6
        assert (pairs[:, 0] < pairs[:, 1]).all()


def test_no_touching_wanted_leaves_few():
    config = SimulationConfig(shape=(50, 380, 380), seed=1, touching_share=0.0)
    labels = simulate_volume(config)[1].read()
    assert len(np.unique(touching_pairs(labels))) <= 0.1 * (len(np.unique(labels)) - 1)


def test_one_id_is_one_piece_unless_the_border_cuts_it():
    for _, labels in large():
        for label in np.unique(labels[labels > 0]):
            box = np.argwhere(labels == label)
            low, high = box.min(0), box.max(0) + 1
            if (low > 0).all() and (high < labels.shape).all():
                part = labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] == label
                assert cc3d.connected_components(part, connectivity=26).max() == 1, label


def test_mitochondria_are_darker_than_their_surroundings():
    for image, labels in large():
        assert image[labels > 0].mean() < image[labels == 0].mean() - 20
        assert 100 < image[labels == 0].mean() < 190
        assert image.std() > 15


def test_giant_axons_bring_thick_sheaths():
    def dark_share(giants):
        config = SimulationConfig(
            shape=(1, 400, 400),
            voxel_size_nm=(40.0, 8.0, 8.0),
            seed=1,
            myelinated_share=0.5,
            giant_share=giants,
            look_variation=0.0,
        )
        return (simulated(config)[0] < 70).mean()

    assert dark_share(1.0) > 1.2 * dark_share(0.0)


def test_empty_stretches_hold_small_bodies_now_and_then():
    """About half hold an endosome, a multivesicular body or a lysosome, inside the stretch."""
    plans = [plan_stray(np.uint64(key), 0, 1, 500.0) for key in range(400)]
    for content, start, length, radius in plans:
        assert 0.0 <= start <= start + length <= 500.0
        assert (radius == 0.0) == (content == EMPTY)
    counts = Counter(content for content, *_ in plans)
    assert set(counts) == {EMPTY, VACUOLE, BODY, LYSOSOME}
    assert 160 < counts[EMPTY] < 260
    assert min(counts.values()) > 20


def test_lysosomes_and_endosomes_have_greys_from_their_own_to_that_of_mitochondria():
    look, texture = draw_look(SimulationConfig(look_variation=0.0)), texture_table()
    parts = np.zeros((1, O_COLUMNS), np.float32)
    inside: dict[int, list[float]] = {LYSOSOME_BODY: [], VACUOLE_BODY: []}
    for kind, greys in inside.items():
        parts[0, O_KIND] = kind
        for shade in np.linspace(0.02, 0.98, 9):
            parts[0, O_PHASE] = shade
            points = [(40.0 * i, 0.0, 0.0) for i in range(60)]
            draw = [other_organelle(parts, 0, look, texture, 50.0, p) for p in points]
            greys.append(float(np.mean(draw)))
            assert other_organelle(parts, 0, look, texture, 2.0, points[0]) < look.membrane + 5.0
    assert inside[LYSOSOME_BODY][0] < look.membrane < look.matrix - 15 < inside[LYSOSOME_BODY][-1]
    assert inside[VACUOLE_BODY][0] > look.cytoplasm > look.matrix + 40 > inside[VACUOLE_BODY][-1]


def test_chromatin_is_packed_here_and_strewn_there():
    """A nucleus of this seed: its greys differ over micrometres, not only from voxel to voxel."""
    config = SimulationConfig(
        shape=(20, 900, 900), voxel_size_nm=(40.0, 6.0, 6.0), seed=2042, nuclei=0.8
    )
    nucleus = simulate_volume(config)[0].read(Box((10, 300, 20), (11, 700, 420)))[0]
    coarse = nucleus.reshape(10, 40, 10, 40).mean((1, 3))
    assert coarse.std() > 10
    assert coarse.max() - coarse.min() > 35


def test_looks_differ_between_seeds_only_as_far_as_asked():
    def mean_greys(variation):
        configs = [
            SimulationConfig(shape=(2, 160, 160), seed=seed, look_variation=variation)
            for seed in range(4)
        ]
        return np.std([simulated(config)[0].mean() for config in configs])

    assert mean_greys(0.0) < mean_greys(1.5)


def test_touching_pairs_by_hand():
    """7|7|0|3: one voxel between; 3|5: a face; 9 is two voxels away from 5."""
    labels = np.array([[[7, 7, 0, 3, 5, 0, 0, 9]]], np.uint32)
    assert touching_pairs(labels).tolist() == [[3, 5], [3, 7]]
    assert touching_pairs(labels.transpose(2, 0, 1)).tolist() == [[3, 5], [3, 7]]
    assert touching_pairs(np.zeros((2, 3, 4), np.uint32)).shape == (0, 2)
    with pytest.raises(InputError, match="float64"):
        touching_pairs(np.zeros((2, 3, 4)))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seed": -1}, ["seed", "-1"]),
        ({"shape": (0, 4, 4)}, ["shape", "(0, 4, 4)"]),
        ({"voxel_size_nm": (30.0, 8.0, 400.0)}, ["voxel_size_nm", "400.0"]),
        ({"mitochondria_fraction": 0.9, "noise": -2.0}, ["mitochondria_fraction", "0.9", "noise"]),
    ],
)
def test_faults_are_told_at_once_with_key_and_value(settings, told):
    with pytest.raises(ConfigError) as error:
        simulate_volume(SimulationConfig(**settings))
    for word in told:
        assert word in str(error.value)


def test_unknown_keys_are_named():
    with pytest.raises(ConfigError, match="mitochondria_share"):
        load_config(SimulationConfig, {"mitochondria_share": 0.1})
