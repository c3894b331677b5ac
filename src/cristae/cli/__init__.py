"""The command line: parse, call, print; `stages` and `tools` hold a function a subcommand.

Stages are imported inside the commands, so that ``cristae --help`` is quick.
"""

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from cristae.cli import stages, tools
from cristae.cli.groups import with_options
from cristae.cli.settings import STAGES, settings, settings_text
from cristae.engine.paths import user_path
from cristae.errors import CristaeError

HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="Find every mitochondrion in electron-microscopy volumes, and measure each.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=HELP,
)

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

COMMANDS = (  # as `--help` lists them
    tools.demo,
    stages.run,
    tools.info,
    tools.check,
    stages.convert,
    tools.simulate,
    tools.import_config,
    tools.plan,
    stages.train,
    tools.models,
    tools.average,
    tools.preview,
    stages.predict,
    tools.tune,
    stages.segment,
    stages.evaluate,
    stages.measure,
    stages.report,
    tools.compare,
    tools.submit,
    settings,
)


class _Command(TyperCommand):
    """A command whose paths may begin with ``~``, which a shell leaves in ``--out=~/a``."""

    def invoke(self, ctx: Any) -> Any:
        """Call the function with paths as the system knows them."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # a name need not be UTF-8
        ctx.params = {name: _at_home(value) for name, value in ctx.params.items()}
        return super().invoke(ctx)

    def get_help(self, ctx: Any) -> str:
        """The options, and after them the settings."""
        text = super().get_help(ctx)
        if self.name not in STAGES:
            return text
        return f"{text}\n\nSettings (--set KEY=VALUE):\n{settings_text(self.name)}"


def _at_home(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_at_home(part) for part in value)
    return user_path(value) if isinstance(value, Path) else value


for command in COMMANDS:
    app.command(cls=_Command, context_settings=HELP)(with_options(command))


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


def main() -> None:
    """The entry point: a fault is one message and exit code 2, an interruption exit code 130."""
    try:
        app()
    except CristaeError as error:
        typer.echo(f"cristae: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        from cristae.engine.files import told_error

        typer.echo(f"cristae: {told_error(error, Path.cwd()) or error}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("cristae: interrupted; the same command goes on from here", err=True)
        raise
