"""Outputs that are damaged, cut, emptied, moved or edited after they were finished."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorstore
import zarr

import cristae
from cristae.engine.ledger import open_ledger
from cristae.engine.manifest import write_manifest
from cristae.engine.stored import array_state
from cristae.errors import InputError, OutputExistsError
from cristae.evaluation.evaluate import EvaluateConfig
from cristae.grid import Box, tile
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import read_instances_table, read_runs, segment_volume
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr import Layout, create_ome_zarr, open_ome_zarr
from cristae.volumes.formats.ome_zarr_levels import is_current, pyramid_levels
from cristae.volumes.formats.shards import chunks_of
from cristae.volumes.volume import array_volume

LAYOUT = Layout((4, 16, 16), (8, 32, 32))
SHAPE = (12, 64, 64)
CONFIG = SegmentConfig(decoder="binary_connected", foreground_threshold=0.5, min_size=0)


def grey(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(1, 200, shape).astype(np.uint8)


def finished(out, array, kind="image", channels=None):
    """A finished output of shards of 8 x 32 x 32 voxels, empty in the last one."""
    with open_ledger(out, stage="test", inputs={}, settings={}) as ledger:
        volume = create_ome_zarr(
            out,
            shape=array.shape[-3:],
            dtype=array.dtype,
            kind=kind,
            voxel_size_nm=(30, 8, 8),
            channels=channels,
            layout=LAYOUT,
        )
        for box in tile(volume.box, LAYOUT.shard):
            volume.write(box, np.ascontiguousarray(array[(..., *box.slices())]))
        ledger.finish()
    return open_ome_zarr(out)


def segmented(out):
    """Two instances, each in a shard of its own."""
    foreground = np.zeros((4, 40, 600), np.uint8)
    foreground[1:3, 5:20, 5:25] = 255
    foreground[1:3, 5:20, 560:590] = 255
    return segment_volume(array_volume(foreground), out, config=CONFIG)


def shards_of(array):
    return sorted(path for path in (array / "c").rglob("*") if path.is_file())


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def write_store(array, values):
    """As a person does, with tensorstore."""
    kvstore = {"driver": "file", "path": str(array)}
    store = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    store.write(values).result()


def as_release_one(out):
    """Turn an output into what release 0.1 wrote: no checksums, no manifest, no state."""
    volume = open_ome_zarr(out)
    whole, metadata = volume.read(), out / "0" / "zarr.json"
    tree = json.loads(metadata.read_text())
    chain = tree["codecs"][0]["configuration"]["codecs"]
    assert chain.pop()["name"] == "crc32c"
    shutil.rmtree(out / "0" / "c")
    (out / "0" / "manifest.txt").unlink()
    metadata.write_text(json.dumps(tree))
    tree = json.loads((out / "zarr.json").read_text())
    del tree["attributes"]["cristae"]["record"]["state"]
    (out / "zarr.json").write_text(json.dumps(tree))
    write_store(out / "0", whole)


# --- one flipped bit


@pytest.mark.parametrize("kind", ["image", "labels", "prediction"])
def test_no_byte_of_a_shard_can_change_unnoticed(tmp_path, kind):
    """Each byte of a small shard: an error that names file and box, or the same voxels."""
    channels = ("mask", "contour") if kind == "prediction" else None
    array = grey(shape=(2, 4, 6, 6) if channels else (4, 6, 6))
    array = array.astype(np.uint32) if kind == "labels" else array
    volume = finished(tmp_path / "a.zarr", array, kind, channels)
    (shard,) = shards_of(tmp_path / "a.zarr" / "0")
    for at in range(shard.stat().st_size):
        flip(shard, at)
        with pytest.raises(InputError, match=r"c/0/.*, box 0:4,0:6,0:6: "):
            volume.read()
        if kind == "labels":
            with pytest.raises(InputError, match="c/0/0/0"):
                list(chunks_of(volume).read(volume.box))
        flip(shard, at)
    np.testing.assert_array_equal(volume.read(), array)


def test_a_changed_level_or_table_is_noticed(tmp_path):
    image = convert_volume(array_volume(grey(shape=(4, 20, 300))), tmp_path / "a.zarr")
    ((level, _),) = pyramid_levels(image)
    flip(shards_of(tmp_path / "a.zarr" / "1")[0], 5)
    with pytest.raises(InputError, match=r"1/c/0/0/0, box"):
        level.read()
    segmented(tmp_path / "b.zarr")
    for table, read in (("runs/x0", read_runs), ("instances/voxels", read_instances_table)):
        (chunk,) = shards_of(tmp_path / "b.zarr" / table)
        flip(chunk, -1)
        with pytest.raises(InputError, match=rf"{table}/c/0, rows all|{table}/c/0, rows \("):
            read(tmp_path / "b.zarr")
        flip(chunk, -1)


def test_a_changed_run_table_gives_no_scores(tmp_path):
    one, other = segmented(tmp_path / "a.zarr"), segmented(tmp_path / "b.zarr")
    flip(shards_of(tmp_path / "a.zarr" / "runs" / "id")[0], 3)
    with pytest.raises(InputError, match="runs/id/c/0"):
        cristae.score_instances(one, other)


# --- what is gone


@pytest.mark.parametrize("number", [1, 7])
def test_a_finished_output_names_what_is_gone(tmp_path, number):
    volume = finished(tmp_path / "a.zarr", grey(shape=(12, 64, 128)))
    shards = shards_of(tmp_path / "a.zarr" / "0")
    for path in shards[:number]:
        path.unlink()
    with pytest.raises(InputError) as error:
        open_volume(tmp_path / "a.zarr")
    assert "of the 16 files" in str(error.value)
    assert f"{number} {'is' if number == 1 else 'are'} gone (0/c/0/0/0" in str(error.value)
    assert ("and 2 more" in str(error.value)) == (number == 7)
    with pytest.raises(InputError, match="0/c/0/0/0: gone"):
        volume.read(Box.of((1, 1, 1)))
    volume.read(Box((8, 32, 96), (12, 64, 128)))  # what lies elsewhere can be read


def test_an_array_of_an_output_is_looked_after_also_by_itself(tmp_path):
    finished(tmp_path / "a.zarr", grey())
    volume = open_volume(tmp_path / "a.zarr" / "0")
    np.testing.assert_array_equal(volume.read(), grey())
    shards_of(tmp_path / "a.zarr" / "0")[-1].unlink()
    with pytest.raises(InputError, match="0/c/1/1/1: gone"):
        volume.read()
    with pytest.raises(InputError, match="1 is gone"):
        open_volume(tmp_path / "a.zarr" / "0")


@pytest.mark.parametrize("where", ["0", "1", "runs/y", "instances/box"])
def test_every_array_of_an_output_is_looked_at(tmp_path, where):
    foreground = np.zeros((4, 40, 600), np.uint8)
    foreground[1:3, 5:20, 5:25] = 255
    segment_volume(array_volume(foreground), tmp_path / "a.zarr", config=CONFIG)
    (file,) = shards_of(tmp_path / "a.zarr" / where)
    kept = file.read_bytes()
    file.unlink()
    with pytest.raises(InputError, match=f"1 is gone .{where}/c/0"):
        open_volume(tmp_path / "a.zarr")
    file.mkdir()  # nothing that could be read, either
    with pytest.raises(InputError, match=f"1 is gone .{where}/c/0"):
        open_volume(tmp_path / "a.zarr")
    file.rmdir()
    for cut in (kept[:-1], kept[:7], b"", kept + b"x"):
        file.write_bytes(cut)
        with pytest.raises(InputError, match=f"1 is damaged .{where}/c/0"):
            open_volume(tmp_path / "a.zarr")
    file.write_bytes(kept)
    open_volume(tmp_path / "a.zarr")


def test_a_table_that_goes_while_it_is_read_is_missed(tmp_path):
    one, other = segmented(tmp_path / "a.zarr"), segmented(tmp_path / "b.zarr")
    shards_of(tmp_path / "a.zarr" / "runs" / "x1")[0].unlink()
    with pytest.raises(InputError, match="runs/x1/c/0: gone"):
        cristae.score_instances(one, other)


def test_chunks_that_go_while_they_are_read_are_missed(tmp_path):
    labels = np.ones(SHAPE, np.uint32)
    volume = finished(tmp_path / "a.zarr", labels, "labels")
    chunks = chunks_of(volume)
    parts = chunks.read(volume.box)
    next(parts)
    shards_of(tmp_path / "a.zarr" / "0")[0].unlink()
    with pytest.raises(InputError, match="c/0/0/0: gone"):
        list(parts)


@pytest.mark.parametrize("form", ["ours", "release 0.1", "zarr 3", "zarr 2"])
def test_a_folder_moved_away_while_it_is_read_is_no_zeros(tmp_path, form):
    """A thread reads all the time; each array is right, until there is an error."""
    array, path = grey(), tmp_path / "a.zarr"
    if form.startswith("zarr"):
        zarr.create_array(path, data=array, chunks=(4, 16, 16), zarr_format=int(form[-1]))
    else:
        finished(path, array)
    if form == "release 0.1":
        as_release_one(path)
    volume, found, wrong = open_volume(path), [], []

    def read():
        try:
            for _ in range(100_000):
                if not np.array_equal(volume.read(), array):
                    wrong.append(1)
        except InputError as error:
            found.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.1)
    path.rename(tmp_path / "b.zarr")
    reader.join(60)
    assert not wrong
    assert "a.zarr" in found[0]


def test_a_folder_moved_away_ends_a_command(tmp_path):
    """The program waits with the volume open until the folder is gone."""
    finished(tmp_path / "a.zarr", grey())
    program = (
        "import sys, cristae\n"
        "volume = cristae.open_volume(sys.argv[1])\n"
        "print('open', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    print(volume.read().mean())\n"
        "except cristae.errors.InputError as error:\n"
        "    sys.exit(f'refused: {error}')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "a.zarr")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "open\n"
        (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
        out, error = process.communicate("\n", timeout=60)
    assert process.returncode == 1
    assert "refused" in error
    assert "a.zarr" in error
    assert not out


# --- the manifest


def test_manifest_says_what_the_files_hold_and_nothing_else(tmp_path):
    for name in ("a.zarr", "b.zarr"):
        segmented(tmp_path / name)
    manifest = tmp_path / "a.zarr" / "0" / "manifest.txt"
    lines = manifest.read_text().splitlines()
    listed = {line.split(" ")[2]: int(line.split(" ")[0]) for line in lines[1:]}
    folder = tmp_path / "a.zarr"
    there = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("zarr.json", "manifest.txt")
    }
    assert listed == there
    assert lines[0] == f"cristae manifest 1, {len(there)} files"
    assert manifest.read_bytes() == (tmp_path / "b.zarr" / "0" / "manifest.txt").read_bytes()
    (folder / "0" / "c" / ".0.tmp").write_bytes(b"left by a killed writer")
    before = manifest.read_bytes()
    write_manifest(folder)
    assert manifest.read_bytes() == before
    with_warnings_as_errors = dict(zarr.open_group(folder).members())
    assert {"0", "1", "runs", "instances"} <= with_warnings_as_errors.keys()


@pytest.mark.parametrize("damage", ["header", "line", "cut", "bytes"])
def test_a_damaged_manifest_is_named(tmp_path, damage):
    finished(tmp_path / "a.zarr", grey())
    path = tmp_path / "a.zarr" / "0" / "manifest.txt"
    header, *lines = path.read_text().splitlines()
    texts = {
        "header": ["other", *lines],
        "line": [header, "x", *lines[1:]],
        "cut": [header, *lines[:-1]],
        "bytes": [header],
    }
    path.write_text("\n".join(texts[damage]) + "\n")
    if damage == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"manifest\.txt"):
        open_volume(tmp_path / "a.zarr")


def test_an_output_of_512_shards_opens_quickly(tmp_path):
    with open_ledger(tmp_path / "a.zarr", stage="test", inputs={}, settings={}) as ledger:
        volume = create_ome_zarr(
            tmp_path / "a.zarr",
            shape=(64, 256, 256),
            dtype=np.uint8,
            kind="image",
            voxel_size_nm=None,
            layout=Layout((2, 8, 16), (8, 32, 32)),
        )
        volume.write(volume.box, grey(shape=(64, 256, 256)))
        ledger.finish()
    assert len(shards_of(tmp_path / "a.zarr" / "0")) == 512
    taken = []
    for call in (open_ome_zarr, array_state, is_current):
        start = time.thread_time()
        call(tmp_path / "a.zarr")
        taken.append(time.thread_time() - start)
    assert max(taken) < 1  # a few hundredths of a second on a machine of its own


# --- the state


def test_state_is_that_of_the_content(tmp_path):
    finished(tmp_path / "a.zarr", grey())
    finished(tmp_path / "b.zarr", grey())
    finished(tmp_path / "c.zarr", grey(1))
    state = array_state(tmp_path / "a.zarr")
    assert state == array_state(tmp_path / "b.zarr")
    assert state != array_state(tmp_path / "c.zarr")
    subprocess.run(["cp", "-r", tmp_path / "a.zarr", tmp_path / "d.zarr"], check=True)
    for path in shards_of(tmp_path / "d.zarr" / "0"):
        os.utime(path, (0, 0))
    assert state == array_state(tmp_path / "d.zarr") == array_state(str(tmp_path / "d.zarr"))
    assert is_current(tmp_path / "d.zarr")
    np.testing.assert_array_equal(open_volume(tmp_path / "d.zarr").read(), grey())


@pytest.mark.parametrize("tool", ["tensorstore", "zarr"])
@pytest.mark.parametrize("release", [1, 2])
def test_one_voxel_changes_the_state(tmp_path, tool, release):
    array = np.zeros(SHAPE, np.uint16)
    array[::2] = 258
    finished(tmp_path / "a.zarr", array, "labels")
    if release == 1:
        as_release_one(tmp_path / "a.zarr")
    before = array_state(tmp_path / "a.zarr")
    array[10, 60, 60] = 259
    if tool == "zarr":
        zarr.open_array(tmp_path / "a.zarr" / "0")[10, 60, 60] = 259
    else:
        write_store(tmp_path / "a.zarr" / "0", array)
    assert array_state(tmp_path / "a.zarr") != before
    assert is_current(tmp_path / "a.zarr") == (release == 1)  # nobody knows of older ones
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").read(), array)


def test_large_files_without_checksums_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr("cristae.engine.stored.SAMPLED_BYTES", 1 << 16)
    finished(tmp_path / "a.zarr", grey(shape=(16, 128, 128)))
    as_release_one(tmp_path / "a.zarr")
    shards = shards_of(tmp_path / "a.zarr" / "0")
    assert sum(path.stat().st_size for path in shards) > 2 << 16
    before = array_state(tmp_path / "a.zarr")
    assert before == array_state(tmp_path / "a.zarr")
    flip(shards[3], -1)
    assert array_state(tmp_path / "a.zarr") != before
    flip(shards[3], -1)
    shards[5].unlink()
    assert array_state(tmp_path / "a.zarr") != before


@pytest.mark.parametrize("tool", ["tensorstore", "zarr"])
def test_edited_labels_are_scored_and_their_tables_are_not_used(tmp_path, tool, caplog):
    first, second = segmented(tmp_path / "a.zarr"), segmented(tmp_path / "b.zarr")
    config = EvaluateConfig(categories="none", bootstrap_samples=0)
    ap = cristae.score_instances(first, second, config=config).average_precision_coco["75"]
    assert ap == 1
    labels = first.read()
    labels[labels == 2] = 0
    labels[0, 0, 0] = 7
    labels[0, 30, 599] = 8
    if tool == "zarr":
        zarr.open_array(tmp_path / "a.zarr" / "0")[:] = labels
    else:
        write_store(tmp_path / "a.zarr" / "0", labels)
    caplog.set_level("INFO")
    edited = open_volume(tmp_path / "a.zarr")
    ap = cristae.score_instances(edited, second, config=config).average_precision_coco["75"]
    assert ap < 0.6
    assert "edited after it was finished, so its voxels are read anew" in caplog.text
    assert pyramid_levels(edited) == []
    assert "smaller levels are not used" in caplog.text
    table = cristae.measure_instances(edited.with_(voxel_size_nm=(30, 8, 8)))
    assert list(table["instance"]) == [1, 7, 8]
    for read in (read_runs, read_instances_table):
        with pytest.raises(InputError, match="edited after"):
            read(tmp_path / "a.zarr")


def test_an_emptied_part_is_taken_for_lost_until_the_manifest_is_removed(tmp_path):
    """Nobody can tell a shard that a person emptied from one that was lost."""
    labels = segmented(tmp_path / "a.zarr").read()
    labels[labels == 2] = 0
    write_store(tmp_path / "a.zarr" / "0", labels)
    with pytest.raises(InputError, match=r"remove .*manifest\.txt"):
        open_volume(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "0" / "manifest.txt").unlink()
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").read(), labels)
    assert not is_current(tmp_path / "a.zarr")


# --- release 0.1


def test_outputs_of_release_one_are_read(tmp_path):
    labels = segmented(tmp_path / "a.zarr").read()
    as_release_one(tmp_path / "a.zarr")
    old = open_volume(tmp_path / "a.zarr")
    np.testing.assert_array_equal(old.read(), labels)
    found = np.zeros_like(labels)
    for box, part in chunks_of(old).read(old.box):
        found[box.slices()] = 0 if part is None else part
    np.testing.assert_array_equal(found, labels)
    assert read_runs(tmp_path / "a.zarr")["id"].size
    assert len(pyramid_levels(old)) == 2
    config = EvaluateConfig(categories="none", bootstrap_samples=0)
    new = segmented(tmp_path / "b.zarr")
    assert cristae.score_instances(old, new, config=config).average_precision_coco["75"] == 1


def test_an_array_begun_without_checksums_is_not_gone_on_with(tmp_path):
    finished(tmp_path / "a.zarr", grey())
    as_release_one(tmp_path / "a.zarr")
    with pytest.raises(OutputExistsError, match="another release"):
        create_ome_zarr(
            tmp_path / "a.zarr",
            shape=SHAPE,
            dtype=np.uint8,
            kind="image",
            voxel_size_nm=None,
            layout=LAYOUT,
        )
