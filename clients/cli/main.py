"""The command and its exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata

import click

from clients.cli.files import convert, info, record
from clients.cli.remote import bench, models, segment, serve
from clients.cli.stream import stream
from clients.errors import ClientError, MissingExtraError, OutputError, SourceError

EXIT_USAGE, EXIT_SOURCE, EXIT_SERVICE, EXIT_OUTPUT, EXIT_MISSING, EXIT_INTERRUPTED = 2, 3, 4, 5, 6, 130

_EPILOG = """\b
Exit status:
    0  done
    2  the command line makes no sense
    3  the source cannot be read
    4  the service cannot be reached, refuses, or fails
    5  an output cannot be written
    6  a library is missing; the message says how to install it
  130  interrupted; what had been written is whole"""


def _version() -> str:
    try:
        return metadata.version("spikeseg")
    except metadata.PackageNotFoundError:
        return "of a source tree"


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(_version(), prog_name="spikeseg")
def cli() -> None:
    """Segment the streams of event cameras with spiking neural networks.

    \b
    spikeseg serve                                            run the service on this machine
    spikeseg stream street.aedat4 --video street.mp4          a recording in, masks out
    spikeseg stream camera:// --queue drop-oldest             a camera
    """


for _command in (serve, models, segment, stream, convert, record, info, bench):
    cli.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        Exit status, as ``--help`` lists them; each error is one line on standard error.
    """
    try:
        status = cli.main(args=None if argv is None else list(argv), prog_name="spikeseg", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return EXIT_USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "spikeseg"
        return _fail(f"{error.format_message()} See: {where} --help", EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except SourceError as error:
        return _fail(str(error), EXIT_SOURCE)
    except OutputError as error:
        return _fail(str(error), EXIT_OUTPUT)
    except MissingExtraError as error:
        return _fail(str(error), EXIT_MISSING)
    except ClientError as error:
        return _fail(str(error), EXIT_SERVICE)


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status
