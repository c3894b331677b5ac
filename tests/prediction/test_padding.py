"""A padded image gives the prediction of the plain one, and 0 where it is padded."""

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume

SIZE = (30.0, 8.0, 8.0)
AROUND = ((2, 1), (32, 16), (16, 40))
"""In front multiples of the lattice, also at half the size: both images lie on it alike."""


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize(
    ("working", "options"),
    [
        ((None, None, None), {}),
        ((None, 16.0, 16.0), {}),
        ((None, 8.0, 8.0), {"scales": (1.0, 2.0)}),
    ],
)
def test_padding_leaves_no_trace(make_model, texture, tmp_path, value, working, options):
    plain = texture((5, 72, 64))
    around = np.pad(plain, AROUND, constant_values=value)
    model = make_model(working_voxel_size_nm=working)
    config = PredictConfig(precision="float32", **options)
    found = []
    for name, array in (("plain", plain), ("padded", around)):
        image = open_volume(array, voxel_size_nm=SIZE)
        if options:  # read from a level of the pyramid
            image = convert_volume(image, tmp_path / f"{name}_v.zarr", kind="image")
        out = tmp_path / f"{name}.zarr"
        found.append(
            predict_volume(image, model, out, config=config, resources=Resources(1)).read()
        )
    expected = np.pad(found[0], ((0, 0), *AROUND)).astype(int)
    difference = np.abs(found[1] - expected)
    assert found[0].any()
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 2
