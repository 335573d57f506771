"""``python -m service.keys``: make, list and revoke the API keys that ``SPIKESEG_KEYS_FILE`` names."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.auth import KeyRecordError, KeyRing, Scope, new_key
from service.key_file import KeyFileError, add_key, load_keys, remove_keys

_VARIABLE = "SPIKESEG_KEYS_FILE"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.file is None:
        parser.error(f"say with --file, or {_VARIABLE}, where the keys are kept")
    commands = {"new": _new, "list": _list, "revoke": _revoke}
    try:
        return commands[arguments.command](arguments)
    except (KeyFileError, KeyRecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _new(arguments: argparse.Namespace) -> int:
    until = None if arguments.days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(arguments.days)
    key, token = new_key(arguments.id, arguments.scopes, until)
    add_key(arguments.file, key)
    print(token)
    print(f"added to {arguments.file}; the token above is shown this once", file=sys.stderr)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    for key in load_keys(arguments.file).keys:
        until = "no end" if key.not_after is None else f"until {key.not_after.isoformat()}"
        print(f"{key.id}  {key.digest.hex()[:12]}  {','.join(sorted(key.scopes))}  {until}")
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    chosen = [
        key
        for key in load_keys(arguments.file).keys
        if key.id == arguments.id and key.digest.hex().startswith(arguments.digest)
    ]
    if not chosen:
        raise KeyFileError(f"there is no such key in {arguments.file}; 'list' shows those that there are")
    remove_keys(arguments.file, KeyRing(chosen))
    print(f"revoked {len(chosen)}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.keys", description="API keys of the segmentation service.")
    where = os.environ.get(_VARIABLE)
    parser.add_argument(
        "--file", type=Path, default=Path(where) if where else None, help=f"where they are kept ({_VARIABLE})"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="make a key, and print its token, once")
    new.add_argument("id", help="whose it is; the same id again gives its holder a second token")
    new.add_argument(
        "--scopes",
        type=_scopes,
        default=frozenset({Scope.STREAM, Scope.READ}),
        help=f"some of {','.join(Scope)} (stream,read)",
    )
    new.add_argument("--days", type=_days, help="how long it is valid; for ever if not given")
    commands.add_parser("list", help="show the keys, without their tokens, which nobody knows")
    revoke = commands.add_parser("revoke", help="take keys out")
    revoke.add_argument("id")
    revoke.add_argument("--digest", default="", help="only the one that 'list' shows with this")
    return parser


def _scopes(text: str) -> frozenset[Scope]:
    try:
        return frozenset(Scope(name.strip()) for name in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: the scopes are {', '.join(Scope)}") from None


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days")
    return days


if __name__ == "__main__":
    sys.exit(main())
