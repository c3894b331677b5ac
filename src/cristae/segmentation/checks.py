"""What a segmentation will make, and every fault of it that is known before it starts."""

from pathlib import Path

import numpy as np

from cristae.engine.executors import Resources
from cristae.engine.ledger import check_output
from cristae.engine.memory import check_memory
from cristae.engine.paths import user_path
from cristae.segmentation.asked import check_name, segment_settings
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decoders import resolve
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.memory import labelling_bytes
from cristae.segmentation.scratch import MemoryScratch
from cristae.volumes.expected import Expected, expected_volume, known_identity
from cristae.volumes.formats.ome_zarr import Layout, open_ome_zarr
from cristae.volumes.values import MASK_SETTING
from cristae.volumes.volume import Volume


def check_segment(
    prediction: Volume,
    out: str | Path,
    *,
    config: SegmentConfig | None = None,
    resources: Resources | None = None,
    overwrite: bool = False,
) -> Expected:
    """What `segment_volume` will make of its arguments, with its errors; nothing is written.

    Args:
        prediction: One that is there, or that will be (`expected_volume`).
        out: See `segment_volume`.
        config: See `segment_volume`.
        resources: See `segment_volume`; no voxel is read, so the memory checked is that of a
            prediction without any foreground.
        overwrite: See `segment_volume`.
    """
    out, resources = user_path(out), resources or Resources()
    check_name(out)
    decoding = resolve(config or SegmentConfig(), prediction)
    state = check_output(
        out,
        stage="segment",
        inputs={"prediction": known_identity(prediction)},
        settings=segment_settings(decoding, None, True),
        overwrite=overwrite,
        unknown=(MASK_SETTING,),
    )
    if state == "done":
        return Expected(state, open_ome_zarr(out))
    layout = Layout().fitted(prediction.shape)
    job = SegmentJob(prediction, decoding, layout.shard, MemoryScratch())
    check_memory("segment", labelling_bytes(job, (0, 0), True, resources.workers), resources)
    labels = expected_volume(
        prediction,
        str(out),
        channels=None,
        dtype=np.dtype(np.uint32),
        kind="labels",
        chunk_shape=layout.chunk,
        shard_shape=layout.shard,
        attributes={},
    )
    return Expected(state, labels, prediction.size // 16)
