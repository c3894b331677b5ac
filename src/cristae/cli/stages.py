"""The stages of the straight line, each alone, and all of them at once."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cristae.cli.options import (
    AlignOption,
    AxesOption,
    BlockWork,
    Config,
    Device,
    Ensemble,
    Invert,
    KindOption,
    Messages,
    ModelName,
    NanOption,
    NoPyramid,
    OutZarr,
    Overwrite,
    Prediction,
    PytcConfigs,
    Reading,
    Roi,
    SameSource,
    Series,
    Set,
    Source,
    VoxelSize,
    Workers,
    WorkOptions,
    in_roi,
    integers,
    load_models,
    nan_of,
    numbers,
    open_labels,
    open_source,
    refuse_given,
    settings_given,
    under_roi,
    without_fill,
)
from cristae.cli.settings import ConfigFile, stage_config
from cristae.errors import ConfigError


def run(
    source: Annotated[str, typer.Argument(metavar="CONFIG.yaml|SOURCE")],
    work: WorkOptions,
    run_dir: Annotated[Path | None, typer.Argument(help="with SOURCE: the folder to make")] = None,
    model: Annotated[str | None, typer.Option(help="with SOURCE: name or file of a model")] = None,
    truth: Annotated[str | None, typer.Option(help="with SOURCE: the true instances")] = None,
    voxel_size: VoxelSize = None,
    roi: Roi = None,
    nan: NanOption = None,
    axes: AxesOption = None,
    series: Series = None,
    align: AlignOption = "origin",
    device: Device = None,
    settings: Set = None,
    overwrite: Annotated[
        str | None, typer.Option(metavar="STAGE", help="redo this stage and those after it")
    ] = None,
    same_source: SameSource = False,
) -> None:
    """Do everything: from a configuration, or from a source and a model."""
    work.start()
    from cristae.configuration import load_config
    from cristae.pipeline import RunConfig, Running
    from cristae.pipeline import run as run_stages

    config_file = source.endswith((".yaml", ".yml"))
    if config_file:
        unfit = {"RUN_DIR": run_dir, "--model": model, "--truth": truth, "--roi": roi}
        unfit |= {"--voxel-size": voxel_size, "--axes": axes, "--series": series, "--nan": nan}
        unfit["--align"] = None if align == "origin" else align
        refuse_given(unfit, f"for a run of a SOURCE; use --set with {source}")
    elif run_dir is None or model is None:
        raise ConfigError("a run of a SOURCE needs RUN_DIR and --model (or give a CONFIG.yaml)")
    tree: Any = source
    if not config_file:
        sample = {
            "name": "volume",
            "image": source,
            "labels": truth,
            "group": "test",
            "roi": roi,
            "voxel_size_nm": numbers("--voxel-size", voxel_size),
            "axes": axes,
            "series": series,
            "align": align,
            "nan": nan_of(nan),
        }
        tree = {"volumes": [sample], "out": str(run_dir), "model": model}
    computing = [] if device is None else [f"predict.device={device}"]
    config = load_config(RunConfig, tree, (settings or []) + computing)
    command = " ".join(["cristae", *sys.argv[1:]])
    running = Running(work.resources(), overwrite, command, same_source)
    typer.echo(str(run_stages(config, running)))


def convert(
    source: Source,
    out: OutZarr,
    reading: Reading,
    work: BlockWork,
    kind: KindOption = None,
    no_pyramid: NoPyramid = False,
    overwrite: Overwrite = False,
) -> None:
    """Stream a source of any form and size into sharded OME-Zarr with a pyramid."""
    work.start()
    from cristae.volumes.convert import convert_volume

    convert_volume(
        open_source(source, reading, kind),
        out,
        kind=kind,
        pyramid=not no_pyramid,
        resources=work.resources(),
        overwrite=overwrite,
    )


def train(
    config: Config,
    messages: Messages,
    out: Annotated[
        Path | None, typer.Option(help="the model file; OUT/model.pt by default")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="start from these weights")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="GPUs, or processes on a CPU, that share each batch")
    ] = None,
    settings: Set = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    same_source: SameSource = False,
) -> None:
    """Train a network on the volumes of a configuration."""
    messages.start()
    from cristae.configuration import load_config
    from cristae.pipeline import RunConfig
    from cristae.runfolder import RunFolder
    from cristae.training.train import train_model

    run_config = load_config(RunConfig, config, settings or [])
    if run_config.train is None:
        raise ConfigError(f"{config}: train is null, expected how to train")
    train_config = run_config.train
    if devices is not None:
        train_config = replace(train_config, devices=devices)
    train_model(
        train_config,
        run_config.volumes,
        out or RunFolder(Path(run_config.out)).model,
        start_from=start_from,
        threads=workers,
        overwrite=overwrite,
        same_source=same_source,
    )


def predict(
    source: Source,
    model: ModelName,
    out: OutZarr,
    reading: Reading,
    work: BlockWork,
    pytc_config: PytcConfigs = None,
    invert: Invert = False,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        typer.Option(help="auto by default; float32 for a PyTC checkpoint"),
    ] = None,
    device: Device = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="truncate 255 p as PyTC does, not round it")
    ] = False,
    ensemble: Ensemble = None,
    mask: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="where there is tissue; 0 elsewhere")
    ] = None,
    align: AlignOption = "origin",
    grid: Annotated[
        Literal["source", "working"] | None,
        typer.Option(help="voxels of the output: the source's (default) or the model's"),
    ] = None,
    skip_empty: Annotated[
        bool, typer.Option("--skip-empty", help="leave out what a coarse pass sees nothing in")
    ] = False,
    chunks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write PyTC's result_*.h5 files as well")
    ] = None,
    config: ConfigFile = None,
    settings: Set = None,
    block_shape: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="voxels a pass; not for PyTC checkpoints")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Run a volume of any size through a network."""
    work.start()
    from cristae.prediction.predict import PredictConfig, predict_volume

    given = settings_given(
        invert=invert,
        precision=precision,
        device=device,
        truncate=truncate,
        grid=grid,
        skip_empty=skip_empty,
    )
    everywhere = replace(reading, roi=None)
    whole = open_source(source, everywhere)
    of_mask = replace(everywhere, voxel_size=None, index=None, root=None)
    tissue = None if mask is None else open_source(mask, without_fill(of_mask))
    predict_volume(
        in_roi(whole, reading.roi),
        load_models(model, ensemble, pytc_config),
        out,
        config=stage_config(PredictConfig, "predict", config, given, settings),
        mask=None if tissue is None else under_roi(whole, tissue, reading.roi, align),
        align=align,
        block_shape=integers("--block-shape", block_shape),
        resources=work.resources(),
        overwrite=overwrite,
        chunks=chunks,
    )


def segment(
    prediction: Prediction,
    out: OutZarr,
    reading: Reading,
    work: BlockWork,
    decoder: Annotated[
        str | None, typer.Option(help="the model's own by default; `mitoem` is a preset")
    ] = None,
    config: ConfigFile = None,
    settings: Set = None,
    block_shape: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="voxels read at a time")
    ] = None,
    allow_approximate: Annotated[
        bool,
        typer.Option(
            "--allow-approximate", help="cut a component too large for memory, and flag its pieces"
        ),
    ] = False,
    no_pyramid: NoPyramid = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn a prediction of any size into instances, exactly."""
    work.start()
    from cristae.segmentation.config import SegmentConfig
    from cristae.segmentation.segment import segment_volume

    given = settings_given(decoder=decoder, allow_approximate=allow_approximate)
    segment_volume(
        open_source(prediction, without_fill(reading)),
        out,
        config=stage_config(SegmentConfig, "segment", config, given, settings),
        block_shape=integers("--block-shape", block_shape),
        pyramid=not no_pyramid,
        resources=work.resources(),
        overwrite=overwrite,
    )


def evaluate(
    instances: Annotated[str, typer.Argument(help="the instances found")],
    truth: Annotated[str, typer.Argument(help="the true instances")],
    reading: Reading,
    work: BlockWork,
    scores: Annotated[
        str | None,
        typer.Option(help="prediction whose mean ranks the instances, or a table instance,score"),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="OUT.json", help="write the scores")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="DIR", help="write the match tables")] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="voxels where it is 0 are left out")
    ] = None,
    scores_channel: Annotated[
        int | None, typer.Option(min=0, help="channel of --scores; the mean of all by default")
    ] = None,
    categories: Annotated[
        Literal["cable_length", "volume", "none"] | None,
        typer.Option(help="what counts are told apart by; cable_length by default"),
    ] = None,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="every connected part of an id is an instance")
    ] = False,
    crop: Annotated[
        bool, typer.Option("--crop", help="compare the common part of volumes that differ")
    ] = False,
    align: AlignOption = "origin",
    config: ConfigFile = None,
    settings: Set = None,
    block_shape: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="voxels read at a time, not run tables")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Score instances against the truth."""
    work.start()
    from cristae.evaluation.evaluate import (
        EvaluateConfig,
        ScoreFiles,
        evaluate_volume,
        format_scores,
        read_scores,
        refuse_tables,
        score_instances,
        write_tables,
    )

    given = settings_given(
        score_channel=scores_channel,
        categories=categories,
        relabel=relabel,
        crop=crop,
        align=None if align == "origin" else align,
    )
    scoring = stage_config(EvaluateConfig, "evaluate", config, given, settings)
    everywhere = replace(reading, roi=None)
    whole = open_labels(instances, everywhere)
    under = partial(under_roi, whole, roi=reading.roi, align=scoring.align, crop=True)
    true = under(open_labels(truth, everywhere))
    found, ranking = in_roi(whole, reading.roi), None
    if scores:
        is_table = Path(scores).suffix == ".csv"
        image = None if is_table else open_source(scores, without_fill(everywhere))
        ranking = read_scores(Path(scores)) if image is None else under(image)
    options: dict[str, Any] = {
        "scores": ranking,
        "mask": under(open_source(mask, without_fill(everywhere))) if mask else None,
        "config": scoring,
        "block_shape": integers("--block-shape", block_shape),
        "resources": work.resources(),
    }
    if json is None:
        if csv is not None:
            refuse_tables(csv, overwrite)
        result = score_instances(found, true, **options)
        if csv is not None:
            write_tables(result, csv)
    else:
        result = evaluate_volume(found, true, ScoreFiles(json, csv, overwrite), **options)
    typer.echo(format_scores(result))


def measure(
    instances: Annotated[str, typer.Argument(help="the instances")],
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", help="the table to write")],
    reading: Reading,
    work: BlockWork,
    overwrite: Overwrite = False,
) -> None:
    """Measure every instance: volume, centroid, bounding box."""
    work.start()
    from cristae.measurement.measure import write_measurements

    write_measurements(
        open_labels(instances, reading),
        out,
        resources=work.resources(),
        overwrite=overwrite,
    )


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="a run folder")],
    messages: Messages,
) -> None:
    """Write the report of a run folder."""
    messages.start()
    from cristae.pipeline import report_run

    typer.echo(str(report_run(run_dir)))
