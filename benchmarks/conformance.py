"""A test that any block-wise labelling tool can be held to.

A tool labels the connected components of a mask, block by block. It conforms where its labels are
those of the whole mask, whatever the blocks:

- contact across the borders of blocks in all 13 directions, through faces, edges and corners, of
  single voxels and of bodies that touch by one pair of voxels;
- a thread one voxel thick through every block;
- noise near the percolation threshold, where objects wind through many blocks;
- the very same labels for two block shapes, and with two workers;
- sizes filtered after the pieces are merged, never before;
- killed again and again, then run to the end: the same labels.

The judge is `scipy.ndimage.label` on the whole mask. The tools are cristae and, where they are
installed, dask-image, bioimage-py and cellmap-analyze; each is one small adapter. A connectivity
or a filter that a tool does not offer block by block is no fault. The exit status is 1 when
cristae fails. ``--speed`` times all of them on 100x1024x1024, Zarr to Zarr, instead.

    python benchmarks/conformance.py [--small] [--tool NAME ...] [--speed] [--json OUT.json]
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage

KINDS = {1: "faces", 2: "edges", 3: "corners"}
DIRECTIONS = [d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0)]
REACH = {6: 1, 18: 2, 26: 3}
"""How many axes a contact may cross."""

DENSITY = {6: 0.3116, 18: 0.137, 26: 0.0976}
"""Where random voxels percolate on the cubic lattice."""

CONTACT_BLOCK = (32, 32, 32)
BORDERS = ((64,), (32, 64), (32, 64))
BETWEEN = ((12, 44), (12, 44, 76), (12, 44, 76))
"""Where contacts lie in the tests of contact: on borders of blocks, or far from any, by axis."""

DASK_CONFIG, LOCAL_DASK = "dask-config.yaml", "jobqueue: {local: {}}\n"
"""What cellmap-analyze wants in its folder when it has several workers."""

BODIES = 4
"""Extent of a body away from its contact."""


@dataclass(frozen=True)
class Task:
    """One labelling: what a tool is given.

    Attributes:
        tool: Name of the tool.
        source: OME-Zarr image whose level ``s0`` is the mask, uint8, 255 inside.
        out: Where the labels go.
        block_shape: Extent (z, y, x) of the blocks.
        connectivity: 6, 18 or 26.
        min_size: Objects of fewer voxels are dropped.
        workers: Tasks at a time.
    """

    tool: str
    source: str
    out: str
    block_shape: tuple[int, int, int]
    connectivity: int
    min_size: int = 0
    workers: int = 1


@dataclass(frozen=True)
class Tool:
    """An adapter.

    Attributes:
        package: Name of its distribution; its version is printed.
        label: Labels the mask of a task into its output.
        read: Reads the labels of an output.
        connectivities: Those offered block by block.
        filters: Whether it drops small objects.
        continues: Whether an interrupted labelling is continued, not begun anew.
        edges_only: Connectivities where a voxel without neighbours is background.
    """

    package: str
    label: Callable[[Task], None]
    read: Callable[[str], np.ndarray]
    connectivities: tuple[int, ...]
    filters: bool = True
    continues: bool = False
    edges_only: tuple[int, ...] = ()


@dataclass(frozen=True)
class Row:
    """What one check found; ``ok`` is None where the tool does not offer it."""

    check: str
    ok: bool | None
    text: str


# The tools.


def label_with_cristae(task):
    from cristae.engine.executors import Resources
    from cristae.segmentation.config import SegmentConfig
    from cristae.segmentation.segment import segment_volume
    from cristae.volumes.formats import open_volume
    from cristae.volumes.volume import array_volume

    prediction = open_volume(task.source, kind="prediction")
    names = {"decoder": "binary_connected", "foreground_threshold": 0.5}
    if task.connectivity == 6:  # an affinity is an edge through a face
        prediction = array_volume(affinities(prediction.read()), kind="prediction")
        names = {"decoder": "affinity_connected", "affinity_threshold": 0.5}
    segment_volume(
        prediction,
        task.out,
        config=SegmentConfig(min_size=task.min_size, **names),
        block_shape=task.block_shape,
        pyramid=False,
        resources=Resources(task.workers),
    )


def affinities(mask):
    """(3, z, y, x) uint8: whether a voxel and the one before it along z, y, x are both inside."""
    edges = np.zeros((3, *mask.shape), np.uint8)
    for axis in range(3):
        here = [slice(None)] * 3
        before = [slice(None)] * 3
        here[axis], before[axis] = slice(1, None), slice(None, -1)
        edges[(axis, *here)] = np.minimum(mask[tuple(here)], mask[tuple(before)])
    return edges


def read_cristae(out):
    from cristae.volumes.formats.ome_zarr import open_ome_zarr

    return open_ome_zarr(out).read()


def label_with_dask_image(task):
    import dask
    import dask.array
    from dask_image.ndmeasure import label

    mask = dask.array.from_zarr(f"{task.source}/s0").rechunk(task.block_shape)
    scheduler = {"scheduler": "threads", "num_workers": task.workers}
    with dask.config.set(scheduler if task.workers > 1 else {"scheduler": "synchronous"}):
        labels, _ = label(mask, structure=ndimage.generate_binary_structure(3, steps(task)))
        labels.to_zarr(task.out, overwrite=True)


def label_with_bioimage_py(task):
    from bioimage_py.segmentation import label, size_filter

    mask = zarr.open_array(f"{task.source}/s0", mode="r")
    like = {"shape": mask.shape, "chunks": task.block_shape, "dtype": "uint64", "overwrite": True}
    blocks = {"block_shape": task.block_shape, "num_workers": task.workers}
    place = task.out.replace("labels-", "all-") if task.min_size else task.out
    labels = zarr.create_array(place, **like)
    label(mask, labels, connectivity=steps(task), **blocks)
    if task.min_size:
        kept = zarr.create_array(task.out, **like)
        size_filter(labels, kept, min_size=task.min_size, **blocks)


def label_with_cellmap_analyze(task):
    from cellmap_analyze.process.connected_components import ConnectedComponents

    ConnectedComponents(
        input_path=task.source,
        output_path=f"{task.out}/labels",
        intensity_threshold_minimum=128,
        minimum_volume_nm_3=task.min_size,  # voxels of the source are 1 nm wide
        connectivity=steps(task),
        num_workers=task.workers,
        chunk_shape=task.block_shape,
        delete_tmp=True,
    ).get_connected_components()


def steps(task):
    """Axes a contact may cross, as SciPy counts connectivity."""
    return REACH[task.connectivity]


def read_zarr(out):
    return zarr.open_array(out, mode="r")[:]


def read_cellmap(out):
    return zarr.open_array(f"{out}/labels/s0", mode="r")[:]


TOOLS = {
    "cristae": Tool(
        "cristae", label_with_cristae, read_cristae, (6, 26), continues=True, edges_only=(6,)
    ),
    "dask-image": Tool("dask-image", label_with_dask_image, read_zarr, (6, 18, 26), filters=False),
    "bioimage-py": Tool("bioimage-py", label_with_bioimage_py, read_zarr, (6,)),
    "cellmap-analyze": Tool(
        "cellmap-analyze", label_with_cellmap_analyze, read_cellmap, (6, 18, 26)
    ),
}


# The bench: how a tool is called and judged.


@dataclass(frozen=True)
class Bench:
    """A tool and a folder to work in."""

    name: str
    folder: Path
    small: bool

    @property
    def tool(self):
        """The adapter."""
        return TOOLS[self.name]

    def task(self, mask, block_shape, connectivity, **more):
        """A labelling of a mask, which is written for it, chunked as the blocks."""
        source = self.folder / f"mask-{len(list(self.folder.iterdir()))}.zarr"
        write_mask(source, mask, block_shape)
        out = str(source).replace("mask-", "labels-")
        return Task(self.name, str(source), out, block_shape, connectivity, **more)

    def label(self, mask, block_shape, connectivity, **more):
        """Labels of a mask."""
        task = self.task(mask, block_shape, connectivity, **more)
        self.tool.label(task)
        return self.tool.read(task.out)

    def judge(self, mask, connectivity, min_size=0):
        """Labels of the whole mask at once."""
        least = max(min_size, 2 if connectivity in self.tool.edges_only else 1)
        structure = ndimage.generate_binary_structure(3, REACH[connectivity])
        labels, _ = ndimage.label(mask, structure)
        sizes = np.bincount(labels.ravel())
        return np.where(sizes[labels] >= least, labels, 0)


def write_mask(path, mask, block_shape):
    """An OME-Zarr image with one level, ``s0``, and voxels of 1 nm."""
    transform = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    datasets = [{"path": "s0", "coordinateTransformations": transform}]
    multiscale = {"name": path.stem, "axes": axes, "datasets": datasets}
    ome = {"version": "0.5", "multiscales": [multiscale]}
    group = zarr.create_group(path, attributes={"ome": ome})
    names = {"name": "s0", "shape": mask.shape, "dtype": "uint8", "dimension_names": list("zyx")}
    chunks = tuple(min(c, n) for c, n in zip(block_shape, mask.shape, strict=True))
    group.create_array(**names, chunks=chunks)[:] = np.where(mask, 255, 0).astype(np.uint8)


def compare(found, true):
    """Whether two labellings part the voxels in the same way, and what differs, in words."""
    pairs = np.unique(np.stack([found.ravel(), true.ravel()]).astype(np.int64), axis=1)
    pairs = pairs[:, (pairs != 0).any(axis=0)]
    n_found, n_true = (np.unique(side[side != 0]).size for side in pairs)
    if pairs.shape[1] == n_found == n_true and (pairs != 0).all():
        return True, f"exact, {n_true}"
    if n_found == n_true:
        return False, f"{n_true}, of other voxels"
    return False, f"{n_found} found, {n_true} there"


# The checks. Each gives rows.


def placements():
    """(direction, axes along which the contact crosses a border of blocks): 49 of them."""
    for direction in DIRECTIONS:
        axes = [axis for axis in range(3) if direction[axis]]
        for n in range(1, len(axes) + 1):
            for crossed in combinations(axes, n):
                yield direction, crossed


def contact_mask(extent):
    """Pairs of bodies that touch by one pair of voxels, one pair a placement.

    Args:
        extent: Voxels a body reaches away from its contact, along the direction of contact.

    Returns:
        The mask, and the two voxels in contact of each placement.
    """
    mask = np.zeros((98, 98, 98), bool)  # tools may treat the last blocks in another way
    free = {}  # by what is crossed; as many places as there are placements, or more
    pairs = []
    for direction, crossed in placements():
        if crossed not in free:
            lines = [(BORDERS if axis in crossed else BETWEEN)[axis] for axis in range(3)]
            free[crossed] = product(*lines)
        place = next(free[crossed])
        a = tuple(p - (step > 0) for p, step in zip(place, direction, strict=True))
        b = tuple(p + step for p, step in zip(a, direction, strict=True))
        mask[body(a, direction, -extent)] = mask[body(b, direction, extent)] = True
        pairs.append((a, b))
    return mask, pairs


def body(voxel, direction, extent):
    """A box that begins at a voxel and reaches along, or for a negative extent against, it."""
    ends = [
        at + step * (extent - np.sign(extent)) for at, step in zip(voxel, direction, strict=True)
    ]
    return tuple(slice(min(a, b), max(a, b) + 1) for a, b in zip(voxel, ends, strict=True))


def check_contacts(bench):
    for connectivity in bench.tool.connectivities:
        # two voxels apart would be background where only edges count, so bodies of two there
        least = 2 if connectivity in bench.tool.edges_only else 1
        right = {}
        for extent in (least, BODIES):
            mask, pairs = contact_mask(extent)
            labels = bench.label(mask, CONTACT_BLOCK, connectivity)
            for (direction, _), (a, b) in zip(placements(), pairs, strict=False):
                joined = bool(labels[a]) and labels[a] == labels[b]
                inside = bool(labels[a]) and bool(labels[b])
                wanted = np.count_nonzero(direction) <= REACH[connectivity]
                right.setdefault((direction, extent), []).append(inside and joined == wanted)
        for kind, name in KINDS.items():
            those = [d for d in DIRECTIONS if np.count_nonzero(d) == kind]
            single = [all(right[d, least]) for d in those]
            bodies = [all(right[d, BODIES]) for d in those]
            what = "joined" if kind <= REACH[connectivity] else "kept apart"
            text = f"{sum(single)} and {sum(bodies)} of {len(those)}"
            check = f"{connectivity}: {what} through {name}, voxels and thin contacts"
            yield Row(check, all(single + bodies), text)


def check_thread(bench):
    """One object one voxel thick through every block, and what is left when it is cut."""
    side = 23 if bench.small else 47  # rows in even number, so that each plane ends at x = 0
    mask, blocks = np.zeros((side,) * 3, bool), (side // 3 + 1, side // 2 + 1, side // 2 + 1)
    mask[::2, ::2] = True
    for k, y in enumerate(range(1, side, 2)):
        mask[::2, y, 0 if k % 2 else -1] = True
    for k, z in enumerate(range(1, side, 2)):
        mask[z, 0 if k % 2 else -1, 0] = True
    for connectivity in bench.tool.connectivities:
        ok, text = compare(bench.label(mask, blocks, connectivity), bench.judge(mask, connectivity))
        mask_cut = mask.copy()
        mask_cut[side // 4 * 2, side // 4 * 2, side // 2] = False
        cut_ok, cut_text = compare(
            bench.label(mask_cut, blocks, connectivity), bench.judge(mask_cut, connectivity)
        )
        text = text if not ok else cut_text
        yield Row(f"{connectivity}: a thread one voxel thick, cut in two", ok and cut_ok, text)


def noise(connectivity, side, seed):
    rng = np.random.default_rng(seed)
    return rng.random((side,) * 3) < DENSITY[connectivity]


def noise_blocks(bench):
    """Side of the noise, and two block shapes, one of which divides nothing."""
    return (40, (16, 16, 16), (14, 19, 17)) if bench.small else (80, (32, 32, 32), (27, 23, 31))


def check_noise(bench):
    side, *blocks = noise_blocks(bench)
    for connectivity in bench.tool.connectivities:
        mask = noise(connectivity, side, connectivity)
        true = bench.judge(mask, connectivity)
        labels = [bench.label(mask, shape, connectivity) for shape in blocks]
        judged = [compare(found, true) for found in labels]
        wrong = [text for ok, text in judged if not ok]
        check = f"{connectivity}: noise {side}^3, two block shapes"
        yield Row(check, not wrong, "; ".join(wrong) or judged[0][1])
        labels.append(bench.label(mask, blocks[0], connectivity, workers=2))
        differ = [int(np.count_nonzero(found != labels[0])) for found in labels[1:]]
        check = f"{connectivity}: the same labels for two block shapes"
        text = f"{differ[0]} voxels differ" if differ[0] else "the same"
        yield Row(check, not differ[0], text)
        text = f"{differ[1]} voxels differ" if differ[1] else "the same"
        yield Row(f"{connectivity}: the same labels with two workers", not differ[1], text)


def sized_mask():
    """Objects over 1, 2, 4 and 8 blocks of 16^3, and whether each has at least 16 voxels."""
    mask, stays = np.zeros((48, 48, 48), bool), {}
    for box, there in {
        ((4, 8), (4, 6), (4, 6)): True,  # 16 in one block
        ((4, 7), (4, 9), (34, 35)): False,  # 15 in one block
        ((14, 18), (4, 6), (20, 22)): True,  # 8 in each of 2 blocks
        ((14, 18), (14, 18), (8, 9)): True,  # 4 in each of 4 blocks
        ((15, 17), (15, 17), (14, 18)): True,  # 2 in each of 8 blocks
        ((20, 21), (13, 18), (40, 43)): False,  # 15 over 2 blocks
        ((36, 37), (36, 37), (2, 18)): True,  # 14 and 2 in 2 blocks
    }.items():
        mask[tuple(slice(a, b) for a, b in box)] = True
        stays[tuple(a for a, _ in box)] = there
    return mask, stays


def check_sizes(bench):
    if not bench.tool.filters:
        yield Row("sizes filtered after the merge", None, "no size filter")
        return
    connectivity = max(bench.tool.connectivities)
    mask, stays = sized_mask()
    labels = bench.label(mask, (16, 16, 16), connectivity, min_size=16)
    lost = sum(there and not labels[first] for first, there in stays.items())
    kept = sum(not there and bool(labels[first]) for first, there in stays.items())
    same, _ = compare(labels, bench.judge(mask, connectivity, min_size=16))
    text = "after" if same else f"{lost} lost, {kept} too many, of {len(stays)}"
    yield Row("sizes filtered after the merge", same, text)
    side, *blocks = noise_blocks(bench)
    mask = noise(connectivity, side, 1)
    true = bench.judge(mask, connectivity, min_size=20)
    judged = [
        compare(bench.label(mask, shape, connectivity, min_size=20), true) for shape in blocks
    ]
    wrong = [text for ok, text in judged if not ok]
    yield Row(f"{connectivity}: noise, small ones dropped", not wrong, "; ".join(wrong) or "exact")


KILLS = (0.3, 0.6, 0.9)
"""When a labelling is killed, as shares of the time it takes."""


def check_killed(bench):
    """Killed, then run again over what is there: the labels of a run that nobody killed."""
    side = 48 if bench.small else 128
    connectivity = max(bench.tool.connectivities)
    mask = noise(connectivity, side, 2)
    task = bench.task(mask, (side // 4, side // 2, side // 2), connectivity)
    process = begin(task)
    start = time.perf_counter()
    if process.wait():
        yield Row("killed, then run again", False, "fails even when it is not killed")
        return
    seconds = time.perf_counter() - start
    whole = bench.tool.read(task.out)
    task = replace(task, out=task.out.replace("labels-", "killed-"))
    killed = 0
    for share in KILLS:
        process = begin(task)
        time.sleep(share * seconds)
        process.kill()
        killed += process.wait() != 0
    done = subprocess.run(command_of(task), capture_output=True, text=True, errors="replace")
    how = "continues" if bench.tool.continues else "begins anew"
    check = f"killed {len(KILLS)} times, then run again"
    if done.returncode:
        yield Row(check, False, f"fails: {done.stderr.strip().splitlines()[-1][:60]}")
        return
    same = np.array_equal(bench.tool.read(task.out), whole)
    text = f"the same, {how}" if same else "other labels"
    yield Row(check, same and killed > 0, text if killed else "never in the midst of work")


def begin(task):
    """Start a labelling in a process of its own; comes back when its work begins."""
    process = subprocess.Popen(
        command_of(task), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    process.stdout.readline()
    return process


def command_of(task):
    return [sys.executable, __file__, "--call", json.dumps(asdict(task))]


CHECKS = {
    "contacts": check_contacts,
    "thread": check_thread,
    "noise": check_noise,
    "sizes": check_sizes,
    "killed": check_killed,
}


# What is printed.


def version_of(name):
    """Version of an installed tool, or None."""
    try:
        return importlib.metadata.version(TOOLS[name].package)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine(name, options):
    """All rows of a tool, each check in a process of its own that cannot take longer than said."""
    rows = []
    for check in CHECKS:
        command = [sys.executable, __file__, "--check", check, "--tool", name]
        command += ["--small"] if options.small else []
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / DASK_CONFIG).write_text(LOCAL_DASK)
            code, out, complaints = run_limited(command, folder, options.limit)
        if code is None:
            rows.append(Row(check, False, f"not done in {options.limit:g} s"))
        elif code:
            last = (complaints.strip() or "no message").splitlines()[-1]
            rows.append(Row(check, False, f"fails: {last[:60]}"))
        else:
            rows += [Row(**row) for row in json.loads(out.splitlines()[-1])]
    return rows


def run_limited(command, folder, seconds):
    """Exit status, output and complaints; status None where it and all it started were stopped."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, complaints = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, "", ""
    return process.returncode, out, complaints


def run_check(name, check, small):
    """Do one check of a tool, and tell the rows."""
    folder = Path("work").absolute()
    folder.mkdir()
    print(json.dumps([asdict(row) for row in CHECKS[check](Bench(name, folder, small))]))


def print_table(found):
    checks = list(dict.fromkeys(row.check for rows in found.values() for row in rows))
    first = max(len(check) for check in checks)
    cells = {name: {row.check: row for row in rows} for name, rows in found.items()}
    texts = {name: {check: text_of(cells[name], check) for check in checks} for name in found}
    widths = {name: max(len(name), *map(len, texts[name].values())) for name in found}
    heads = "  ".join(name.ljust(widths[name]) for name in found)
    print(f"{'':{first}}  {heads}".rstrip())
    for check in checks:
        line = "  ".join(texts[name][check].ljust(widths[name]) for name in found)
        print(f"{check:{first}}  {line}".rstrip())


def text_of(cells, check):
    row = cells.get(check)
    if row is None:  # a check that did not end leaves open what would have been found
        return "?" if any(name in CHECKS for name in cells) else "not offered"
    return row.text if row.ok is not False else f"NO: {row.text}"


def time_tools(names, shape, workers, limit):
    """Seconds of each tool for a volume of objects, Zarr to Zarr, after a warm-up."""
    from segment import simulate

    mask = simulate(shape)[0] > 204
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / DASK_CONFIG).write_text(LOCAL_DASK)
        for name in names:
            bench = Bench(name, place, small=False)
            connectivity = max(bench.tool.connectivities)
            task = bench.task(mask, (64, 256, 256), connectivity, workers=workers)
            code, text, complaints = run_limited([*command_of(task), "--timed"], place, limit)
            if code:
                sys.exit(f"{name} fails:\n{complaints}")
            seconds[name] = limit if code is None else json.loads(text.splitlines()[-1])
            shutil.rmtree(task.source)
    _, objects = ndimage.label(mask, np.ones((3, 3, 3)))
    print(f"\n{'x'.join(map(str, shape))}, {objects} objects, {workers} workers, Zarr to Zarr")
    for name, value in seconds.items():
        more = "more than " if value == limit else ""
        print(f"{name:16} {more}{value:.2f} s   {mask.size / value / 1e6:7.1f} Mvoxel/s")
    others = [value for name, value in seconds.items() if name != "cristae"]
    if others and "cristae" in seconds:
        print(f"fastest of the others / cristae: {min(others) / seconds['cristae']:.1f} x the time")
    return seconds


def run_task(task, timed):
    """Do one labelling; with ``timed`` after a small one, and tell the seconds."""
    if timed:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(task.tool, Path(folder), small=True)
            bench.label(noise(26, 32, 0), (16, 16, 16), task.connectivity, workers=task.workers)
    print("begins", flush=True)
    start = time.perf_counter()
    TOOLS[task.tool].label(task)
    print(json.dumps(time.perf_counter() - start), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="smaller volumes")
    parser.add_argument("--tool", action="append", choices=TOOLS, help="only this one; repeatable")
    parser.add_argument("--speed", action="store_true", help="time the tools instead")
    parser.add_argument("--shape", default="100,1024,1024", help="z,y,x of the timed volume")
    parser.add_argument("--workers", type=int, default=2, help="of the timed run")
    parser.add_argument("--json", type=Path, default=None, help="write what was found")
    parser.add_argument(
        "--limit", type=float, default=900, help="seconds a check, or a timed run, may take"
    )
    parser.add_argument("--check", choices=CHECKS, help=argparse.SUPPRESS)
    parser.add_argument("--call", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--timed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        task = json.loads(options.call)
        run_task(Task(**task | {"block_shape": tuple(task["block_shape"])}), options.timed)
        return
    names = options.tool or list(TOOLS)
    if options.check:
        run_check(names[0], options.check, options.small)
        return
    versions = {name: version_of(name) for name in names}
    for name, version in versions.items():
        print(f"{name} {version or 'is not installed'}")
    there = [name for name in names if versions[name]]
    found, seconds = {}, {}
    if options.speed:
        shape = tuple(map(int, options.shape.split(",")))
        seconds = time_tools(there, shape, options.workers, options.limit)
    else:
        found = {name: examine(name, options) for name in there}
        print_table(found)
    if options.json:
        rows = {name: [asdict(row) for row in its] for name, its in found.items()}
        whole = {"versions": versions, "rows": rows, "seconds": seconds}
        options.json.write_text(json.dumps(whole, indent=1) + "\n")
    failed = [row.check for row in found.get("cristae", []) if row.ok is False]
    if failed:
        sys.exit(f"cristae fails: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
