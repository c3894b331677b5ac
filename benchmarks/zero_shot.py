"""How good a model is on EM of a laboratory it never saw: one source is left out of the training.

A source is a laboratory's data (all volumes of ../shared/data whose names begin alike), or
simulated EM. A fold trains on the volumes that the configurations name, without those of one source
(neither learned from nor measured on), and is scored on all of that source. Several
configurations are stages: each starts from the weights of the one before. Thresholds are searched
at the end, on the validation volumes that are left; the left-out source has no part in them.

Printed is a Markdown table: foreground IoU, AP-50 and AP-75 over the instances of a source
together, ranked by size, AP-75 with its 95 % bootstrap interval over instances. Annotators end a
mitochondrion at different places, so each source is scored twice: against the labels as annotated,
and widened to the outer edge of the outer membrane, which is what the models learn. Pictures
of the worst places show the latter.

``--groups`` leaves out whole kinds of tissue (all sources of `unseen.GROUPS`), decodes with the
thresholds of the shipped weights, and scores as ``unseen.py`` does: F1 at IoU .5 on single sections
and stacks of four.

``--model`` scores finished weights on every volume, one row each, and says which of them the
model's card names as trained on. Everything lies below ``--out``: a killed run goes on where it
was, and FOLD.json is there as soon as a fold is scored. Without the data, only simulated EM is
left: then the training sees simulated EM of other seeds, which is no zero-shot figure.

    python benchmarks/zero_shot.py [--small] [--folds epfl ...] [--steps N ...] [--out DIR]
    python benchmarks/zero_shot.py --groups fly brain [--config ...] [--precision bfloat16]
    python benchmarks/zero_shot.py --model general [--volumes vnc_stack1 ...] [--out DIR]
"""

import argparse
import logging
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import unseen
from cristae.configuration import load_config, to_plain
from cristae.engine.executors import Resources, available_cores
from cristae.engine.files import write_atomic, write_json
from cristae.engine.progress import log_to_stderr
from cristae.errors import ConfigError, InputError, raise_faults
from cristae.evaluation.evaluate import EvaluateConfig, MatchTables, pool_scores, score_instances
from cristae.evaluation.tables import overlaps_of_tables
from cristae.networks.families.unet.network import UNetConfig
from cristae.networks.model import Model, load_model
from cristae.pipeline import RunConfig
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.report.error_gallery import ScoredVolumes, error_picture, locate
from cristae.report.errors import choose, find_errors
from cristae.report.pictures import PicturedVolumes, grey_window
from cristae.runfolder import SampleFolder
from cristae.samples.dataset import OpenedSample, Sample, open_sample
from cristae.samples.dilation import dilated_volume
from cristae.samples.held import load_samples
from cristae.segmentation.segment import segment_volume
from cristae.simulation.simulate import SimulationConfig
from cristae.training.train import TrainConfig, train_model

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
CONFIGS = ROOT / "configs"
STAGES = (CONFIGS / "general.yaml", CONFIGS / "general_touching.yaml")

SIMULATED = "simulated"
ANNOTATED, WIDENED, OUTER = "as annotated", "widened", "to the outer edge"

SCORED_SIMULATIONS = {
    "simulated_30x8x8": SimulationConfig((48, 512, 512), (30.0, 8.0, 8.0), 4001),
    "simulated_50x5x5": SimulationConfig((24, 640, 640), (50.0, 5.0, 5.0), 4002),
    "simulated_8x8x8": SimulationConfig((128, 320, 320), (8.0, 8.0, 8.0), 4003),
}
"""Seeds that no configuration trains on; looks as between laboratories."""

SMALL_ROI, SMALL_SHAPE = "0:6,256:448,256:448", (6, 192, 192)
SMALL_NETWORK = UNetConfig(widths=(8, 16), strides=((1, 2, 2),), z_kernel_levels=(1,))
SMALL_STEPS = 2
HELD_BYTES = 4 << 30

QUIET = EvaluateConfig(bootstrap_samples=0, categories="none")
POOLED = EvaluateConfig(categories="none")

HEAD = ("truth", "instances", "found", "foreground IoU", "AP-50", "AP-75 (95 %)")


@dataclass(frozen=True)
class Stage:
    """One training: its name, its samples, how it trains."""

    name: str
    samples: tuple[Sample, ...]
    train: TrainConfig


@dataclass(frozen=True)
class Setting:
    """What all folds share.

    Attributes:
        out: Folder of everything that is written.
        resources: Workers.
        pictures: Of each volume.
    """

    out: Path
    resources: Resources
    pictures: int


def volume_of(sample: Sample) -> str:
    """Name of a sample's volume: that of its folder, or its own where it is simulated."""
    return sample.name if sample.image is None else Path(sample.image).parent.name


def source_of(sample: Sample) -> str:
    """Where a sample comes from: ``simulated``, or what its folder's name begins with."""
    return SIMULATED if sample.simulate else volume_of(sample).split("_")[0]


def read_stages(paths: Sequence[Path], data: Path, steps: Sequence[int]) -> list[Stage]:
    """The stages of some configurations, their volumes looked for in ``data``.

    Without that folder the simulated samples are all there are.

    Raises:
        ConfigError: A configuration that does not train, or not one number of steps for each.
    """
    if steps and len(steps) != len(paths):
        raise ConfigError(f"--steps {list(steps)}: expected {len(paths)} numbers, one a --config")
    stages = []
    for i, path in enumerate(paths):
        config = load_config(RunConfig, path)
        if config.train is None:
            raise ConfigError(f"{path}: train is null, expected how to train")
        train = replace(config.train, steps=steps[i]) if steps else config.train
        samples = [relocated(sample, data) for sample in config.volumes]
        if not data.is_dir():
            samples = [sample for sample in samples if sample.simulate]
        stages.append(Stage(path.stem, tuple(samples), train))
    return stages


def relocated(sample: Sample, data: Path) -> Sample:
    """The same sample in another folder of data."""
    if sample.image is None:
        return sample
    places = {
        role: str(data / Path(source).parent.name / Path(source).name)
        for role in ("image", "labels", "mask")
        if (source := getattr(sample, role)) is not None
    }
    return replace(sample, **places)


def small_stage(stage: Stage) -> Stage:
    """A tiny network on one simulated and on cropped real volumes."""
    samples = [small_sample(sample) for sample in stage.samples if not sample.simulate]
    for group in ("train", "validation"):
        simulated = [s for s in stage.samples if s.simulate and s.group == group]
        samples += [small_sample(sample) for sample in simulated[:1]]
    train = replace(
        stage.train,
        batch=1,
        patch=(4, 64, 64),
        network=SMALL_NETWORK,
        validation_patches=1,
        validate_ap_box=(4, 64, 64),
        calibration_batches=2,
    )
    return replace(stage, samples=tuple(samples), train=train)


def small_sample(sample: Sample) -> Sample:
    if sample.simulate is None:
        return replace(sample, roi=SMALL_ROI)
    return replace(sample, simulate=replace(sample.simulate, shape=SMALL_SHAPE))


def scored_samples(stages: Iterable[Stage], small: bool) -> dict[str, Sample]:
    """The volumes to score on, by name: each real one once, and simulated ones of other seeds."""
    real = {volume_of(s): s for stage in stages for s in stage.samples if not s.simulate}
    simulated = {n: Sample(name=n, simulate=c) for n, c in SCORED_SIMULATIONS.items()}
    if small:
        first, sample = next(iter(simulated.items()))
        simulated = {first: small_sample(sample)}
    return {**dict(sorted(real.items())), **simulated}


def train_fold(
    left_out: Sequence[str],
    stages: Sequence[Stage],
    folder: Path,
    threads: int,
    tune: bool = True,
) -> Model:
    """The model of the last stage, trained without some sources."""
    start: Path | None = None
    seen: set[str] = set()
    for stage in stages:
        samples = [s for s in stage.samples if source_of(s) not in left_out]
        seen |= {volume_of(s) for s in samples if s.group == "train"}
        card = {"data": ", ".join(sorted(seen)), "left_out": ", ".join(left_out) or "nothing"}
        train = replace(stage.train, card=card, tune=tune and stage is stages[-1])
        out = folder / f"{stage.name}.pt"
        model = train_model(train, samples, out, start_from=start, threads=threads)
        start = out
    return model


def trained_volumes(model: Model) -> set[str] | None:
    """Volumes that a model's card names as learned from; None where it does not say.

    The card lists ``volumes``, or it names the configurations of its stages in ``trained_on``;
    those are looked for beside `STAGES`. Simulated volumes count as ``simulated``.
    """
    samples: list[Sample] = []
    if listed := model.card.get("volumes"):
        samples = [load_config(Sample, tree) for tree in listed]
    names = re.findall(r"[\w.-]+\.yaml", str(model.card.get("trained_on", "")))
    for path in [CONFIGS / name for name in names]:
        if not listed and path.is_file():
            volumes = load_config(RunConfig, path).volumes
            samples += [s for s in volumes if s.group == "train" and s.weight > 0]
    return {SIMULATED if s.simulate else volume_of(s) for s in samples} or None


def score_sample(
    sample: Sample, model: Model, group: str, setting: Setting
) -> dict[str, MatchTables]:
    """What became of every instance of a volume, by label convention; draws its worst places."""
    opened = load_samples([open_sample(replace(sample, label_dilation_nm=0))], HELD_BYTES)[0]
    name = volume_of(sample)
    # a network trained further leaves its earlier predictions alone
    folder = SampleFolder(setting.out / group / name / model.fingerprint)
    resources = setting.resources
    prediction = predict_volume(
        opened.image,
        model,
        folder.prediction,
        config=PredictConfig(invert=sample.invert),
        resources=resources,
    )
    found = segment_volume(prediction, folder.instances, pyramid=False, resources=resources)
    tables: dict[str, MatchTables] = {}
    truth = opened.labels
    for convention, widening in conventions(sample):
        truth = dilated_volume(opened.labels, widening)
        scores = score_instances(found, truth, mask=opened.mask, config=QUIET, resources=resources)
        assert scores.tables is not None
        tables[convention] = scores.tables
    worst = replace(opened, labels=truth)
    draw_worst(worst, found, tables[convention], setting.out / "pictures" / group, setting.pictures)
    return tables


def conventions(sample: Sample) -> list[tuple[str, float]]:
    """(name, widening in nm) of the truths to score against, the widest last."""
    if sample.simulate:
        return [(OUTER, 0.0)]
    wide = [(WIDENED, sample.label_dilation_nm)] if sample.label_dilation_nm else []
    return [(ANNOTATED, 0.0), *wide]


def draw_worst(
    opened: OpenedSample, found: Any, tables: MatchTables, folder: Path, limit: int
) -> None:
    """Pictures of the places where most voxels are lost: truth solid blue, prediction broken."""
    scene = ScoredVolumes(opened.image, found, opened.labels)
    errors = choose(find_errors(overlaps_of_tables(tables)), limit)
    for i, error in enumerate(errors, 1):
        point = locate(scene, error)
        window = grey_window(PicturedVolumes(opened.image, found, opened.labels), point)
        picture = error_picture(scene, error, point, window)
        path = folder / f"{volume_of(opened.sample)}-{i}-{error.kind}.jpg"
        write_atomic(path, lambda file, picture=picture: file.write(picture))


def result_of(tables: dict[str, Sequence[MatchTables]], facts: dict[str, Any]) -> dict[str, Any]:
    """Facts and pooled scores, as they are written."""
    rows = {}
    for convention, each in tables.items():
        pooled = pool_scores(each, POOLED)
        rows[convention] = {
            "instances": sum(len(t.truth["truth"]) for t in each),
            "found": sum(len(t.prediction["instance"]) for t in each),
            **pooled.to_dict(),
        }
    return {**facts, "scores": rows}


def score_group(
    group: str, samples: Sequence[Sample], model: Model, setting: Setting, facts: dict[str, Any]
) -> dict[str, Any]:
    """Score some volumes together; the result is written at once."""
    found = [score_sample(sample, model, group, setting) for sample in samples]
    tables = {name: [each[name] for each in found] for name in found[0]}
    facts = {
        **facts,
        "volumes": [volume_of(sample) for sample in samples],
        "widened_nm": sorted({sample.label_dilation_nm for sample in samples}),
        "decoder": model.decoder,
        "thresholds": to_plain(model.thresholds),
    }
    result = result_of(tables, facts)
    write_json(setting.out / f"{group}.json", result)
    return result


def rows_of(name: str, result: dict[str, Any]) -> list[str]:
    """Lines of the table: one a label convention."""
    lines = []
    for convention, scores in result["scores"].items():
        truth = convention
        if convention == WIDENED:
            truth += " by " + ", ".join(f"{nm:g}" for nm in result["widened_nm"]) + " nm"
        precision, interval = scores["average_precision_coco"], scores["intervals"]["ap_75"]
        between = "" if interval is None else f" ({interval[0]:.2f}-{interval[1]:.2f})"
        cells = (
            name,
            truth,
            str(scores["instances"]),
            str(scores["found"]),
            figure(scores["voxel"]["foreground_iou"]),
            figure(precision["50"]),
            figure(precision["75"]) + between,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def figure(value: float | None) -> str:
    """``.768``; ``-`` where it is not defined."""
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def fold_rows(
    stages: Sequence[Stage], samples: dict[str, Sample], folds: Sequence[str], setting: Setting
) -> list[str]:
    """Train and score each fold."""
    lines = []
    for fold in folds:
        real = any(not s.simulate for stage in stages for s in stage.samples)
        workers = setting.resources.workers
        model = train_fold([fold] if real else [], stages, setting.out / fold, workers)
        facts = {
            "left_out": fold if real else None,
            "trained_on": model.card["data"],
            "steps": {stage.name: stage.train.steps for stage in stages},
        }
        scored = [sample for sample in samples.values() if source_of(sample) == fold]
        result = score_group(fold, scored, model, setting, facts)
        lines += rows_of(fold if real else f"{fold} (trained on it)", result)
        print(*lines[-len(result["scores"]) :], sep="\n", flush=True)
    return lines


def group_table(
    stages: Sequence[Stage], groups: Sequence[str], data: Path, setting: Setting
) -> str:
    """Train without each group and score it; thresholds are those of the shipped weights."""
    results = {}
    for group in groups:
        folder, workers = setting.out / group, setting.resources.workers
        model = train_fold(unseen.GROUPS[group], stages, folder, workers, tune=False)
        model = unseen.with_thresholds(model, load_model("general"))
        scoring = (data, unseen.SegmentConfig(), setting.resources)
        results |= unseen.score_groups([group], model, folder, scoring)
    return unseen.table_of(results)


def model_rows(name: str, samples: dict[str, Sample], setting: Setting) -> list[str]:
    """Score a finished model on each real volume, and on the simulated ones together."""
    model = load_model(name)
    trained = trained_volumes(model)
    groups: dict[str, list[Sample]] = {}
    for volume, sample in samples.items():
        groups.setdefault(SIMULATED if sample.simulate else volume, []).append(sample)
    lines = []
    for group, members in groups.items():
        known = "not said" if trained is None else "trained on" if group in trained else "unseen"
        facts = {"model": name, "fingerprint": model.fingerprint, "card": known}
        result = score_group(group, members, model, setting, facts)
        lines += rows_of(f"{group} ({known})", result)
        print(*lines[-len(result["scores"]) :], sep="\n", flush=True)
    return lines


def chosen(samples: dict[str, Sample], options: argparse.Namespace) -> dict[str, Sample]:
    """The samples asked for by source and by name.

    Raises:
        InputError: Names that are not there.
    """
    sources = {source_of(sample): None for sample in samples.values()}
    faults = [
        f"--{option} {name}: expected one of {', '.join(known)}"
        for option, known in (("folds", sources), ("volumes", samples))
        for name in getattr(options, option) or ()
        if name not in known
    ]
    raise_faults("zero_shot", faults, InputError)
    folds, volumes = options.folds or sources, options.volumes or samples
    return {n: s for n, s in samples.items() if source_of(s) in folds and n in volumes}


def measure(options: argparse.Namespace, out: Path) -> None:
    """All folds, or all volumes of a model; the table is printed and left in ``table.md``."""
    if not options.data.is_dir():
        print(
            f"{options.data}: not there; only simulated EM is scored, and what is trained for it "
            "saw simulated EM of other seeds"
        )
    small_steps = [SMALL_STEPS] * len(options.config) if options.small else ()
    stages = read_stages(options.config, options.data, options.steps or small_steps)
    if options.small:
        stages = [small_stage(stage) for stage in stages]
    if options.precision:
        stages = [
            replace(stage, train=replace(stage.train, precision=options.precision))
            for stage in stages
        ]
    setting = Setting(out, Resources(options.workers), options.pictures)
    if options.groups:
        text = group_table(stages, options.groups, options.data, setting)
        print(text, end="")
        write_atomic(out / "table.md", lambda file: file.write(text.encode()))
        return
    samples = chosen(scored_samples(stages, options.small), options)
    first = "volume" if options.model else "left out"
    head = ["| " + " | ".join((first, *HEAD)) + " |", "|" + "---|" * (len(HEAD) + 1)]
    print(*head, sep="\n", flush=True)
    if options.model:
        lines = model_rows(options.model, samples, setting)
    else:
        folds = list(dict.fromkeys(source_of(sample) for sample in samples.values()))
        lines = fold_rows(stages, samples, folds, setting)
    text = "\n".join([*head, *lines]) + "\n"
    write_atomic(out / "table.md", lambda file: file.write(text.encode()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a few steps, cropped volumes")
    parser.add_argument("--folds", nargs="+", metavar="SOURCE", help="sources to leave out")
    parser.add_argument("--groups", nargs="+", choices=list(unseen.GROUPS), help="left out whole")
    parser.add_argument("--volumes", nargs="+", metavar="NAME", help="score only these")
    parser.add_argument("--config", nargs="+", type=Path, default=STAGES, help="one a stage")
    parser.add_argument("--steps", nargs="+", type=int, metavar="N", help="one a stage")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="of the training")
    parser.add_argument("--model", help="score these weights, train nothing")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, help="runs/zero_shot; --small: a temporary folder")
    parser.add_argument("--pictures", type=int, default=4, help="of each volume")
    parser.add_argument("--workers", type=int, default=available_cores())
    options = parser.parse_args(arguments)
    if options.model and options.steps:
        parser.error("--steps: found with --model, expected with trainings only")
    if options.groups and (options.model or options.folds or options.volumes):
        parser.error("--groups: found with --model, --folds or --volumes, expected alone")
    if options.groups and not options.data.is_dir():
        parser.error(f"--groups: expected the data, {options.data} is not there")
    if options.out or not options.small:
        measure(options, options.out or ROOT / "runs" / "zero_shot")
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    log_to_stderr(logging.INFO)
    main()
