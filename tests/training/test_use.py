"""A trained model is predicted with and decoded as its configuration says."""

import numpy as np
import pytest

from cristae.networks.families.unet.network import UNetConfig
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.samples.dataset import Sample
from cristae.segmentation.segment import segment_volume
from cristae.training.config import TrainConfig
from cristae.training.geometry import GeometryConfig
from cristae.training.intensity import GreyConfig
from cristae.training.losses import LossConfig, TargetLoss
from cristae.training.targets import TargetsConfig
from cristae.training.train import train_model
from cristae.volumes.formats.ome_zarr import create_ome_zarr
from cristae.volumes.volume import array_volume

from .conftest import toy_arrays

SIZE = (30.0, 8.0, 8.0)
STILL = GreyConfig(tone=0, blur=0, noise=0, clouds=0, sections=0, missing=0, holes=0)
SIGNED = LossConfig(targets={"distance": TargetLoss(mse=5.0)})
MASK = {"foreground_threshold": 0.5, "seed_threshold": 0.6, "min_size": 20}


@pytest.mark.parametrize(
    ("channels", "depth", "decoder", "loss", "thresholds"),
    [
        (
            ("mask", "contour", "distance"),
            4,
            "bcd_watershed",
            SIGNED,
            MASK | {"distance_seed_threshold": 0.0, "distance_foreground_threshold": -0.2},
        ),
        (("mask", "contour"), 1, "stack_2d", LossConfig(), MASK),
        (
            ("affinity_x", "affinity_z", "affinity_y", "contour"),
            4,
            "affinity_connected",
            LossConfig(),
            {"affinity_threshold": 0.5, "min_size": 20},
        ),
    ],
    ids=["distance", "2D", "affinities"],
)
def test_trained_predicted_decoded(tmp_path, channels, depth, decoder, loss, thresholds):
    """The 9 squares of the toy come out: by distance, by section, by affinities in any order."""
    sources = {}
    for kind, array in zip(("image", "labels"), toy_arrays(), strict=True):
        sources[kind] = str(tmp_path / f"{kind}.zarr")
        volume = create_ome_zarr(
            sources[kind], shape=array.shape, dtype=array.dtype, kind=kind, voxel_size_nm=SIZE
        )
        volume.write(volume.box, array)
    config = TrainConfig(
        steps=60,
        batch=8 // depth,
        patch=(depth, 32, 32),
        learning_rate=1e-2,
        warmup_steps=5,
        ema_decay=0.9,
        network=UNetConfig(
            channels=channels,
            widths=(8, 8),
            strides=((1, 2, 2),),
            z_kernel_levels=(1,) if depth > 1 else (),
        ),
        targets=TargetsConfig(distance_alpha_px=(4.0, 8.0)),
        loss=loss,
        intensity="uint8",
        geometry=GeometryConfig.still(),
        grey=STILL,
        validate_every=60,
        decoder=decoder,
        thresholds=thresholds,
    )
    model = train_model(config, [Sample("toy", **sources)], tmp_path / "model.pt", threads=1)
    image, labels = toy_arrays(seed=1)
    prediction = predict_volume(
        array_volume(image, voxel_size_nm=SIZE, kind="image"),
        model,
        tmp_path / "prediction.zarr",
        config=PredictConfig(precision="float32"),
    )
    assert prediction.channels == channels
    steps = [[0, 0, -1], [-1, 0, 0], [0, -1, 0]] if "affinity_x" in channels else None
    assert prediction.attributes.get("offsets") == steps
    if "distance" in channels:
        distance = prediction.read()[2] / 127.5 - 1
        assert distance[labels > 0].mean() > 0.2
        assert distance[labels == 0].mean() < -0.2
    instances = segment_volume(prediction, tmp_path / "instances.zarr", pyramid=False)
    assert instances.attributes["record"]["settings"].get("offsets") == steps
    found = instances.read()
    assert found.max() == labels.max() == 9
    assert ((found > 0) == (labels > 0)).mean() > 0.95
    ids = {int(np.bincount(found[labels == i]).argmax()) for i in range(1, 10)}
    assert len(ids - {0}) == 9
