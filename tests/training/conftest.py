"""A toy sample in memory: bright squares, each its own instance, on a dark noisy ground."""

import numpy as np
import pytest

from cristae.samples.dataset import OpenedSample, Sample
from cristae.training.sampling import prepare_source
from cristae.volumes.volume import array_volume


def toy_arrays(shape=(12, 96, 96), seed=0):
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint16)
    squares = [(y, x) for y in range(4, shape[1] - 20, 24) for x in range(4, shape[2] - 20, 24)]
    for i, (y, x) in enumerate(squares, start=1):
        labels[1:-1, y : y + 14, x : x + 16] = i
    grey = np.where(labels > 0, 70, 170) + random.normal(0, 8, shape)
    return grey.clip(0, 255).astype(np.uint8), labels


def toy_opened(image, labels, voxel_size_nm=(30.0, 8.0, 8.0), mask=None, **fields):
    sample = Sample(name="toy", image="image", labels="labels", **fields)
    return OpenedSample(
        sample,
        array_volume(image, voxel_size_nm=voxel_size_nm, kind="image"),
        array_volume(labels, voxel_size_nm=voxel_size_nm, kind="labels"),
        None if mask is None else array_volume(mask, voxel_size_nm=voxel_size_nm),
    )


@pytest.fixture(scope="session")
def toy_source():
    return prepare_source(toy_opened(*toy_arrays()))
