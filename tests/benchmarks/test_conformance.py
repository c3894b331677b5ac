"""The test of conformance finds the faults it is made for, and none in a faultless tool."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROUND = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def conformance(load):
    return load("conformance")


@pytest.fixture
def rows_of(conformance, tmp_path, monkeypatch):
    """Rows of one check on a tool made of a function (mask, task) -> labels."""

    def run(check, function, **adapter):
        def label(task):
            import zarr

            mask = zarr.open_array(f"{task.source}/s0", mode="r")[:] > 0
            np.save(task.out + ".npy", function(mask, task))

        def read(out):
            return np.load(out + ".npy")

        tool = conformance.Tool("none", label, read, (26,), **adapter)
        monkeypatch.setitem(conformance.TOOLS, "made", tool)
        bench = conformance.Bench("made", tmp_path, small=True)
        return {row.check: row.ok for row in conformance.CHECKS[check](bench)}

    return run


def whole(mask, task):
    labels, _ = ndimage.label(mask, ROUND)
    keep = np.bincount(labels.ravel()) >= task.min_size
    return np.where(keep[labels], labels, 0)


def block_ids(shape, block_shape):
    z, y, x = (np.arange(n) // b for n, b in zip(shape, block_shape, strict=True))
    return (z[:, None, None] * 1000 + y[:, None]) * 1000 + x


def by_block(mask, task):
    """Components of each block alone."""
    labels = np.zeros(mask.shape, np.int64)
    blocks = block_ids(mask.shape, task.block_shape)
    for block in np.unique(blocks):
        part, n = ndimage.label(mask & (blocks == block), ROUND)
        labels[part > 0] = part[part > 0] + labels.max(initial=0)
        assert n == part.max()
    return labels


def faces_only(mask, task):
    """Components of blocks, joined where voxels of two of them share a face."""
    labels = by_block(mask, task)
    pairs = []
    for axis in range(3):
        a, b = np.delete(labels, -1, axis), np.delete(labels, 0, axis)
        pairs.append(np.stack([a[(a > 0) & (b > 0)], b[(a > 0) & (b > 0)]]))
    row, column = np.concatenate(pairs, axis=1)
    n = labels.max() + 1
    graph = coo_array((np.ones(row.size), (row, column)), shape=(n, n))
    return np.where(labels > 0, connected_components(graph)[1][labels] + 1, 0)


def filtered_before(mask, task):
    labels = by_block(mask, task)
    keep = np.bincount(labels.ravel()) >= task.min_size
    return whole(mask & keep[labels], task)


def numbered_by_block(mask, task):
    """Right objects, but numbered in the order of the blocks."""
    labels = whole(mask, task)
    order = block_ids(mask.shape, task.block_shape).ravel().argsort(kind="stable")
    names, first = np.unique(labels.ravel()[order], return_index=True)
    rank = np.zeros(labels.max() + 1, np.int64)
    rank[names[first.argsort()]] = np.arange(names.size)
    return np.where(labels > 0, rank[labels] + 1, 0)


@pytest.mark.parametrize("check", ["contacts", "thread", "noise", "sizes"])
def test_a_faultless_tool_passes(rows_of, check):
    rows = rows_of(check, whole)
    assert rows
    assert all(ok is True for ok in rows.values())


def test_blocks_that_are_not_joined_are_found(rows_of):
    assert not any(rows_of("contacts", by_block).values())
    assert not any(rows_of("thread", by_block).values())


def test_joining_through_faces_alone_is_found(rows_of):
    rows = rows_of("contacts", faces_only)
    assert [ok for check, ok in rows.items() if "faces" in check] == [True]
    assert not any(ok for check, ok in rows.items() if "faces" not in check)


def test_joining_too_much_is_found(rows_of):
    def all_one(mask, task):
        return ndimage.label(ndimage.binary_dilation(mask, ROUND, 3), ROUND)[0] * mask

    rows = rows_of("thread", all_one)
    assert list(rows.values()) == [False]


def test_sizes_filtered_before_the_merge_are_found(rows_of):
    assert not any(rows_of("sizes", filtered_before).values())


def test_a_missing_filter_is_no_fault(rows_of):
    assert list(rows_of("sizes", whole, filters=False).values()) == [None]


def test_numbers_that_depend_on_the_blocks_are_found(rows_of):
    rows = rows_of("noise", numbered_by_block)
    wrong = [check for check, ok in rows.items() if not ok]
    assert wrong == ["26: the same labels for two block shapes"]


def test_every_direction_crosses_every_border_it_can(conformance):
    found = list(conformance.placements())
    assert len(found) == 3 * 1 + 6 * 3 + 4 * 7
    mask, pairs = conformance.contact_mask(4)
    for connectivity, joined in ((1, 3), (2, 3 + 18), (3, 49)):
        structure = ndimage.generate_binary_structure(3, connectivity)
        assert ndimage.label(mask, structure)[1] == 2 * 49 - joined
    blocks = block_ids(mask.shape, conformance.CONTACT_BLOCK)
    assert all(blocks[a] != blocks[b] for a, b in pairs)


@pytest.mark.parametrize(
    "check", ["sizes", *(pytest.param(c, marks=pytest.mark.long) for c in ("contacts", "killed"))]
)
def test_cristae_passes(script, tmp_path, check):
    command = [sys.executable, script("conformance"), "--small", "--tool", "cristae"]
    done = subprocess.run(
        [*command, "--check", check], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout.splitlines()[-1])
    assert rows
    assert all(row["ok"] for row in rows), rows


def test_what_takes_too_long_or_fails_is_told(conformance, tmp_path):
    sleeps = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    code, *_ = conformance.run_limited([sys.executable, "-c", sleeps], tmp_path, 1)
    assert code is None
    fails = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    code, _, complaints = conformance.run_limited(fails, tmp_path, 60)
    assert code == 1
    assert "no such thing" in complaints


def test_the_table_says_what_is_not_offered_and_what_is_not_known(conformance, capsys):
    row = conformance.Row
    rows = {
        "one": [row("contacts", False, "not done in 1 s"), row("x", True, "exact")],
        "two": [row("y", False, "2 found, 1 there")],
    }
    conformance.print_table(rows)
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert lines["contacts"].split("  ", 1)[1].strip().startswith("NO: not done in 1 s")
    assert lines["contacts"].endswith("not offered")
    assert "exact" in lines["x"]
    assert "?" in lines["y"]
    assert lines["y"].endswith("NO: 2 found, 1 there")
