"""What the benchmarks of segmentation share: the floor, and where the time goes.

The floor reads the prediction and writes the labels with nothing in between: the same boxes are
read by the same reader, the same shards written with the same codec and workers, by the writer of
whole arrays. Segmentation knows from its runs which chunks are empty, and writes only the others.
"""

import time
from contextlib import contextmanager

from cristae.engine import tasks
from cristae.segmentation.reading import layers_of


def copy_block(prediction, copy, box, labels):
    """Read the prediction of a shard as `segment_volume` reads it, and write the shard's labels."""
    for layer in layers_of(prediction, box):
        prediction.read(layer)
    copy.write(box, labels)


@contextmanager
def watched():
    """Gives {stage: seconds} of all work whose progress is shown; filled when it ends."""
    stages = {}

    def make(real):
        @contextmanager
        def track(description, *args):
            start = time.perf_counter()
            with real(description, *args) as advance:
                yield advance
            seconds = time.perf_counter() - start
            name = "pyramid" if description.startswith("pyramid") else description
            stages[name] = stages.get(name, 0.0) + seconds

        return track

    real = tasks.track
    tasks.track = make(real)
    try:
        yield stages
    finally:
        tasks.track = real


def timed(run):
    """Call a function: its seconds without pyramids, those of pyramids, and those of each stage."""
    start = time.perf_counter()
    with watched() as stages:
        run()
    whole = time.perf_counter() - start
    pyramid = stages.pop("pyramid", 0.0)
    stages["between them"] = whole - pyramid - sum(stages.values())
    return {"seconds": whole - pyramid, "pyramid": pyramid, "stages": stages}


def print_stages(found):
    """Print the seconds and the share of every stage."""
    for name, seconds in found["stages"].items():
        print(f"   {name:12} {seconds:8.2f} s   {100 * seconds / found['seconds']:5.1f} %")
