"""The command line: one subcommand a stage; parse, call, print.

Stages are imported inside the commands, so that ``cristae --help`` is quick.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cristae.errors import ConfigError, CristaeError, InputError, OutputExistsError

if TYPE_CHECKING:
    from cristae.engine.executors import Resources
    from cristae.networks.model import Model
    from cristae.volumes.volume import Volume

app = typer.Typer(
    help="Find every mitochondrion in electron-microscopy volumes, and measure each.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

Source = Annotated[str, typer.Argument(help="a volume in any form")]
OutZarr = Annotated[Path, typer.Argument(metavar="OUT.zarr", help="the folder to write")]
VoxelSize = Annotated[
    str | None,
    typer.Option("--voxel-size", metavar="Z,Y,X", help="nm; replaces what the source says"),
]
Roi = Annotated[str | None, typer.Option(metavar="z0:z1,y0:y1,x0:x1", help="only this part")]
KindOption = Annotated[
    Literal["image", "labels"] | None, typer.Option("--kind", help="what the voxels are")
]
Root = Annotated[
    Path | None, typer.Option(help="folder that relative paths of a tile index count from")
]
Index = Annotated[
    str | None, typer.Option(metavar="t=0,c=1", help="element of a time or channel axis")
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None,
    typer.Option(help="where networks compute; auto by default: GPUs (cuda) where there are any"),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting; may be repeated")
]
ModelName = Annotated[
    str, typer.Argument(help="a model file, a name that `models` lists, or a PyTC checkpoint")
]
PytcConfigs = Annotated[
    list[Path] | None,
    typer.Option(metavar="YAML", help="of a PyTC checkpoint; may be repeated, later override"),
]
Invert = Annotated[bool, typer.Option("--invert", help="for bright membranes")]
Ensemble = Annotated[
    list[str] | None,
    typer.Option("--ensemble", metavar="MODEL", help="one more model; outputs are combined"),
]
Workers = Annotated[int | None, typer.Option(min=1, help="tasks at a time; all cores by default")]
Memory = Annotated[
    float | None, typer.Option(metavar="GIB", help="memory to use; what is free by default")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an existing output")]
NoPyramid = Annotated[bool, typer.Option("--no-pyramid", help="full size only")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="warnings and errors only")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="tell more")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if version:
        from cristae import __version__

        typer.echo(f"cristae {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="the run folder to make")] = Path("cristae-demo"),
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Simulate a volume, find its mitochondria with the shipped weights, score and picture them."""
    _start_logging(quiet, verbose)
    from cristae.demo import run_demo

    result = run_demo(out, resources=_resources(workers, memory), overwrite=overwrite)
    typer.echo(result.text)
    typer.echo(str(result.report))


@app.command()
def info(
    source: Source,
    voxel_size: VoxelSize = None,
    roi: Roi = None,
    root: Root = None,
    index: Index = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Print what a source is: shape, type, chunks, voxel size, size on disk, intensities.

    Of a folder of the MitoEM data set, its splits and how to open each.
    """
    _start_logging(quiet, verbose)
    from cristae.volumes.info import describe
    from cristae.volumes.mitoem import find_mitoem

    data_set = find_mitoem(source)
    if data_set is not None:
        unfit = {"--voxel-size": voxel_size, "--roi": roi, "--root": root, "--index": index}
        if any(unfit.values()):
            names = ", ".join(name for name, value in unfit.items() if value)
            raise ConfigError(f"{names}: for a volume, found a data set of several in {source}")
        typer.echo(data_set.text)
        return
    typer.echo(describe(_open(source, voxel_size, roi, root=root, index=index)).text)


@app.command()
def convert(
    source: Source,
    out: OutZarr,
    voxel_size: VoxelSize = None,
    roi: Roi = None,
    kind: KindOption = None,
    root: Root = None,
    index: Index = None,
    no_pyramid: NoPyramid = False,
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Stream a source of any form and size into sharded OME-Zarr with a pyramid."""
    _start_logging(quiet, verbose)
    from cristae.volumes.convert import convert_volume

    convert_volume(
        _open(source, voxel_size, roi, root=root, index=index, kind=kind),
        out,
        kind=kind,
        pyramid=not no_pyramid,
        resources=_resources(workers, memory),
        overwrite=overwrite,
    )


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="for volume.zarr and truth.zarr")],
    settings: Set = None,
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Simulate EM with known instances (`--set shape=[32,512,512] --set seed=7 ...`)."""
    _start_logging(quiet, verbose)
    from cristae.configuration import load_config
    from cristae.volumes.convert import convert_volume
    from cristae.volumes.simulate import SimulationConfig, simulate_volume

    image, truth = simulate_volume(load_config(SimulationConfig, {}, settings or []))
    resources = _resources(workers, memory)
    convert_volume(image, out / "volume.zarr", resources=resources, overwrite=overwrite)
    convert_volume(truth, out / "truth.zarr", resources=resources, overwrite=overwrite)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml")],
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
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a network on the volumes of a configuration."""
    _start_logging(quiet, verbose)
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
    )


@app.command("import-config")
def import_config(
    configs: Annotated[
        list[Path], typer.Argument(metavar="BASE.yaml [OVERRIDE.yaml ...]", help="later override")
    ],
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
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn a training configuration of PyTorch Connectomics v1 into one of cristae."""
    _start_logging(quiet, verbose)
    import yaml

    from cristae.engine.files import write_atomic
    from cristae.training.import_config import import_pytc_config

    imported = import_pytc_config(configs, data or (), network)
    text = yaml.safe_dump(imported.tree, sort_keys=False, default_flow_style=None)
    for line in imported.not_carried:
        typer.echo(f"not carried over: {line}", err=True)
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.exists() and not overwrite:
        raise OutputExistsError(f"{out}: exists; --overwrite replaces it")
    write_atomic(out, lambda file: file.write(text.encode()))


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml")],
    out: Annotated[
        Path | None, typer.Option(metavar="OUT.yaml", help="write the filled configuration there")
    ] = None,
    settings: Set = None,
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Propose what a configuration leaves open, and say what every stage will take."""
    _start_logging(quiet, verbose)
    import yaml

    from cristae.configuration import load_tree
    from cristae.engine.files import write_atomic
    from cristae.plan import plan_run

    if out is not None and out.exists() and not overwrite:
        raise OutputExistsError(f"{out}: exists; --overwrite replaces it")
    found = plan_run(load_tree(config, settings or []), str(config), _resources(workers, memory))
    typer.echo(found.text)
    if out is not None:
        text = yaml.safe_dump(found.tree, sort_keys=False, default_flow_style=None)
        write_atomic(out, lambda file: file.write(text.encode()))


@app.command()
def models() -> None:
    """List the weights that come with cristae, with their cards."""
    from cristae.networks.model import model_card, named_models

    for name, path in named_models().items():
        typer.echo(f"{name}\n{path}\n\n{model_card(name)}")


@app.command()
def predict(
    source: Source,
    model: ModelName,
    out: OutZarr,
    pytc_config: PytcConfigs = None,
    voxel_size: VoxelSize = None,
    roi: Roi = None,
    root: Root = None,
    index: Index = None,
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
    settings: Set = None,
    block_shape: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="voxels a pass; not for PyTC checkpoints")
    ] = None,
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a volume of any size through a network."""
    _start_logging(quiet, verbose)
    from cristae.configuration import load_config
    from cristae.prediction.predict import PredictConfig, predict_volume

    given: dict[str, Any] = {"invert": True} if invert else {}
    given |= {"precision": precision} if precision else {}
    given |= {"device": device} if device else {}
    given |= {"truncate": True} if truncate else {}
    given |= {"grid": grid} if grid else {}
    given |= {"skip_empty": True} if skip_empty else {}
    predict_volume(
        _open(source, voxel_size, roi, root=root, index=index),
        _load_models(model, ensemble, pytc_config),
        out,
        config=load_config(PredictConfig, given, settings or []),
        mask=None if mask is None else _open(mask, None, roi),
        block_shape=_integers("--block-shape", block_shape),
        resources=_resources(workers, memory),
        overwrite=overwrite,
        chunks=chunks,
    )


@app.command()
def preview(
    source: Source,
    model: ModelName,
    out: Annotated[Path, typer.Argument(metavar="PAGE.html", help="the page to write")] = Path(
        "preview.html"
    ),
    n: Annotated[int, typer.Option("--n", min=1, help="places to look at")] = 6,
    pytc_config: PytcConfigs = None,
    ensemble: Ensemble = None,
    voxel_size: VoxelSize = None,
    roi: Roi = None,
    root: Root = None,
    index: Index = None,
    invert: Invert = False,
    device: Device = None,
    settings: Set = None,
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Look at a few places before a whole volume is predicted: one page, about a minute."""
    _start_logging(quiet, verbose)
    from cristae.configuration import load_config
    from cristae.prediction.predict import PredictConfig
    from cristae.presentation.preview import preview_volume

    given: dict[str, Any] = {"invert": True} if invert else {}
    given |= {"device": device} if device else {}
    page = preview_volume(
        _open(source, voxel_size, roi, root=root, index=index),
        _load_models(model, ensemble, pytc_config),
        out,
        places=n,
        config=load_config(PredictConfig, given, settings or []),
        resources=_resources(workers, memory),
        overwrite=overwrite,
    )
    typer.echo(str(page))


@app.command()
def segment(
    prediction: Annotated[str, typer.Argument(help="a prediction in any form")],
    out: OutZarr,
    decoder: Annotated[
        str | None, typer.Option(help="the model's own by default; `mitoem` is a preset")
    ] = None,
    voxel_size: VoxelSize = None,
    roi: Roi = None,
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
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn a prediction of any size into instances, exactly."""
    _start_logging(quiet, verbose)
    from cristae.configuration import load_config
    from cristae.segmentation.segment import SegmentConfig, segment_volume

    given: dict[str, Any] = {"decoder": decoder} if decoder else {}
    given |= {"allow_approximate": True} if allow_approximate else {}
    segment_volume(
        _open(prediction, voxel_size, roi),
        out,
        config=load_config(SegmentConfig, given, settings or []),
        block_shape=_integers("--block-shape", block_shape),
        pyramid=not no_pyramid,
        resources=_resources(workers, memory),
        overwrite=overwrite,
    )


@app.command()
def evaluate(
    instances: Annotated[str, typer.Argument(help="the instances found")],
    truth: Annotated[str, typer.Argument(help="the true instances")],
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
    voxel_size: VoxelSize = None,
    roi: Roi = None,
    settings: Set = None,
    block_shape: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="voxels read at a time, not run tables")
    ] = None,
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Score instances against the truth."""
    _start_logging(quiet, verbose)
    from cristae.configuration import load_config
    from cristae.evaluation.evaluate import (
        EvaluateConfig,
        ScoreFiles,
        evaluate_volume,
        format_scores,
        read_scores,
        score_instances,
        write_tables,
    )

    found, true = (_open_labels(source, voxel_size, roi) for source in (instances, truth))
    ranking: Any = None
    if scores:
        is_table = Path(scores).suffix == ".csv"
        ranking = read_scores(Path(scores)) if is_table else _open(scores, voxel_size, roi)
    given: dict[str, Any] = {} if scores_channel is None else {"score_channel": scores_channel}
    given |= {"categories": categories} if categories else {}
    given |= {name: True for name, on in (("relabel", relabel), ("crop", crop)) if on}
    options: dict[str, Any] = {
        "scores": ranking,
        "mask": _open(mask, voxel_size, roi) if mask else None,
        "config": load_config(EvaluateConfig, given, settings or []),
        "block_shape": _integers("--block-shape", block_shape),
        "resources": _resources(workers, memory),
    }
    if json is None:
        if csv is not None and csv.exists() and not overwrite:
            raise OutputExistsError(f"{csv}: exists; --overwrite replaces its tables")
        result = score_instances(found, true, **options)
        if csv is not None:
            write_tables(result, csv)
    else:
        result = evaluate_volume(found, true, ScoreFiles(json, csv, overwrite), **options)
    typer.echo(format_scores(result))


@app.command()
def tune(
    prediction: Annotated[str, typer.Argument(help="a prediction in any form")],
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
    voxel_size: VoxelSize = None,
    roi: Roi = None,
    settings: Set = None,
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Search decoder thresholds (`--set grid.seed_threshold=[0.85,0.9] --set segment....`)."""
    _start_logging(quiet, verbose)
    from cristae.configuration import load_config
    from cristae.evaluation.tune import TuneConfig
    from cristae.networks.model import load_model, retune_model
    from cristae.presentation.tuning import read_tuned, tune_volume

    if write is not None:
        if truth is None:
            raise ConfigError(f"--write {write}: needs a TRUTH to know which setting is best")
        load_model(write)  # found unfit now rather than after the search
    given: dict[str, Any] = {"score": score} if score else {}
    given |= {"segment": {"decoder": decoder}} if decoder else {}
    volume = _open(prediction, voxel_size, roi)
    tuned = tune_volume(
        volume,
        _open_labels(truth, voxel_size, roi) if truth else None,
        out,
        image=_open(image, voxel_size, roi) if image else None,
        config=load_config(TuneConfig, given, settings or []),
        resources=_resources(workers, memory),
        overwrite=overwrite,
    )
    if write is not None:
        name, thresholds = read_tuned(tuned)
        retune_model(write, name, thresholds, volume.voxel_size_nm)
    typer.echo(tuned.read_text().rstrip() if truth else str(tuned))


@app.command()
def measure(
    instances: Annotated[str, typer.Argument(help="the instances")],
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", help="the table to write")],
    voxel_size: VoxelSize = None,
    roi: Roi = None,
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure every instance: volume, centroid, bounding box."""
    _start_logging(quiet, verbose)
    from cristae.measurement.measure import measure_instances

    measure_instances(
        _open_labels(instances, voxel_size, roi),
        out,
        resources=_resources(workers, memory),
        overwrite=overwrite,
    )


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders")],
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
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Put runs side by side: model and post-processing against scores by size."""
    _start_logging(quiet, verbose)
    from cristae.evaluation.compare import compare_runs, markdown, write_comparisons

    found = compare_runs(runs, score or ("ap_75", "accuracy_75"), by)
    write_comparisons(found, out or (), overwrite=overwrite)
    typer.echo(markdown(found).rstrip())


@app.command()
def submit(
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
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a submission to the MitoEM challenge, or check one."""
    _start_logging(quiet, verbose)
    from cristae.challenge import check_submission, submission_text, submit_instances

    resources = _resources(workers, memory)
    if check is not None:
        if out is not None or human is not None or rat is not None:
            raise ConfigError(f"--check {check}: expected alone, without --human, --rat and OUT")
        typer.echo(submission_text(check_submission(check, resources)))
        return
    if out is None or human is None or rat is None:
        raise ConfigError("submit: expected --human, --rat and OUT.zip, or --check FILE.zip")
    one, two = (_open_labels(source, None, roi) for source in (human, rat))
    typer.echo(str(submit_instances(one, two, out, resources=resources, overwrite=overwrite)))


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="a run folder")],
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write the report of a run folder."""
    _start_logging(quiet, verbose)
    from cristae.pipeline import report_run

    typer.echo(str(report_run(run_dir)))


@app.command()
def run(
    source: Annotated[str, typer.Argument(metavar="CONFIG.yaml|SOURCE")],
    run_dir: Annotated[Path | None, typer.Argument(help="with SOURCE: the folder to make")] = None,
    model: Annotated[str | None, typer.Option(help="with SOURCE: name or file of a model")] = None,
    truth: Annotated[str | None, typer.Option(help="with SOURCE: the true instances")] = None,
    voxel_size: VoxelSize = None,
    roi: Roi = None,
    device: Device = None,
    settings: Set = None,
    workers: Workers = None,
    memory: Memory = None,
    overwrite: Annotated[
        str | None, typer.Option(metavar="STAGE", help="redo this stage and those after it")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Do everything: from a configuration, or from a source and a model."""
    _start_logging(quiet, verbose)
    from cristae.configuration import load_config
    from cristae.pipeline import RunConfig, Running
    from cristae.pipeline import run as run_stages

    config_file = source.endswith((".yaml", ".yml"))
    unfit = {"RUN_DIR": run_dir, "--model": model, "--truth": truth, "--roi": roi}
    unfit["--voxel-size"] = voxel_size
    if config_file and any(unfit.values()):
        names = ", ".join(name for name, value in unfit.items() if value)
        raise ConfigError(f"{names}: for a run of a SOURCE; use --set with {source}")
    if not config_file and (run_dir is None or model is None):
        raise ConfigError("a run of a SOURCE needs RUN_DIR and --model (or give a CONFIG.yaml)")
    tree: Any = source
    if not config_file:
        sample: dict[str, Any] = {
            "name": "volume",
            "image": source,
            "labels": truth,
            "group": "test",
            "roi": roi,
        }
        sample["voxel_size_nm"] = _numbers("--voxel-size", voxel_size)
        tree = {"volumes": [sample], "out": str(run_dir), "model": model}
    computing = [] if device is None else [f"predict.device={device}"]
    config = load_config(RunConfig, tree, (settings or []) + computing)
    running = Running(_resources(workers, memory), overwrite, " ".join(["cristae", *sys.argv[1:]]))
    typer.echo(str(run_stages(config, running)))


def main() -> None:
    """The entry point: a fault is one message and exit code 2, an interruption exit code 130."""
    try:
        app()
    except CristaeError as error:
        typer.echo(f"cristae: {error}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("cristae: interrupted; the same command goes on from here", err=True)
        raise


def _open(
    source: str,
    voxel_size: str | None,
    roi: str | None,
    *,
    root: Path | None = None,
    index: str | None = None,
    kind: Literal["image", "labels"] | None = None,
) -> "Volume":
    from cristae.volumes.sources import open_volume

    size = _numbers("--voxel-size", voxel_size)
    at = _elements(index)
    return open_volume(source, voxel_size_nm=size, roi=roi, kind=kind, root=root, index=at)


def _load_models(
    model: str, others: list[str] | None, pytc_config: list[Path] | None
) -> "list[Model]":
    from cristae.networks.checkpoint import load_pytc_model
    from cristae.networks.model import load_model

    names = [model, *(others or [])]
    return [load_pytc_model(n, pytc_config) if pytc_config else load_model(n) for n in names]


def _open_labels(source: str, voxel_size: str | None, roi: str | None) -> "Volume":
    volume = _open(source, voxel_size, roi, kind="labels")
    said = volume.attributes.get("kind", "labels")
    if said != "labels":
        raise InputError(f"{source}: kind {said!r} found, expected labels")
    return volume


def _resources(workers: int | None, memory: float | None) -> "Resources":
    from cristae.engine.executors import Resources, available_cores

    return Resources(workers=workers or available_cores(), memory_gib=memory)


def _numbers(option: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: expected three numbers Z,Y,X") from error
    if min(z, y, x) <= 0:
        raise ConfigError(f"{option} {text!r}: expected positive numbers")
    return z, y, x


def _elements(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(axis and number.isdigit() for axis, _, number in pairs):
        raise ConfigError(f"--index {text!r}: expected axis=number, as in t=0,c=1")
    return {axis: int(number) for axis, _, number in pairs}


def _integers(option: str, text: str | None) -> tuple[int, int, int] | None:
    numbers = _numbers(option, text)
    if numbers is None:
        return None
    if any(number != int(number) for number in numbers):
        raise ConfigError(f"{option} {text!r}: expected whole numbers")
    z, y, x = (int(number) for number in numbers)
    return z, y, x


def _start_logging(quiet: bool, verbose: bool) -> None:
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    from cristae.engine.progress import log_to_stderr

    log_to_stderr(level)
