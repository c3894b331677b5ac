r"""Patches: patch i of a run is a pure function of (seed, i), so a run can be resumed anywhere.

A patch is first planned (`plan_patch`: which sample, where, turned and scaled how), then its source
voxels are read, one box (`cut_patch`); all geometry is one interpolation from the boxes of a batch
(`cristae.training.warp`)::

    source box          +-----------------+          patch, in working voxels
    (native voxels)     |    /\           |          +--------+
                        |   /  \  patch   |   --->   |        |
                        |   \   \         |          |        |
                        |    \  /         |          +--------+
                        +-----\/----------+

Working voxels are those the network sees: ``working_voxel_size_nm`` in plane, the sample's own
sections along z, or every k-th of them (`Sample.z_steps`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cristae.configuration import config_dataclass
from cristae.engine.progress import log
from cristae.grid import Box, Triple
from cristae.samples.dataset import OpenedSample, voxel_size_of
from cristae.samples.held import compact_ids
from cristae.training.geometry import GeometryConfig, Warp, draw_warp
from cristae.training.instance_index import Array, InstanceIndex, index_instances
from cristae.training.warp import Cut, warp_patches
from cristae.volumes.intensity import IntensityStatistics, normalise, sample_intensity
from cristae.volumes.volume import read_reflected

WorkingSize = tuple[float | None, float | None, float | None]

GEOMETRY, GREY, PASTE, DEFECTS = 0, 1, 2, 3
"""Streams of random numbers of one patch."""


@config_dataclass
class SamplingConfig:
    """Where patches are taken from; the four are weights of a choice.

    Attributes:
        uniform: Anywhere in the volume.
        foreground: Around a voxel of any instance, so large instances are seen more often.
        instance: Around an instance, each as often as any other.
        contact: Around a place where an instance touches another, each such instance as often as
            any other; anywhere in a volume that has none.
    """

    uniform: float = 0.3
    foreground: float = 0.2
    instance: float = 0.5
    contact: float = 0.0


@dataclass(frozen=True)
class Source:
    """A sample made ready to take patches from.

    Attributes:
        opened: Its volumes.
        statistics: Grey statistics of its image.
        index: Where its instances are.
    """

    opened: OpenedSample
    statistics: IntensityStatistics
    index: InstanceIndex


@dataclass(frozen=True)
class PatchPlan:
    """Where a patch comes from and how it is turned.

    Attributes:
        source: Index of the sample.
        sections: Section of the sample that each section of the patch comes from, shape (z,).
        thickness: Sections that are averaged for one of the patch (the middle one's labels count).
        warp: In-plane geometry.
    """

    source: int
    sections: NDArray[np.int64]
    thickness: int
    warp: Warp


def random_stream(seed: int, index: int, stream: int) -> np.random.Generator:
    """The random numbers of one patch: a pure function of seed, patch and stream."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index, stream])))


def prepare_source(opened: OpenedSample) -> Source:
    """Statistics and instance index of a sample; reads it once.

    Raises:
        InputError: What reading the volumes raises.
    """
    index = index_instances(opened.labels, opened.mask)
    if index.blank.size:
        log.warning(
            "%s: sections %s (the first is 0) hold no instance, those beside them do: if nobody "
            "labelled them, they teach that there is none; leave them out with roi or mask",
            opened.labels.name,
            ", ".join(map(str, index.blank)),
        )
    return Source(opened, sample_intensity(opened.image), index)


def working_factors(opened: OpenedSample, working: WorkingSize) -> tuple[float, float]:
    """Native voxels per working voxel along y and x; 1 where the working size is null."""
    size = voxel_size_of(opened)
    y, x = (1.0 if w is None else w / v for w, v in zip(working[1:], size[1:], strict=True))
    return y, x


def plan_patch(
    sources: Sequence[Source],
    patch: Triple,
    working: WorkingSize,
    sampling: SamplingConfig,
    geometry: GeometryConfig,
    random: np.random.Generator,
) -> PatchPlan:
    """Choose where a patch comes from and how it is turned.

    Args:
        sources: Samples to choose from, by their weights.
        patch: Extent (z, y, x) in working voxels.
        working: Working voxel size (z, y, x) in nm.
        sampling: How places are chosen.
        geometry: How patches are turned and scaled.
        random: The patch's own random numbers.

    Returns:
        The plan; nothing is read.
    """
    weights = np.array([s.opened.sample.weight for s in sources], float)
    chosen = int(random.choice(len(sources), p=weights / weights.sum()))
    source = sources[chosen]
    shape = source.opened.image.shape
    step = int(random.choice(source.opened.sample.z_steps))
    factors = working_factors(source.opened, working)
    # a stack that is thinner than the patch at this step is taken at a finer one
    step = max(1, min(step, shape[0] // patch[0]))
    centre = _choose_centre(source, sampling, random)
    extent = (patch[0] * step, patch[1] * factors[0], patch[2] * factors[1])
    if centre is None:
        centre = random.uniform(0, shape)
    else:
        centre = centre + random.uniform(-0.3, 0.3, 3) * extent
    inside = [_keep_inside(c, e, n) for c, e, n in zip(centre, extent, shape, strict=True)]
    first = math.floor(inside[0] - extent[0] / 2) + int(random.integers(step))
    kept = _draw_kept(patch[0], shape[0] // step, geometry, random)
    sections = first + step * kept
    if geometry.flip and random.random() < 0.5:
        sections = sections[::-1].copy()
    thickness = step if step > 1 and random.random() < geometry.thick_sections else 1
    warp = draw_warp((inside[1], inside[2]), factors, patch, geometry, random)
    return PatchPlan(chosen, sections, thickness, warp)


def cut_patch(source: Source, plan: PatchPlan, patch: Triple, rule: str) -> Cut:
    """Read the source box of a planned patch.

    Args:
        source: The sample the plan names.
        plan: From `plan_patch`.
        patch: Extent (z, y, x) in working voxels.
        rule: Intensity rule.

    Returns:
        The box; its ids stand for the sample's within this patch only.
    """
    opened = source.opened
    (y0, y1), (x0, x1) = plan.warp.bounds(patch)
    low, high = int(plan.sections.min()), int(plan.sections.max()) + 1
    around = plan.thickness // 2
    box = Box((low, y0, x0), (high, y1, x1))
    deep = box.grow((around, 0, 0))
    grey = normalise(
        read_reflected(opened.image, deep),
        source.statistics,
        rule,
        opened.sample.invert,
    )
    image = _pick_sections(grey, plan.sections - deep.start[0], plan.thickness)
    labels = read_reflected(opened.labels, box)[plan.sections - low]
    known = None
    if opened.mask is not None:
        known = read_reflected(opened.mask, box)[plan.sections - low] != 0
        known = _by_pixel(known)
    ids = _by_pixel(compact_ids(labels).astype(np.int32))
    return Cut(_by_pixel(image), ids, known, plan.warp, (y0, x0))


def read_patch(
    source: Source, plan: PatchPlan, patch: Triple, rule: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A planned patch, read and turned; arguments as of `cut_patch`.

    Returns:
        Image float32 (z, y, x), normalised; labels int32 (z, y, x), whose ids stand for the
        sample's within this patch only; and 1 where labels are known (None: everywhere).
    """
    cut = cut_patch(source, plan, patch, rule)
    image, labels, known = warp_patches([cut], patch, torch.device("cpu"))
    return image[0], labels[0], None if known is None else known[0]


def fixed_patches(
    sources: Sequence[Source], count: int, patch: Triple, working: WorkingSize
) -> list[PatchPlan]:
    """The same patches at every call, unturned: ``count`` from each sample, for validation.

    Patches with an even index are centred on instances, odd ones lie anywhere.
    """
    still = GeometryConfig.still()
    plans = []
    for index, source in enumerate(sources):
        for i in range(count):
            where = SamplingConfig(uniform=i % 2, foreground=0.0, instance=(i + 1) % 2)
            random = random_stream(index, i, GEOMETRY)
            plan = plan_patch([source], patch, working, where, still, random)
            plans.append(PatchPlan(index, plan.sections, plan.thickness, plan.warp))
    return plans


def _choose_centre(
    source: Source, sampling: SamplingConfig, random: np.random.Generator
) -> NDArray[np.float64] | None:
    """A voxel of an instance, or None for anywhere."""
    weights = np.array([sampling.uniform, sampling.foreground, sampling.instance, sampling.contact])
    way = random.choice(4, p=weights / weights.sum())
    index = source.index
    if way == 0 or not len(index.voxels):
        return None
    first, points = index.first, index.points
    shares = np.ones(len(index.voxels))
    if way == 1:
        shares = index.voxels.astype(float)
    elif way == 3:
        first, points = index.first_contact, index.contacts
        shares = (np.diff(first) > 0).astype(float)
        if not shares.any():
            return None
    instance = int(random.choice(len(shares), p=shares / shares.sum()))
    voxel: NDArray[np.float64] = points[int(random.integers(*first[instance : instance + 2]))] + 0.5
    return voxel


def _draw_kept(
    sections: int, there: int, geometry: GeometryConfig, random: np.random.Generator
) -> NDArray[np.int64]:
    """Which sections a patch shows, from its first one on: all in a row, or with inner ones lost.

    As many as there are ``sections``; none is lost where the volume has too few.
    """
    lost = geometry.lost_sections
    if not geometry.lost or random.random() >= geometry.lost or sections < 2:
        return np.arange(sections, dtype=np.int64)
    if sections + lost > there:
        return np.arange(sections, dtype=np.int64)
    gone = 1 + random.permutation(sections + lost - 2)[:lost]
    return np.setdiff1d(np.arange(sections + lost, dtype=np.int64), gone)


def _keep_inside(centre: float, extent: float, length: int) -> float:
    """Move a centre so that the extent lies inside 0..length, or is centred where it cannot."""
    if extent >= length:
        return length / 2
    return min(max(centre, extent / 2), length - extent / 2)


def _by_pixel(box: Array) -> Array:
    """An array (z, y, x) as (y, x, z), each pixel's sections beside one another."""
    return np.ascontiguousarray(box.transpose(1, 2, 0))


def _pick_sections(grey: Array, sections: Array, thickness: int) -> Array:
    if thickness == 1:
        return np.ascontiguousarray(grey[sections])
    low = sections - thickness // 2
    total = np.zeros((len(sections), *grey.shape[1:]), np.float32)
    for k in range(thickness):
        total += grey[np.minimum(low + k, len(grey) - 1)]
    return total / np.float32(thickness)
