"""The large benchmark runs at a thousandth of its size, and draws the same for any shards."""

import json
import subprocess
import sys

import numpy as np
import pytest

from cristae.grid import Box, tile
from cristae.volumes.volume import array_volume


@pytest.fixture(scope="module")
def mitoem_scale(load):
    return load("mitoem_scale")


@pytest.mark.long
def test_it_runs_and_tells_all_figures(script, tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, script("mitoem_scale"), "--scale", "0.001", "--json", str(out)]
    done = subprocess.run(
        [*command, "--workers", "1"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    (found,) = json.loads(out.read_text())
    ours, floor = found["ours"], found["floor"]
    assert ours["instances"] > 5
    assert 0.02 < found["prediction"]["foreground"] < 0.15
    assert {"label", "flood", "writing", "runs"} <= set(ours["stages"])
    assert sum(ours["stages"].values()) == pytest.approx(ours["seconds"])
    assert floor["bytes"] == pytest.approx(ours["bytes"], rel=0.02)  # the same labels, two writers
    assert found["ratio"] == ours["seconds"] / floor["seconds"]
    assert ours["peak"] > 50 << 20
    assert f"{found['ratio']:.2f} x the time" in done.stdout
    assert list(tmp_path.iterdir()) == [out]  # nothing stays


def test_the_drawing_does_not_depend_on_the_shards(mitoem_scale):
    shape = (45, 150, 170)
    rods, instances = mitoem_scale.plan_rods(shape)
    assert instances > 3
    d = np.arange(300) / mitoem_scale.LEVELS
    tables = tuple((255 * np.exp(-((d - c) ** 2) * 9)).astype(np.uint8) for c in (0, 1))
    drawn = []
    for block in (shape, (17, 60, 44)):
        volume = array_volume(np.zeros((2, *shape), np.uint8))
        for box in tile(Box.of(shape), block):
            mitoem_scale.draw_block(volume, rods, tables, box)
        drawn.append(volume.read())
    assert drawn[0].any()
    np.testing.assert_array_equal(*drawn)


def test_rods_of_a_tube_know_each_other(mitoem_scale):
    rods, _ = mitoem_scale.plan_rods((40, 300, 300))
    for k, (before, after) in enumerate(rods.near):
        if after >= 0:
            assert rods.near[after, 0] == k
            np.testing.assert_array_equal(rods.ends[k, 3:], rods.ends[after, :3])
        if before >= 0:
            assert rods.near[before, 1] == k


def test_a_plot_of_several_sizes(mitoem_scale, tmp_path):
    one = {"shape": (500, 100, 100), "ours": {"seconds": 2, "peak": 1e9}, "floor": {"seconds": 1}}
    mitoem_scale.plot([one, one | {"shape": (500, 200, 200)}], tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()
