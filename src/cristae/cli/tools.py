"""What helps before, between and after the stages."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from cristae.cli.options import (
    AlignOption,
    AxesOption,
    BlockWork,
    Config,
    Device,
    Ensemble,
    Index,
    Invert,
    Messages,
    ModelName,
    NanOption,
    Overwrite,
    Prediction,
    PytcConfigs,
    Reading,
    Roi,
    Root,
    SameSource,
    Series,
    Set,
    Source,
    VoxelSize,
    WorkOptions,
    as_yaml,
    in_roi,
    load_models,
    open_labels,
    open_source,
    refuse_given,
    settings_given,
    under_roi,
    without_fill,
)
from cristae.cli.settings import ConfigFile, stage_config
from cristae.errors import ConfigError, InputError


def demo(
    work: WorkOptions,
    out: Annotated[Path, typer.Option(help="the run folder to make")] = Path("cristae-demo"),
    overwrite: Overwrite = False,
) -> None:
    """Simulate a volume, find its mitochondria with the shipped weights, score and picture them."""
    work.start()
    from cristae.demo import run_demo

    result = run_demo(out, resources=work.resources(), overwrite=overwrite)
    typer.echo(result.text)
    typer.echo(str(result.report))


def info(
    source: Source,
    messages: Messages,
    voxel_size: VoxelSize = None,
    roi: Roi = None,
    nan: NanOption = None,
    root: Root = None,
    index: Index = None,
    axes: AxesOption = None,
    series: Series = None,
) -> None:
    """Print what a source is: shape, type, chunks, voxel size, size on disk, intensities.

    Of a folder of the MitoEM data set, its splits and how to open each.
    """
    messages.start()
    reading = Reading(
        voxel_size=voxel_size, nan=nan, roi=roi, root=root, index=index, axes=axes, series=series
    )
    from cristae.samples.mitoem import find_mitoem
    from cristae.volumes.info import describe

    data_set = find_mitoem(source)
    if data_set is not None:
        unfit = {"--voxel-size": voxel_size, "--roi": roi, "--root": root, "--index": index}
        unfit["--nan"] = nan
        refuse_given(unfit, f"for a volume, found a data set of several in {source}")
        typer.echo(data_set.text)
        return
    typer.echo(describe(open_source(source, reading, unfinished=True)).text)


def check(
    image: Annotated[Path, typer.Argument(metavar="IMAGE.zarr", help="a finished output")],
    work: WorkOptions,
    repair: Annotated[
        bool, typer.Option("--repair", help="remove what is damaged, for its stage to make again")
    ] = False,
) -> None:
    """Read all of an image that cristae made, every level, and name what cannot be read.

    With `--repair` the image counts as unfinished where it is damaged: the command that made it,
    given again, makes these shards and no others.
    """
    work.start()
    from cristae.engine.progress import log
    from cristae.volumes.check import check_image, repair_image

    damages = check_image(image, resources=work.resources())
    if not damages:
        log.info("check: %s: everything can be read", image)
        return
    lines = [f"  - level {d.level}, box {d.box}: {d.file}: {d.fault}" for d in damages]
    text = "\n".join([f"{image}: {len(damages)} shards are damaged", *lines])
    if not repair:
        raise InputError(f"{text}\n`cristae check --repair` lets its stage make them again")
    repair_image(image, damages)
    log.warning("%s\nremoved: give the command that made it again, to make these anew", text)


def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="for volume.zarr and truth.zarr")],
    work: WorkOptions,
    config: ConfigFile = None,
    settings: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Simulate EM with known instances (`--set shape=[32,512,512] --set seed=7 ...`)."""
    work.start()
    from cristae.simulation.simulate import SimulationConfig, simulate_volume
    from cristae.volumes.convert import check_convert, convert_volume

    image, truth = simulate_volume(stage_config(SimulationConfig, "simulate", config, {}, settings))
    resources = work.resources()
    # the second output is checked before the first one is begun, which checks itself
    check_convert(truth, out / "truth.zarr", resources=resources, overwrite=overwrite)
    convert_volume(image, out / "volume.zarr", resources=resources, overwrite=overwrite)
    convert_volume(truth, out / "truth.zarr", resources=resources, overwrite=overwrite)


def import_config(
    configs: Annotated[
        list[Path], typer.Argument(metavar="BASE.yaml [OVERRIDE.yaml ...]", help="later override")
    ],
    messages: Messages,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="of MitoEM: train on its splits; may be repeated"),
    ] = None,
    network: Annotated[
        Literal["own", "pytc"], typer.Option(help="cristae's network, or the recipe's")
    ] = "own",
    out: Annotated[
        Path | None, typer.Option(metavar="OUT.yaml", help="write it there, not on the screen")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a training configuration of PyTorch Connectomics v1 into one of cristae."""
    messages.start()
    from cristae.engine.outputs import write_text_output
    from cristae.training.import_config import import_pytc_config

    imported = import_pytc_config(configs, data or (), network)
    for line in imported.not_carried:
        typer.echo(f"not carried over: {line}", err=True)
    text = as_yaml(imported.tree)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text_output(out, text, "import-config", overwrite=overwrite, reads=configs)


def plan(
    config: Config,
    work: WorkOptions,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT.yaml", help="write the filled configuration there")
    ] = None,
    settings: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Propose what a configuration leaves open, and say what every stage will take."""
    work.start()
    from cristae.configuration import load_tree
    from cristae.engine.outputs import write_text_output
    from cristae.plan import plan_run

    found = plan_run(load_tree(config, settings or []), str(config), work.resources())
    typer.echo(found.text)
    if out is not None:
        text = as_yaml(found.tree)
        write_text_output(out, text, "plan", overwrite=overwrite, reads=[config])


def models() -> None:
    """List the weights that come with cristae, with their cards."""
    from cristae.networks.shipped import model_card, named_models

    for name, path in named_models().items():
        typer.echo(f"{name}\n{path}\n\n{model_card(name)}")


def average(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="two or more")],
    out: Annotated[Path, typer.Option("--out", metavar="MODEL.pt", help="the model to write")],
    overwrite: Overwrite = False,
) -> None:
    """Write the mean of the weights of models that continue one another's training."""
    from cristae.engine.outputs import write_output
    from cristae.networks.average import average_models
    from cristae.networks.model import load_model, save_model

    found = [load_model(name) for name in models]
    content = " ".join(model.fingerprint for model in found)
    write_output(
        out,
        lambda: save_model(average_models(found), out),
        "average",
        content,
        overwrite=overwrite,
        reads=models,
    )
    typer.echo(str(out))


def preview(
    source: Source,
    model: ModelName,
    reading: Reading,
    work: WorkOptions,
    out: Annotated[Path, typer.Argument(metavar="PAGE.html", help="the page to write")] = Path(
        "preview.html"
    ),
    n: Annotated[int, typer.Option("--n", min=1, max=1000, help="places to look at")] = 6,
    pytc_config: PytcConfigs = None,
    ensemble: Ensemble = None,
    invert: Invert = False,
    device: Device = None,
    config: ConfigFile = None,
    settings: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Look at a few places before a whole volume is predicted: one page, about a minute."""
    work.start()
    from cristae.prediction.predict import PredictConfig
    from cristae.report.preview import preview_volume

    given = settings_given(invert=invert, device=device)
    page = preview_volume(
        open_source(source, reading),
        load_models(model, ensemble, pytc_config),
        out,
        places=n,
        config=stage_config(PredictConfig, "predict", config, given, settings),
        resources=work.resources(),
        overwrite=overwrite,
    )
    typer.echo(str(page))


def tune(
    prediction: Prediction,
    reading: Reading,
    work: WorkOptions,
    truth: Annotated[
        str | None, typer.Argument(help="the true instances; without, only what changes is shown")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="the folder to write")] = Path("tuned"),
    image: Annotated[str | None, typer.Option(help="grey values for the pictures")] = None,
    score: Annotated[
        str | None, typer.Option(help="ap_75, accuracy_75, ... or keys of scores.json: a/b/c")
    ] = None,
    decoder: Annotated[str | None, typer.Option(help="the model's own by default")] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="put the best into this model file")
    ] = None,
    align: AlignOption = "origin",
    config: ConfigFile = None,
    settings: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Search decoder thresholds (`--set grid.seed_threshold=[0.85,0.9] --set segment....`)."""
    work.start()
    from cristae.engine.records import changing_output
    from cristae.networks.model import load_model
    from cristae.networks.retune import retune_model
    from cristae.report.tuning import read_tuned, tune_volume
    from cristae.tuning.tune import TuneConfig

    if write is not None:
        if truth is None:
            raise ConfigError(f"--write {write}: needs a TRUTH to know which setting is best")
        load_model(write)  # found unfit now rather than after the search
    # beside what a file says of the segmentation
    chosen = [] if decoder is None else [f"segment.decoder={json.dumps(decoder)}"]
    given = settings_given(score=score)
    tuning = stage_config(TuneConfig, "tune", config, given, [*chosen, *(settings or [])])
    if align != "origin":
        tuning = replace(tuning, evaluate=replace(tuning.evaluate, align=align))
    everywhere = replace(reading, roi=None)
    whole = open_source(prediction, without_fill(everywhere))
    under = partial(under_roi, whole, roi=reading.roi, align=tuning.evaluate.align, crop=True)
    volume = in_roi(whole, reading.roi)
    tuned = tune_volume(
        volume,
        under(open_labels(truth, everywhere)) if truth else None,
        out,
        image=under(open_source(image, everywhere)) if image else None,
        config=tuning,
        resources=work.resources(),
        overwrite=overwrite,
    )
    if write is not None:
        name, thresholds = read_tuned(tuned)
        with changing_output(write):
            retune_model(write, name, thresholds, volume.voxel_size_nm)
    typer.echo(tuned.read_text().rstrip() if truth else str(tuned))


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders")],
    messages: Messages,
    score: Annotated[
        list[str] | None,
        typer.Option(help="ap_75, accuracy_75, ... or keys of scores.json; may be repeated"),
    ] = None,
    by: Annotated[
        Literal["pool", "sample"], typer.Option(help="all samples together, or each")
    ] = "pool",
    out: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help=".md, .tex or .html; may be repeated"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Put runs side by side: model and post-processing against scores by size."""
    messages.start()
    from cristae.evaluation.compare import compare_runs, write_comparisons
    from cristae.evaluation.comparison import markdown

    found = compare_runs(runs, score or ("ap_75", "accuracy_75"), by)
    write_comparisons(found, out or (), overwrite=overwrite)
    typer.echo(markdown(found).rstrip())


def submit(
    work: BlockWork,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT.zip", help="the submission to write")
    ] = None,
    human: Annotated[
        str | None, typer.Option(metavar="INSTANCES", help="of MitoEM-H, slices 500-999")
    ] = None,
    rat: Annotated[
        str | None, typer.Option(metavar="INSTANCES", help="of MitoEM-R, slices 500-999")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="FILE.zip", help="look at a submission that is there")
    ] = None,
    roi: Roi = None,
    axes: AxesOption = None,
    series: Series = None,
    overwrite: Overwrite = False,
    same_source: SameSource = False,
) -> None:
    """Write a submission to the MitoEM challenge, or check one."""
    work.start()
    reading = Reading(roi=roi, axes=axes, series=series, same_source=same_source)
    from cristae.challenge import check_submission, submission_text, submit_instances

    resources = work.resources()
    if check is not None:
        if out is not None or human is not None or rat is not None:
            raise ConfigError(f"--check {check}: expected alone, without --human, --rat and OUT")
        typer.echo(submission_text(check_submission(check, resources)))
        return
    if out is None or human is None or rat is None:
        raise ConfigError("submit: expected --human, --rat and OUT.zip, or --check FILE.zip")
    one, two = (open_labels(source, reading) for source in (human, rat))
    typer.echo(str(submit_instances(one, two, out, resources=resources, overwrite=overwrite)))
