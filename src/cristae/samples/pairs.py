"""Labels and masks on the voxels of the image they belong to."""

from collections.abc import Mapping

from cristae.engine.progress import log
from cristae.errors import InputError
from cristae.grid import Box, parse_roi
from cristae.volumes.place import Align, common_part, lay, misplaced, part_under
from cristae.volumes.volume import Volume


def lay_on_image(
    volumes: Mapping[str, Volume], roi: str | None, align: Align
) -> tuple[dict[str, Volume], list[str]]:
    """Labels and mask on the voxels of their image.

    Args:
        volumes: ``image``, all of it, and what else there is of ``labels`` and ``mask``, which may
            be of a part of it.
        roi: Part of the image to take; None for all.
        align: See `lay`.

    Returns:
        The part of each, and what is wrong: channels, a roi outside of the image, volumes that do
        not lie on the image or under the roi, or that begin where the image begins and end beyond
        it, so that one of the two is another crop.
    """
    image = volumes["image"]
    faults = [
        f"{volume.name}: {len(volume.channels)} channels, expected (z, y, x)"
        for volume in volumes.values()
        if volume.channels is not None
    ]
    box, laid = image.box, dict(volumes)
    try:
        box = image.box if roi is None else parse_roi(roi, image.shape)
    except InputError as error:
        faults.append(f"{image.name}: {error}")
    laid["image"] = image.crop(box)
    for role in volumes.keys() - {"image"} if not faults else ():
        try:
            laid[role] = _under(image, volumes[role], box, align)
        except InputError as error:
            faults.append(f"{role} {error}")
    return laid, sorted(faults)


def _under(image: Volume, other: Volume, box: Box, align: Align) -> Volume:
    """Labels or a mask under a box of the image, on its voxels."""
    overlay = lay(image, other, align)
    if overlay.shift == (0, 0, 0) and overlay.ends_beyond:
        reason = "it begins where the image begins and ends beyond it, expected the image's shape"
        raise misplaced(image, other, f"{reason} or a part")
    return part_under(image, other, box, align)


def cut_to_common(
    name: str, image: Volume, labels: Volume, mask: Volume | None
) -> tuple[Volume, Volume, Volume | None]:
    """The part that image, labels and mask all have; a warning where the image has more.

    Args:
        name: Of the sample.
        image: (z, y, x).
        labels: Of the image, from `lay_on_image`.
        mask: Likewise.
    """
    parts = common_part([image, labels] if mask is None else [image, labels, mask])
    if parts[0].shape != image.shape:
        log.warning(
            "volume %r: labels or mask cover %s of the image's %s voxels; only these are used",
            *(name, parts[0].shape, image.shape),
        )
    return parts[0], parts[1], None if mask is None else parts[2]
