"""The verbs with their options, and the one way out of the process."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from rpcsim.cli._errors import CliError, Exit
from rpcsim.cli._output import ClosedPipe, Output, use_color

__all__ = ["app", "main"]

# Options every verb has.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")]
Color = Annotated[
    str, typer.Option("--color", help="auto, always or never.", metavar="WHEN")
]
Ascii = Annotated[bool, typer.Option("--ascii", help="Keep to ASCII characters.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]

_SETTINGS: Final = {"max_content_width": 80, "help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="rpcsim",
    help="Run, check and judge stories about remote calls, simulated or on sockets.",
    epilog="Exit codes: 0 held, 1 failed, 2 usage or file, 3 surroundings, "
    "4 not decided, 5 not deterministic.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
)


def _show_version(wanted: bool, json_too: bool = False) -> None:
    from importlib.metadata import version

    if wanted:
        told = {"rpcsim": version("rpcsim"), "python": sys.version.split()[0]}
        output = Output(json=json_too)
        output.text(f"rpcsim {told['rpcsim']}")
        output.document("version", {"versions": told})
        raise typer.Exit


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="With --version: as JSON.")
    ] = False,
) -> None:
    """Run, check and judge stories about remote calls, simulated or on sockets."""
    _show_version(version, json)
    if context.invoked_subcommand is None:
        Output().text(context.get_help())
        raise typer.Exit(Exit.USAGE)


def _output(json: bool, quiet: bool, color: str, ascii_only: bool = False) -> Output:
    if color not in ("auto", "always", "never"):
        raise CliError(
            f'--color is auto, always or never, not "{color}"', "leave it out for auto"
        )
    return Output(
        json=json, quiet=quiet, color=use_color(color, sys.stdout), ascii=ascii_only
    )


_RUN_EPILOG: Final = (
    "Examples: rpcsim run scenarios | "
    "rpcsim run scenarios/agents-crash.yaml --mode real. "
    "Exit codes: 0 all held, 1 something did not, 2 a wrong file, 4 a limit was reached."
)


@app.command(epilog=_RUN_EPILOG)
def run(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Scenario files, or directories."),
    ],
    mode: Annotated[
        str, typer.Option(metavar="MODE", help="sim (simulated) or real (sockets).")
    ] = "sim",
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="In place of the scenario's own seed."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the trace there, as JSON lines."),
    ] = None,
    timeline: Annotated[
        bool | None,
        typer.Option(
            "--timeline/--no-timeline",
            help="Tell what happened; by default for one file, and for failures.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    color: Color = "auto",
    ascii_only: Ascii = False,
    debug: Debug = False,
) -> None:
    """Run scenarios once each and judge them."""
    from rpcsim.cli._run import run_verb

    output = _output(json, quiet, color, ascii_only)
    raise typer.Exit(
        run_verb(output, paths, mode=mode, seed=seed, trace=trace, timeline=timeline)
    )


_CHECK_EPILOG: Final = (
    "Examples: rpcsim check-determinism scenarios | "
    "rpcsim check-determinism scenarios/agents-crash.yaml --seeds 0:5. "
    "Exit codes: 0 equal, 2 a wrong file, 5 not deterministic."
)


@app.command("check-determinism", epilog=_CHECK_EPILOG)
def check_determinism(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Scenario files, or directories."),
    ],
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="A:B", help="Seeds A up to, not including, B; else the file's own."
        ),
    ] = None,
    ways: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="heap: again in this process; fresh: in a new interpreter; "
            "file: there, along the written tape.",
        ),
    ] = "heap,fresh,file",
    json: Json = False,
    quiet: Quiet = False,
    color: Color = "auto",
    debug: Debug = False,
) -> None:
    """Run scenarios again elsewhere; compare all."""
    from rpcsim.cli._determinism import determinism_verb

    output = _output(json, quiet, color)
    raise typer.Exit(determinism_verb(output, paths, seeds=seeds, ways=ways))


_VALIDATE_EPILOG: Final = (
    "Examples: rpcsim validate scenarios/agents-crash.yaml | "
    "rpcsim validate scenarios --json. Exit codes: 0 all good, 2 something is wrong."
)


@app.command(epilog=_VALIDATE_EPILOG)
def validate(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Scenario files, or directories."),
    ],
    json: Json = False,
    quiet: Quiet = False,
    color: Color = "auto",
    debug: Debug = False,
) -> None:
    """Check scenario files; nothing is imported."""
    from rpcsim.cli._validate import validate_verb

    output = _output(json, quiet, color)
    raise typer.Exit(validate_verb(output, paths))


# -- the way out ---------------------------------------------------------------------

# typer brings its own click, or an installed one, by version: its classes are reached
# through what it exports.
_Usage: Final[Any] = typer.BadParameter.__mro__[1]


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process.

    Args:
        argv: Arguments in place of the process's own.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if "--debug" not in arguments:
        # Agents log what faults do to them; the timeline tells it better.
        logging.getLogger("rpcsim").addHandler(logging.NullHandler())
    verb = next((item for item in arguments if not item.startswith("-")), "")
    try:
        code = _dispatch(arguments, verb)
    except ClosedPipe:
        # Python would complain when it flushes again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = Exit.OK
    sys.exit(int(code))


def _dispatch(arguments: list[str], verb: str) -> int:
    debug = "--debug" in arguments
    output = Output(json="--json" in arguments)
    try:
        code = int(app(arguments, prog_name="rpcsim", standalone_mode=False) or 0)
    except CliError as error:
        return _fail(output, verb, error)
    except _Usage as error:
        return _fail(output, verb, _usage_error(error, verb))
    except (typer.Abort, KeyboardInterrupt):
        code = int(Exit.INTERRUPTED)
    except ClosedPipe:
        raise
    except Exception as error:
        if debug:
            raise
        return _fail(output, verb, _unforeseen(error))
    if code == Exit.INTERRUPTED:  # typer takes most interrupts for exits of ours
        stopped = CliError("interrupted", "run it again", exit=Exit.INTERRUPTED)
        return _fail(output, verb, stopped)
    return code


def _fail(output: Output, verb: str, error: CliError) -> int:
    known = verb if verb in _verbs() else ""
    if error.details:
        output.problem(error.details)
    output.problem(error.line(known))
    told = {"problem": error.problem, "next": error.step, "data": error.data}
    output.document(known, {"error": told, "exit": int(error.exit)})
    return int(error.exit)


def _verbs() -> list[str]:
    return [
        command.name or str(getattr(command.callback, "__name__", ""))
        for command in app.registered_commands
    ]


def _usage_error(error: Any, verb: str) -> CliError:
    from rpcsim.scenario import did_you_mean

    message = str(error.format_message()).rstrip(".")
    option = getattr(error, "option_name", None)
    if option is not None:
        context = error.ctx
        known = [name for item in context.command.params for name in item.opts]
        hint = did_you_mean(str(option), known) or _help_of(verb)
        return CliError(f'unknown option "{option}"', hint)
    if verb and verb not in _verbs():
        hint = did_you_mean(verb, _verbs()) or f"known: {', '.join(_verbs())}"
        return CliError(f'unknown verb "{verb}"', hint)
    return CliError(message, _help_of(verb))


def _help_of(verb: str) -> str:
    return f"try: rpcsim {verb} --help" if verb else "try: rpcsim --help"


def _unforeseen(error: Exception) -> CliError:
    from rpcsim.errors import RpcSimError

    if isinstance(error, OSError):
        return CliError(
            f"{error.strerror or error}"
            + (f": {error.filename}" if error.filename else ""),
            "check the path, the port and the permissions",
            exit=Exit.SURROUNDINGS,
        )
    if isinstance(error, RpcSimError):
        return CliError(str(error), "see --debug for where", exit=Exit.FAILED)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return CliError(
        f"internal error: {type(error).__name__}: {error} "
        f"(at {Path(place.filename).name}:{place.lineno})",
        "run it again with --debug and report what it shows",
        exit=Exit.INTERNAL,
    )
