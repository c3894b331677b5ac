"""What a prediction will make, and every fault of it that is known before it starts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cristae.engine.executors import Resources
from cristae.engine.ledger import check_output
from cristae.engine.memory import check_memory
from cristae.engine.paths import user_path
from cristae.grid import Box
from cristae.networks.model import Model
from cristae.prediction.checks import PredictConfig, check_places
from cristae.prediction.estimate import expected_precision, prediction_work
from cristae.prediction.predict import passed_on
from cristae.prediction.request import ask, check_contrast, predict_record
from cristae.volumes.expected import Expected, expected_volume, is_made
from cristae.volumes.formats.ome_zarr import Layout, open_ome_zarr
from cristae.volumes.volume import Volume


def check_predict(
    source: Volume,
    model: Model | Sequence[Model],
    out: str | Path,
    *,
    config: PredictConfig | None = None,
    mask: Volume | None = None,
    resources: Resources | None = None,
    overwrite: bool = False,
    model_known: bool = True,
) -> Expected:
    """What `predict_volume` will make of its arguments, with its errors; nothing is written.

    Args:
        source: One that is there, or that will be (`expected_volume`) with its grey statistics.
        model: See `predict_volume`.
        out: See `predict_volume`.
        config: See `predict_volume`.
        mask: See `predict_volume`.
        resources: See `predict_volume`. The memory checked is that of the precision which is most
            likely where a sample decides.
        overwrite: See `predict_volume`.
        model_known: False for one whose weights are not trained yet.
    """
    out, resources = user_path(out), resources or Resources()
    check_places(out, None)
    asked = ask(source, model, out, config, mask, None, resources)
    record = predict_record(asked)
    made = is_made(source)
    if not made:
        record["inputs"] |= {"source": None}
    if not model_known:
        record["inputs"] |= {"model": None}
    state = check_output(
        out, **record, overwrite=overwrite, unknown=() if made else ("read_level",)
    )
    if state == "done":
        there = open_ome_zarr(out)
        handed_on = {**there.attributes, **passed_on(asked.models[0], asked.grids)}
        return Expected(state, there.with_(attributes=handed_on))
    check_contrast(source, asked.models[0])
    precision = expected_precision(asked.config, asked.models[0])
    work = prediction_work(source, asked.models, asked.config, precision, resources)
    check_memory("predict", work.memory_bytes, resources)
    grids, channels = asked.grids, asked.contract.channels
    layout = Layout().fitted(grids.shape)
    prediction = expected_volume(
        source,
        str(out),
        shape=grids.shape,
        dtype=np.dtype(np.uint8),
        channels=channels,
        kind="prediction",
        voxel_size_nm=grids.voxel_size_nm,
        origin_nm=grids.origin_nm,
        chunk_shape=layout.chunk,
        shard_shape=layout.shard,
        attributes=passed_on(asked.models[0], grids),
    )
    return Expected(state, prediction, Box.of(grids.shape).size * len(channels))
