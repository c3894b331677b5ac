"""Draws what each augmentation of training does to EM: one picture, a place three sections deep.

    python docs/augmentation.py [--out docs/images/augmentation.jpg]
    python docs/augmentation.py --image raw.tif --labels labels.tif --voxel-size 40,6,6 --out a.jpg

Without a source the place is in simulated EM.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cristae.figures.canvas import add_picture, new_figure, pixels
from cristae.figures.raster import jpeg
from cristae.samples.dataset import Sample, open_sample
from cristae.simulation.simulate import SimulationConfig
from cristae.training.augment import PYTC, Augmentations
from cristae.training.copy_paste import CopyPasteConfig, copy_paste_touching
from cristae.training.defects import DefectsConfig, apply_defects, draw_defects
from cristae.training.geometry import GeometryConfig
from cristae.training.intensity import apply_grey, draw_grey
from cristae.training.sampling import (
    SamplingConfig,
    Source,
    plan_patch,
    prepare_source,
    random_stream,
    read_patch,
)

PATCH = (9, 112, 112)
SHOWN = 3
GAP, WRITING, COLUMNS = 4, 18, 2
QUALITY = 55
OUTLINE = (255, 176, 59)

STILL = Augmentations(
    GeometryConfig.still(),
    replace(PYTC.grey, tone=0.0),
    DefectsConfig(),
    CopyPasteConfig(),
)


@dataclass(frozen=True)
class Entry:
    """A draw that shows an augmentation, where its share stands, its text, and settings."""

    draw: int
    part: str
    share: str
    text: str
    own: tuple[tuple[str, object], ...] = ()


ENTRIES = (
    Entry(2, "geometry", "flip", "flip: mirrored, and turned by quarters"),
    Entry(9, "geometry", "turn", "turn: by any angle"),
    Entry(16, "geometry", "scale", "scale: smaller or larger", (("scale", (1.4, 1.4)),)),
    Entry(18, "geometry", "stretch", "stretch: one axis against the other", (("stretch", 0.3),)),
    Entry(
        24, "geometry", "rescale", "rescale: y and x on their own", (("rescale_range", (0.7, 1.4)),)
    ),
    Entry(35, "geometry", "elastic", "elastic: bent smoothly", (("elastic_px", 4.0),)),
    Entry(
        40,
        "geometry",
        "elastic",
        "elastic, as pytc has it",
        (("elastic_sigma_px", 4.0), ("elastic_alpha_px", 16.0)),
    ),
    Entry(47, "geometry", "shift", "shift: sections beside one another", (("shift_px", 12),)),
    Entry(
        53,
        "geometry",
        "shift",
        "shift_turns: sections turned",
        (("shift_px", 12), ("shift_turns", 1.0)),
    ),
    Entry(58, "geometry", "lost", "lost: inner sections gone, labels too"),
    Entry(64, "geometry", "thick_sections", "thick_sections: the mean of two"),
    Entry(67, "grey", "tone", "tone: contrast, brightness, gamma"),
    Entry(76, "grey", "blur", "blur"),
    Entry(80, "grey", "sharpen", "sharpen"),
    Entry(89, "grey", "noise", "noise: independent"),
    Entry(91, "grey", "clouds", "clouds: correlated noise"),
    Entry(97, "grey", "sections", "sections: each another contrast"),
    Entry(106, "grey", "missing", "missing: blank, or the one before"),
    Entry(113, "grey", "holes", "holes: blank rectangles"),
    Entry(117, "grey", "noisy_boxes", "noisy_boxes: a box of much noise"),
    Entry(123, "defects", "lost_parts", "lost_parts: bands of one grey", (("lost_parts_px", 12),)),
    Entry(126, "defects", "motion_blur", "motion_blur: along y or x"),
    Entry(137, "defects", "cut_blur", "cut_blur: a box of coarser pixels"),
    Entry(142, "defects", "cut_noise", "cut_noise: a box of noise"),
    Entry(148, "defects", "thickness", "thickness: sections not evenly spaced"),
    Entry(150, "defects", "contrast_jump", "contrast_jump: from one section on"),
    Entry(156, "defects", "charging", "charging: bright or dark bands"),
    Entry(164, "copy_paste", "share", "copy-paste: instances copied to touch others"),
)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", help="a volume in any form; simulated EM by default")
    parser.add_argument("--labels", help="its instances")
    parser.add_argument("--voxel-size", metavar="Z,Y,X", help="nm, where the image does not say")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "images/augmentation.jpg"
    )
    options = parser.parse_args()
    size = options.voxel_size and tuple(map(float, options.voxel_size.split(",")))
    simulated = None
    if options.image is None:
        looks = {"mitochondria_grey": 105.0, "noise": 7.0, "look_variation": 0.3}
        simulated = SimulationConfig(
            (20, 320, 320), seed=20279, mitochondria_fraction=0.09, touching_share=0.5, **looks
        )
    sample = Sample("em", options.image, options.labels, voxel_size_nm=size, simulate=simulated)
    source = prepare_source(open_sample(sample))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(jpeg(page(source), QUALITY))


def page(source: Source) -> np.ndarray:
    """The whole picture: (rows, columns, 3)."""
    corner = busiest_place(source)
    plain = patch_of(source, corner, STILL, 0)
    strips = [("as it is", strip(*plain, PATCH[0] // 2 - SHOWN // 2))]
    for entry in ENTRIES:
        image, labels = changed(source, corner, entry)
        strips.append((entry.text, strip(image, labels, most_changed(image, plain[0]))))
    height, width = strips[0][1].shape[:2]
    rows = -(-len(strips) // COLUMNS)
    figure = new_figure(
        COLUMNS * (width + GAP) - GAP, rows * (height + WRITING + GAP) - GAP, "white"
    )
    for i, (text, picture) in enumerate(strips):
        left, top = i % COLUMNS * (width + GAP), i // COLUMNS * (height + WRITING + GAP)
        axes = add_picture(figure, picture, left, top + WRITING)
        axes.text(0, -5, text, fontsize=12, color="black", clip_on=False)
    return pixels(figure)


def changed(source, corner, entry):
    """Image and labels of the patch at a place, with one augmentation."""
    own = {**dict(entry.own), **({} if entry.share in dict(entry.own) else {entry.share: 1.0})}
    if entry.share == "flip":
        own["flip"] = True
    config = replace(STILL, **{entry.part: replace(getattr(STILL, entry.part), **own)})
    if entry.share == "thick_sections":
        opened = source.opened
        thick = replace(opened, sample=replace(opened.sample, z_steps=(2,)))
        source = replace(source, opened=thick)
    return patch_of(source, corner, config, entry.draw)


def patch_of(source, corner, config, seed):
    """Image and labels of the patch at a place, changed as the configuration says."""
    uniform = SamplingConfig(1.0, 0.0, 0.0)
    working = (None, None, None)
    streams = [random_stream(seed, 0, stream) for stream in range(4)]
    plan = plan_patch([source], PATCH, working, uniform, config.geometry, streams[0])
    centre = tuple(c + n / 2 for c, n in zip(corner[1:], PATCH[1:], strict=True))
    # all patches lie in one place, so that they can be compared
    sections = plan.sections - plan.sections.min() + corner[0]
    plan = replace(plan, sections=sections, warp=replace(plan.warp, centre=centre))
    image, labels, _ = read_patch(source, plan, PATCH, "window")
    pasted, ids = copy_paste_touching(image.numpy(), labels.numpy(), config.copy_paste, streams[1])
    stack = torch.from_numpy(pasted)[None]
    stack = apply_defects(stack, [draw_defects(PATCH, config.defects, streams[2])])
    return apply_grey(stack, [draw_grey(PATCH, config.grey, streams[3])])[0].numpy(), ids


def busiest_place(source):
    """First voxel of the patch with most instances, away from the border."""
    labels = source.opened.labels
    room = [max(1, n - 2 * e) for n, e in zip(labels.shape, PATCH, strict=True)]
    low = [(n - r) // 2 for n, r in zip(labels.shape, room, strict=True)]
    low[0], room[0] = max(0, labels.shape[0] // 2 - PATCH[0]), 1
    array = labels.read()
    places = [
        (low[0], y, x)
        for y in range(low[1], low[1] + min(room[1], labels.shape[1] - PATCH[1]), 16)
        for x in range(low[2], low[2] + min(room[2], labels.shape[2] - PATCH[2]), 16)
    ]

    def instances(place):
        box = tuple(slice(a, a + n) for a, n in zip(place, PATCH, strict=True))
        return len(np.unique(array[box])), int(np.count_nonzero(array[box]))

    return max(places, key=instances)


def most_changed(image, plain):
    """First of the sections shown: in the middle, or where one section changed unlike others."""
    change = np.abs(image - plain).mean(axis=(1, 2))
    middle = PATCH[0] // 2 - SHOWN // 2
    if change.max() < 1.5 * np.median(change):
        return middle
    return int(np.clip(np.argmax(change) - 1, 0, PATCH[0] - SHOWN))


def strip(image, labels, first):
    """Consecutive sections beside one another, instances outlined: (rows, columns, 3)."""
    grey = np.rint((image[first : first + SHOWN] + 1) * 127.5).clip(0, 255).astype(np.uint8)
    ids = labels[first : first + SHOWN]
    colours = np.repeat(grey[..., None], 3, axis=3)
    inner = ids > 0
    for axis in (1, 2):
        for step in (-1, 1):
            inner &= np.roll(ids, step, axis) == ids
    colours[(ids > 0) & ~inner] = OUTLINE
    gap = np.full((PATCH[1], GAP, 3), 255, np.uint8)
    return np.concatenate([part for plane in colours for part in (plane, gap)][:-1], axis=1)


if __name__ == "__main__":
    main()
