"""The folders of the MitoEM data set and the parts of them that are each split."""

import numpy as np
import pytest
import tifffile

from cristae.errors import InputError
from cristae.samples.mitoem import SPLITS, find_mitoem, mitoem_samples
from cristae.volumes.formats import open_volume


def touch(folder, pattern, numbers):
    folder.mkdir(parents=True)
    for n in numbers:
        (folder / (pattern % n)).touch()


def parts(found):
    return {(p.role, p.split): p for p in found.parts}


@pytest.mark.parametrize(
    ("train", "validation"), [("mito_train", "mito_val"), ("mito-train-v2", "mito-val-v2")]
)
def test_layout_of_the_challenge(tmp_path, train, validation):
    root = tmp_path / "MitoEM-H"
    touch(root / "im", "im%04d.png", range(1000))
    touch(root / train, "seg%04d.tif", range(400))
    touch(root / validation, "seg%04d.tif", range(400, 500))
    found = find_mitoem(root)
    assert found.tissue == "human"
    assert list(parts(found)) == [
        *(("images", split) for split in SPLITS),
        ("labels", "train"),
        ("labels", "validation"),
    ]
    assert {
        split: part.roi for (role, split), part in parts(found).items() if role == "images"
    } == {
        "train": "0:400,:,:",
        "validation": "400:500,:,:",
        "test": "500:1000,:,:",
    }
    assert parts(found)["labels", "validation"].roi is None
    text = found.text
    assert "MitoEM data set, human" in text
    assert f"{root / 'im'} --roi 400:500,:,:" in text
    assert "30 x 8 x 8 nm" in text
    assert "slices" not in text.split("images")[1].splitlines()[0]


def test_what_is_missing_is_told(tmp_path):
    root = tmp_path / "EM30" / "rat"
    touch(root / "im", "im%04d.png", [398, 399, 400, 404, *range(500, 1000)])
    found = find_mitoem(root)
    assert found.tissue == "rat"
    assert parts(found)["images", "validation"].missing == (401, 402, 403)
    assert "(2 of 100 slices; without 401, 402, 403)" in found.text
    assert parts(found)["images", "validation"].roi == "2:4,:,:"


def test_a_roi_opens_the_slices_of_its_split(tmp_path):
    folder = tmp_path / "MitoEM-R" / "mito_train"
    folder.mkdir(parents=True)
    for n in (398, 399, 400):
        tifffile.imwrite(folder / f"seg{n:04d}.tif", np.full((4, 5), n, np.uint16))
    train, validation = find_mitoem(folder.parent).parts
    for part, numbers in ((train, [398, 399]), (validation, [400])):
        array = open_volume(part.source, roi=part.roi).read()
        assert array[:, 0, 0].tolist() == numbers


def test_layout_of_files(tmp_path):
    for name in ("im_train.h5", "im_test.h5", "mito_train-v2.h5", "notes.h5"):
        (tmp_path / name).touch()
    found = find_mitoem(tmp_path)
    assert found.tissue is None
    assert list(parts(found)) == [("images", "train"), ("images", "test"), ("labels", "train")]
    assert f"{tmp_path / 'im_test.h5'}\n" in found.text + "\n"


def test_other_folders_are_no_data_set(tmp_path):
    assert find_mitoem(tmp_path) is None
    assert find_mitoem(tmp_path / "nowhere") is None
    touch(tmp_path / "im", "slice%d.png", range(3))
    assert find_mitoem(tmp_path) is None
    assert find_mitoem(tmp_path / "im") is None


def test_samples_of_the_labelled_splits(tmp_path):
    """Each opens its slices alone, whatever else lies in the folder."""
    root = tmp_path / "MitoEM-R"
    for folder, name, numbers in (
        ("im", "im%04d.tif", (399, 400, 401, 500)),
        ("mito-train-v2", "seg%04d.tif", (399,)),
        ("mito-val-v2", "seg%04d.tif", (400, 401)),
    ):
        (root / folder).mkdir(parents=True)
        for n in numbers:
            tifffile.imwrite(root / folder / (name % n), np.full((4, 5), n, np.uint16))
    train, validation = mitoem_samples([root])
    assert (train.name, train.group) == ("MitoEM-R_z000-399", "train")
    assert (validation.name, validation.group) == ("MitoEM-R_z400-499", "validation")
    assert train.voxel_size_nm == validation.voxel_size_nm == (30.0, 8.0, 8.0)
    for sample, numbers in ((train, [399]), (validation, [400, 401])):
        for source in (sample.image, sample.labels):
            assert open_volume(source).read()[:, 0, 0].tolist() == numbers


def test_samples_of_folders_that_lack_something(tmp_path):
    touch(tmp_path / "H" / "im", "im%04d.png", range(500, 503))
    with pytest.raises(InputError) as caught:
        mitoem_samples([tmp_path / "H", tmp_path])
    for part in ("no images of slices 0-399", "no labels of slices 0-399", "not the layout"):
        assert part in str(caught.value)
