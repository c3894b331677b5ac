"""The folders the MitoEM data set comes in, and its splits.

::

    MitoEM-R/  im/im0000.png ...  mito_train/seg0000.tif ...  mito_val/seg0400.tif ...     2020
               im/im0000.png ...  mito-train-v2/seg0000.tif  mito-val-v2/seg0400.tif       2023
    EM30-R/    im_train.h5 im_val.h5 im_test.h5  mito_train-v2.h5  mito_val-v2.h5
    rat/       im/im0000.png ...  mito/mito0000.png ...                       before the challenge

R is rat, H human; 1000 slices of 4096 x 4096 voxels, 30 x 8 x 8 nm. The labels of the test slices
are the challenge's own.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cristae.engine.paths import user_path
from cristae.errors import raise_faults
from cristae.samples.dataset import Sample

SPLITS = {"train": (0, 400), "validation": (400, 500), "test": (500, 1000)}
"""Slices of each split, half-open."""

VOXEL_SIZE_NM = (30.0, 8.0, 8.0)

_IMAGES, _LABELS = ("im",), ("mito", "mito_train", "mito_val", "mito-train-v2", "mito-val-v2")
_SLICE = re.compile(r"((?:im|seg|mito)_?)(\d{4})(\.(?:png|tiff?))")
_NUMBERS = {"train": "0[0-3][0-9][0-9]", "validation": "04[0-9][0-9]", "test": "0[5-9][0-9][0-9]"}
_FILE = re.compile(r"(im|mito)_(train|val|test)(?:-v\d)?\.h5")
_SPLIT_OF_FILE = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class SplitPart:
    """Slices of one split in one folder or file.

    Attributes:
        role: ``images`` or ``labels``.
        split: One of `SPLITS`.
        source: What `open_volume` takes.
        roi: The split's part of that source; None where it is all of it.
        found: Slices there; None where a file holds them.
        missing: Numbers of slices that are not there, though later ones of the source are.
        alone: What opens this part and nothing else, without a roi: the source, or a glob.
    """

    role: str
    split: str
    source: str
    roi: str | None
    found: int | None
    missing: tuple[int, ...]
    alone: str

    @property
    def text(self) -> str:
        """One line: how to open the part, and what is missing of it."""
        first, last = SPLITS[self.split]
        line = self.source + (f" --roi {self.roi}" if self.roi else "")
        if self.found is not None and self.found < last - first:
            line += f"  ({self.found} of {last - first} slices"
            if self.missing:
                some = ", ".join(map(str, self.missing[:3]))
                more = f" and {len(self.missing) - 3} more" if len(self.missing) > 3 else ""
                line += f"; without {some}{more}"
            line += ")"
        return line


@dataclass(frozen=True)
class MitoEMFolder:
    """A folder of the MitoEM data set.

    Attributes:
        path: The folder.
        tissue: ``human``, ``rat``, or None where its name does not say.
        parts: What is there, images before labels, in the order of the splits.
    """

    path: str
    tissue: str | None
    parts: tuple[SplitPart, ...]

    @property
    def text(self) -> str:
        """The whole as aligned lines; sources with the options that open one split."""
        lines = [("source", self.path)]
        lines.append(("form", f"MitoEM data set, {self.tissue or 'human or rat'}"))
        lines.append(("voxel size", "30 x 8 x 8 nm (--voxel-size 30,8,8)"))
        for split, (first, last) in SPLITS.items():
            lines.append((split, f"slices {first}-{last - 1}"))
            lines += [(f"  {p.role}", p.text) for p in self.parts if p.split == split]
            if split == "test" and not any(p.split == split for p in self.parts):
                lines[-1] = (split, f"slices {first}-{last - 1}: not here")
        width = max(len(key) for key, _ in lines)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in lines)


def find_mitoem(path: str | Path) -> MitoEMFolder | None:
    """What a folder holds of the MitoEM data set; None where it does not have its layout.

    Args:
        path: The folder that holds ``im``, not ``im`` itself.
    """
    folder = user_path(path)
    if not folder.is_dir():
        return None
    parts = [*_parts_of_folders(folder), *_parts_of_files(folder)]
    roles = {part.role for part in parts}
    if "images" not in roles and "labels" not in roles:
        return None
    parts.sort(key=lambda part: (part.role, list(SPLITS).index(part.split)))
    return MitoEMFolder(str(path), _tissue(folder.resolve()), tuple(parts))


def mitoem_samples(folders: Sequence[str | Path]) -> list[Sample]:
    """The labelled splits of folders of the data set, as samples to train and validate on.

    Args:
        folders: Each holds one volume's ``im``.

    Returns:
        A sample of group ``train`` for each folder, and one of group ``validation`` where its
        images and labels are there.

    Raises:
        InputError: Folders of another layout, or without what training needs; all at once.
    """
    samples, faults = [], []
    for folder in folders:
        found = find_mitoem(folder)
        if found is None:
            faults.append(f"{folder}: not the layout of MitoEM, expected `im` and labels in it")
            continue
        parts = {(part.role, part.split): part.alone for part in found.parts}
        missing = [role for role in ("images", "labels") if (role, "train") not in parts]
        faults += [f"{folder}: no {role} of slices 0-399 there" for role in missing]
        group: Literal["train", "validation"]
        for group in ("train", "validation"):
            first, last = SPLITS[group]
            if ("images", group) in parts and ("labels", group) in parts:
                sample = Sample(
                    name=f"{Path(folder).resolve().name}_z{first:03d}-{last - 1}",
                    image=parts["images", group],
                    labels=parts["labels", group],
                    voxel_size_nm=VOXEL_SIZE_NM,
                    group=group,
                )
                samples.append(sample)
    raise_faults("MitoEM", faults)
    return samples


def _parts_of_folders(folder: Path) -> Iterator[SplitPart]:
    for role, names in (("images", _IMAGES), ("labels", _LABELS)):
        for name in names:
            slices = folder / name
            if slices.is_dir():
                yield from _parts_of_slices(role, slices)


def _parts_of_slices(role: str, folder: Path) -> Iterator[SplitPart]:
    entries = (_SLICE.fullmatch(entry.name) for entry in folder.iterdir())
    matches = [match for match in entries if match]
    numbers = sorted(int(match[2]) for match in matches)
    for split, (first, last) in SPLITS.items():
        here = [n for n in numbers if first <= n < last]
        if here:
            # a roi counts the slices that are there
            before = sum(n < first for n in numbers)
            whole = len(here) == len(numbers)
            roi = None if whole else f"{before}:{before + len(here)},:,:"
            gone = sorted(set(range(here[0], here[-1] + 1)) - set(here))
            name = f"{matches[0][1]}{_NUMBERS[split]}{matches[0][3]}"
            alone = str(folder if whole else folder / name)
            yield SplitPart(role, split, str(folder), roi, len(here), tuple(gone), alone)


def _parts_of_files(folder: Path) -> Iterator[SplitPart]:
    for entry in sorted(folder.iterdir()):
        match = _FILE.fullmatch(entry.name)
        if match:
            role = "images" if match[1] == "im" else "labels"
            split = _SPLIT_OF_FILE[match[2]]
            yield SplitPart(role, split, str(entry), None, None, (), str(entry))


def _tissue(folder: Path) -> str | None:
    for name in (folder.name, folder.parent.name):
        words = set(re.split(r"[^a-z0-9]+", name.lower()))
        for tissue, short in (("human", "h"), ("rat", "r")):
            if tissue in words or (short in words and words & {"mitoem", "em30"}):
                return tissue
    return None
