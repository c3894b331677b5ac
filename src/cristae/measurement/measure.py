"""Measurement of every instance of a label volume, in voxels and in nanometres.

One pass sums integers, over the run table that a segmentation holds, else over voxels in blocks;
floats come last, so the table does not depend on blocks or workers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cristae.engine.executors import Resources
from cristae.engine.ledger import Ledger, check_output, open_ledger
from cristae.engine.memory import promise_memory
from cristae.engine.paths import user_path
from cristae.engine.progress import ProgressCallback, log, takes_progress
from cristae.errors import raise_faults
from cristae.grid import Box, Triple
from cristae.labels.blocks import blocks_of, memory_of, overlaps_of_blocks, read_block
from cristae.labels.label_runs import run_table_of, slab_bytes, slabs_of_runs, table_rows
from cristae.labels.overlap_kernels import START, STOP, SUM, VOXELS
from cristae.labels.overlap_table import (
    OverlapTable,
    as_labels,
    check_extent,
    check_signs,
    overlaps_of_block,
    overlaps_of_runs,
)
from cristae.measurement.table import Table, read_table, write_table
from cristae.volumes.expected import Expected, known_identity
from cristae.volumes.formats import Source, open_labels
from cristae.volumes.volume import Nanometres, Volume, refuse_unfinished_volume

if TYPE_CHECKING:
    import pandas as pd

NM3_PER_UM3 = 1e9
_AXES = ("z", "y", "x")


@takes_progress
def measure_instances(
    instances: Source,
    out_csv: str | Path | None = None,
    *,
    resources: Resources | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> "pd.DataFrame":
    """Measure every instance.

    Args:
        instances: Labels (z, y, x) with a voxel size, 0 is background: a volume, or its path.
        out_csv: The table to write; None for none. A finished one of the same instances is left
            alone, an interrupted one goes on with the blocks that are missing.
        resources: Workers and executor.
        overwrite: Replace a table of other instances.
        progress: Called with a `Progress` as work is done.

    Returns:
        One row an instance, ascending by id:

        - ``instance``: the id.
        - ``volume_voxels``, ``volume_um3``.
        - ``equivalent_diameter_nm``: of the ball of that volume, (6 V / pi)^(1/3).
        - ``centroid_z_vx`` ...: mean voxel index; ``centroid_z_nm`` ...: the same place in space,
          origin added (the origin is the centre of voxel 0).
        - ``box_z0_vx``, ``box_z1_vx`` ...: half-open bounding box.
        - ``extent_z_nm`` ...: its sides.
        - ``cut_by_border``: touches a face of the volume, so that part of it may be missing.

    Raises:
        InputError: No voxel size, channels, negative or fractional labels; all faults at once.
        OutputExistsError: The table exists and was made of other instances.
        MemoryLimitError: A block does not fit.
    """
    import pandas as pd  # it takes a third of a second

    resources, instances = resources or Resources(), open_labels(instances)
    if out_csv is None:
        refuse_unfinished_volume(instances)
        return pd.DataFrame(_measured(instances, _check(instances), resources, None))
    table = write_measurements(instances, out_csv, resources=resources, overwrite=overwrite)
    return read_measurements(user_path(out_csv)) if table is None else pd.DataFrame(table)


def write_measurements(
    instances: Volume, out_csv: str | Path, *, resources: Resources, overwrite: bool = False
) -> Table | None:
    """What `measure_instances` does where there is a table to write.

    Returns:
        Its columns; None where it was finished before.
    """
    refuse_unfinished_volume(instances)
    voxel_size_nm = _check(instances)
    inputs = {"instances": instances.identity}
    settings = {"voxel_size_nm": voxel_size_nm, "origin_nm": instances.origin_nm}
    with open_ledger(
        out_csv, stage="measure", inputs=inputs, settings=settings, overwrite=overwrite
    ) as ledger:
        if ledger.state == "done":
            log.info("%s: already done", out_csv)
            return None
        table = _measured(instances, voxel_size_nm, resources, ledger)
        write_table(out_csv, table)
        ledger.finish(instances=len(table["instance"]))
    return table


def check_measure(instances: Volume, out_csv: str | Path, *, overwrite: bool = False) -> Expected:
    """What `measure_instances` will make of its arguments, with its errors; nothing is written.

    Args:
        instances: Labels that are there, or that will be (`expected_volume`).
        out_csv: See `measure_instances`.
        overwrite: See `measure_instances`.
    """
    state = check_output(
        out_csv,
        stage="measure",
        inputs={"instances": known_identity(instances)},
        settings={"voxel_size_nm": _check(instances), "origin_nm": instances.origin_nm},
        overwrite=overwrite,
    )
    return Expected(state)


def read_measurements(path: Path) -> "pd.DataFrame":
    """The table that `measure_instances` wrote."""
    import pandas as pd  # it takes a third of a second

    return pd.DataFrame(read_table(path))


def measurements_of(
    counted: OverlapTable, shape: Triple, voxel_size_nm: Nanometres, origin_nm: Nanometres
) -> Table:
    """The columns of the table from the facts of every instance, wherever they come from.

    Args:
        counted: Overlap table of the labels with themselves.
        shape: Extent (z, y, x) of the volume, for ``cut_by_border``.
        voxel_size_nm: Voxel size (z, y, x).
        origin_nm: Centre of voxel 0 (z, y, x).
    """
    voxels = counted.facts[:, VOXELS]
    start, stop = counted.facts[:, START], counted.facts[:, STOP]
    centroid = counted.facts[:, SUM] / voxels[:, None]
    size, origin = np.array(voxel_size_nm), np.array(origin_nm)
    volume_nm3 = voxels * float(np.prod(size))
    columns = {
        "instance": counted.labels[:, 0],
        "volume_voxels": voxels,
        "volume_um3": volume_nm3 / NM3_PER_UM3,
        "equivalent_diameter_nm": np.cbrt(6 * volume_nm3 / np.pi),
    }
    centroid_nm = centroid * size + origin
    columns |= {f"centroid_{a}_vx": centroid[:, i] for i, a in enumerate(_AXES)}
    columns |= {f"centroid_{a}_nm": centroid_nm[:, i] for i, a in enumerate(_AXES)}
    for i, axis in enumerate(_AXES):
        columns[f"box_{axis}0_vx"] = start[:, i]
        columns[f"box_{axis}1_vx"] = stop[:, i]
    columns |= {f"extent_{a}_nm": ((stop - start) * size)[:, i] for i, a in enumerate(_AXES)}
    columns["cut_by_border"] = ((start == 0) | (stop == np.array(shape))).any(axis=1)
    return columns


def _measured(
    instances: Volume, voxel_size_nm: Nanometres, resources: Resources, ledger: Ledger | None
) -> Table:
    folder = run_table_of(instances)
    if folder is None:
        blocks = blocks_of([instances])
        needed = memory_of(blocks, instances.dtype.itemsize, resources)
    else:
        blocks = slabs_of_runs([folder], [instances])
        needed = slab_bytes(blocks, 1, resources)
    promise_memory("measure", needed, resources)
    counted = overlaps_of_blocks(
        _Pass(instances) if folder is None else _RunPass(instances, folder),
        blocks,
        description="measure",
        resources=resources,
        ledger=ledger,
        block_bytes=needed,
    )
    return measurements_of(counted, instances.shape, voxel_size_nm, instances.origin_nm)


@dataclass(frozen=True)
class _Pass:
    """Reads one block and counts its labels."""

    instances: Volume

    def __call__(self, block: Box) -> OverlapTable:
        labels = as_labels(read_block(self.instances, block), self.instances.name, block)
        counted = overlaps_of_block(labels, labels, corner=block.start, extent=self.instances.shape)
        check_signs(counted, 0, self.instances.dtype, self.instances.name, block)
        return counted


@dataclass(frozen=True)
class _RunPass:
    """Counts the labels of whole planes of a segmentation by its run table."""

    instances: Volume
    folder: Path

    def __call__(self, slab: Box) -> OverlapTable:
        rows = table_rows(self.folder, self.instances, (slab.start[0], slab.stop[0]))
        counted = overlaps_of_runs(rows, rows, self.instances.shape)
        return OverlapTable(counted.labels, counted.facts, slab.size)


def _check(instances: Volume) -> Nanometres:
    faults = []
    if instances.channels is not None:
        faults.append(f"has channels {', '.join(instances.channels)}, expected none")
    if instances.dtype.kind not in "buif":
        faults.append(f"is {instances.dtype}, expected integer labels")
    if instances.voxel_size_nm is None:
        faults.append("its voxel size is unknown; give it with --voxel-size Z,Y,X in nm")
    raise_faults(instances.name, faults)
    check_extent(instances.shape, instances.name)
    return instances.voxel_size_nm or (1.0, 1.0, 1.0)
