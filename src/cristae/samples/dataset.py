"""Samples: pairs of image and labels, as the ``volumes:`` list of a configuration names them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cristae.configuration import config_dataclass, to_plain
from cristae.engine.executors import Resources
from cristae.engine.identity import Identity
from cristae.errors import ConfigError, InputError, raise_faults
from cristae.renamed import recorded_names
from cristae.samples.dilation import dilated_volume
from cristae.samples.ignore_label import split_ignored
from cristae.samples.pairs import cut_to_common, lay_on_image
from cristae.simulation.simulate import SimulationConfig, simulate_volume
from cristae.volumes.finite import Nan, checked_voxels
from cristae.volumes.formats import open_volume
from cristae.volumes.negative import label_faults, no_instances
from cristae.volumes.place import Align
from cristae.volumes.volume import Kind, Nanometres, Volume

Group = Literal["train", "validation", "test"]


@config_dataclass
class Sample:
    """One volume of a configuration.

    Attributes:
        name: What the run folder and all tables call it.
        image: Source of the grey values; None where ``simulate`` is given.
        labels: Source of the instance labels; None where there are none (or ``simulate``).
        mask: Source of a volume that is 0 where the labels are not to be trusted.
        ignore_label: Label that says the same of the voxels that have it; with 0, all that is no
            instance.
        voxel_size_nm: Voxel size (z, y, x) in nm; needed where the sources do not say.
        axes: What the axes of the sources are, see `open_volume`; as they say by default.
        series: Which series of files that hold several.
        roi: ``z0:z1,y0:y1,x0:x1`` in voxels of the image, and what lies there of labels and mask;
            all by default.
        group: ``train``, ``validation`` or ``test``.
        invert: Turn the contrast around (for bright membranes).
        label_dilation_nm: By how much instances are grown to end at the outer membrane's outer
            edge; for training only, scores are always of the labels as they are.
        weight: How often patches come from here, in relation to the other samples.
        z_steps: Of which sections a training patch is made: every k-th, k drawn from these. With
            (1, 2, 4, 8) a volume with 5 nm sections stands for 5 to 40 nm ones.
        simulate: A simulated volume in place of sources.
        negative: The volume truly holds no instance: labels are 0 everywhere, or left out.
        align: How labels and mask lie on the image: ``origin``, by voxel size and origin; they may
            cover a part of it, and be finer or coarser by whole factors. ``voxels``: voxel 0 on
            voxel 0, whatever the files say.
        nan: What goes in the place of voxels that are NaN or infinite: a number, or ``fill`` for
            the image's median grey; in labels and mask ``fill`` is 0.
    """

    name: str
    image: str | None = None
    labels: str | None = None
    mask: str | None = None
    ignore_label: int | None = None
    voxel_size_nm: tuple[float, float, float] | None = None
    axes: str | None = None
    series: str | None = None
    roi: str | None = None
    group: Group = "train"
    invert: bool = False
    label_dilation_nm: float = 0.0
    weight: float = 1.0
    z_steps: tuple[int, ...] = (1,)
    simulate: SimulationConfig | None = None
    negative: bool = False
    align: Align = "origin"
    nan: Nan | None = None


_LATER = ("negative", "axes", "series", "align", "nan")
"""Fields that a record names only where they are not the default: release 0.1 has not got them."""


def plain_sample(sample: Sample) -> dict[str, Any]:
    """A sample as a record names it."""
    default = to_plain(Sample(sample.name))
    plain = to_plain(sample)
    return recorded_names({k: v for k, v in plain.items() if k not in _LATER or v != default[k]})


@dataclass(frozen=True)
class OpenedSample:
    """A sample whose sources are open and fit together.

    Attributes:
        sample: What was opened.
        image: Grey values.
        labels: Instance ids, dilated where the sample says so.
        mask: 0 where the labels are not to be trusted, or None.
    """

    sample: Sample
    image: Volume
    labels: Volume
    mask: Volume | None

    @property
    def identity(self) -> Identity:
        """What the content is, for records."""
        others = [self.labels, *([] if self.mask is None else [self.mask])]
        return self.image.identity.joined(*(volume.identity for volume in others))

    @property
    def fingerprint(self) -> str:
        """A short digest of the identity."""
        return self.identity.fingerprint


def open_sample(
    sample: Sample,
    *,
    voxel_size_needed: bool = True,
    out: Path | None = None,
    same_source: bool = False,
) -> OpenedSample:
    """Open a sample for training and check that it can be used.

    Args:
        sample: What to open.
        voxel_size_needed: Whether an unknown voxel size is a fault.
        out: What is made of it: its record says whether its voxels were looked at before.
        same_source: The sources are those that records name, although time or content differ.

    Returns:
        The open sample; nothing is held in memory yet.

    Raises:
        InputError: All faults at once: sources that cannot be read, no labels, shapes or origins
            that differ, negative or fractional labels, none or (of a negative volume) some, an
            unknown voxel size.
    """
    raise_faults(f"volume {sample.name!r}", sample_faults(sample), ConfigError)
    image, labels, mask = open_sources(sample, same_source)
    if labels is None:
        raise InputError(f"volume {sample.name!r}: no labels found, expected some")
    image, labels, mask = cut_to_common(sample.name, image, labels, mask)
    labels, mask = split_ignored(labels, mask, sample.ignore_label)
    faults = label_faults(labels, negative=sample.negative)
    if voxel_size_needed or sample.label_dilation_nm:
        faults += _voxel_size_faults(image)
    raise_faults(f"volume {sample.name!r}", faults)
    labels = labels.with_(voxel_size_nm=image.voxel_size_nm)
    labels = dilated_volume(labels, sample.label_dilation_nm)
    return _looked_at(OpenedSample(sample, image, labels, mask), out)


def open_samples(
    samples: Sequence[Sample],
    *,
    voxel_size_needed: bool = True,
    out: Path | None = None,
    same_source: bool = False,
) -> list[OpenedSample]:
    """Open several samples; the faults of all of them come in one error.

    Raises:
        InputError: See `open_sample`; also names given twice.
    """
    names = [sample.name for sample in samples]
    faults = [f"name {n!r} given {names.count(n)} times" for n in set(names) if names.count(n) > 1]
    opened = []
    for sample in samples:
        try:
            opened.append(
                open_sample(
                    sample, voxel_size_needed=voxel_size_needed, out=out, same_source=same_source
                )
            )
        except InputError as error:
            faults.append(str(error))
    raise_faults("volumes", faults)
    return opened


def sample_faults(sample: Sample, *, labels_needed: bool = True) -> list[str]:
    """Faults of a sample's own fields, before anything is opened."""
    faults = []
    partial = [name for name in ("mask", "ignore_label") if getattr(sample, name) is not None]
    given = [name for name in ("image", "labels") if getattr(sample, name) is not None]
    if sample.simulate is not None:
        faults += [
            f"{name} given beside `simulate`: expected one of them" for name in given + partial
        ]
    elif labels_needed and len(given) < 2 and not (sample.negative and sample.image is not None):
        faults.append(
            f"image {sample.image!r} and labels {sample.labels!r}: expected both, or `simulate`"
            + (", or `negative: true`" if sample.image is not None else "")
        )
    elif sample.image is None:
        faults.append("neither image nor simulate, expected one of them")
    elif sample.labels is None:
        alone = [name for name in partial if name != "mask" or not sample.negative]
        faults += [f"{name} given without labels: expected both" for name in alone]
    if sample.label_dilation_nm < 0:
        faults.append(f"label_dilation_nm {sample.label_dilation_nm}: expected at least 0")
    if sample.weight < 0:
        faults.append(f"weight {sample.weight}: expected at least 0")
    if not sample.z_steps or min(sample.z_steps) < 1:
        faults.append(f"z_steps {sample.z_steps}: expected one or more numbers of at least 1")
    return faults


def open_sources(
    sample: Sample, same_source: bool = False
) -> tuple[Volume, Volume | None, Volume | None]:
    """Image, labels and mask of a sample; None for what it has not.

    Args:
        sample: One without `sample_faults`.
        same_source: The sources are those that records name, although time or content differ.

    Returns:
        The image, or its part in the sample's roi. Labels and mask are on its voxels, over what
        they have of it.

    Raises:
        InputError: Sources that cannot be read, that have channels, or that do not lie on the
            image; all faults at once.
    """
    given, faults = _given(sample, same_source)
    raise_faults(f"volume {sample.name!r}", faults)
    volumes, faults = lay_on_image(given, sample.roi, sample.align)
    raise_faults(f"volume {sample.name!r}", faults)
    labels = volumes.get("labels")
    if labels is None and sample.negative:
        labels = no_instances(volumes["image"])
    return volumes["image"], labels, volumes.get("mask")


def _given(sample: Sample, same_source: bool) -> tuple[dict[str, Volume], list[str]]:
    """The volumes that a sample names, as their sources hold them, and what is wrong with these."""
    size = sample.voxel_size_nm
    if sample.simulate is not None:
        image, labels = (
            open_volume(volume, voxel_size_nm=size) for volume in simulate_volume(sample.simulate)
        )
        return {"image": image, "labels": labels}, []
    given: dict[str, tuple[str | None, Kind | None]] = {
        "image": (sample.image, "image"),
        "labels": (sample.labels, "labels"),
        "mask": (sample.mask, None),
    }
    faults: list[str] = []
    volumes: dict[str, Volume] = {}
    for role, (source, kind) in given.items():
        if source is not None:
            try:
                volumes[role] = open_volume(
                    source,
                    voxel_size_nm=size,
                    kind=kind,
                    axes=sample.axes,
                    series=sample.series,
                    same_source=same_source,
                    nan=sample.nan if kind == "image" or sample.nan != "fill" else 0.0,
                )
            except InputError as error:
                faults.append(str(error))
    if sample.image is None:
        faults.append("no image found, expected one")
    return volumes, faults


def _looked_at(opened: OpenedSample, out: Path | None) -> OpenedSample:
    """The sample, without a voxel of image or mask that is not finite."""
    inputs = {opened.sample.name: opened.identity}
    look = partial(checked_voxels, resources=Resources(), out=out, inputs=inputs)
    mask = None if opened.mask is None else look(opened.mask)
    return replace(opened, image=look(opened.image), mask=mask)


def _voxel_size_faults(image: Volume) -> list[str]:
    if image.voxel_size_nm is None:
        return [f"{image.name}: unknown voxel size, expected `voxel_size_nm: [z, y, x]`"]
    if min(image.voxel_size_nm) <= 0:
        return [f"voxel_size_nm {image.voxel_size_nm}: expected three positive numbers"]
    return []


def voxel_size_of(opened: OpenedSample) -> Nanometres:
    """The voxel size (z, y, x) in nm; 1 nm where it is unknown and was not needed."""
    return opened.image.voxel_size_nm or (1.0, 1.0, 1.0)
