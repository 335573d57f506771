"""Log lines: as JSON or as text, each with the ids of its request and session, and never a flood of them.

Every line of the process takes this way, uvicorn's and the libraries' included: there is one handler, at the root.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

from service.observability.context import request_id, session_id

LogFormat = Literal["auto", "json", "text"]
TraceIds = Callable[[], Mapping[str, str]]

# Lines of one place in the code, within so many seconds, before the rest are only counted.
FLOOD_SECONDS = 10.0
FLOOD_LINES = 20

_MAX_CHARS = 16_384
_MAX_DEPTH = 4
_MAX_ITEMS = 100
_REFUSED = 400
# The close codes of refusals, see service/errors.py.
_REFUSED_CLOSE = 4400
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_FIXED = ("time", "level", "logger", "message", "request_id", "session", "trace_id", "span_id", "exception")
# C0 and C1 controls, and what else some reader takes for the end of a line.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_PLAIN_VALUE = re.compile(r"[^\s\"=]+")
# Our own access lines say more, and leave the query out, which may hold secrets.
_UVICORN_ACCESS = '%s - "WebSocket %s"'


def no_trace_ids() -> Mapping[str, str]:
    """Where there are no traces."""
    return {}


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII.

    Parameters
    ----------
    trace_ids : callable
        ``trace_id`` and ``span_id`` of what is being done, if it is traced.
    """

    def __init__(self, trace_ids: TraceIds = no_trace_ids) -> None:
        super().__init__()
        self._trace_ids = trace_ids

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
            **_ids(self._trace_ids),
        }
        for name, value in _extra(record).items():
            # An extra may say whose session it is; it cannot pose as the time or the level.
            line[name if name == "session" or name not in _FIXED else f"{name}_"] = _plain(value)
        exception = _exception(self, record)
        if exception:
            line["exception"] = exception
        return json.dumps(line, allow_nan=False)


class TextFormatter(logging.Formatter):
    """``time LEVEL logger: message key=value …``; a traceback follows, indented.

    Parameters
    ----------
    trace_ids : callable
    """

    def __init__(self, trace_ids: TraceIds = no_trace_ids) -> None:
        super().__init__()
        self._trace_ids = trace_ids

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line."""
        fields = {**_ids(self._trace_ids), **_extra(record)}
        pairs = "".join(f" {name}={_quoted(value)}" for name, value in fields.items() if value is not None)
        message = _one_line(_cut(record.getMessage()))
        line = f"{_time(record)} {record.levelname} {record.name}: {message}{pairs}"
        exception = _exception(self, record)
        if exception:
            # No line of it begins where a line of the log does.
            line += "".join(f"\n    {_one_line(part)}" for part in exception.splitlines())
        return line


@dataclass(slots=True)
class _Flood:
    begun: float
    level: int
    name: str
    lines: int = 0
    suppressed: int = 0


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes lines; of those that one place in the code repeats, only so many, and then how many there were.

    Warnings, errors and refused requests are bounded: whoever can cause them could otherwise fill the disk. Other
    lines are not; they cost their causer something, and some are records that must be whole.

    Parameters
    ----------
    stream : text file
    lines : int
        Of one place, within ``FLOOD_SECONDS``.
    clock : callable
        Seconds.
    """

    def __init__(
        self, stream: TextIO, *, lines: int = FLOOD_LINES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(stream)
        self._lines = lines
        self._clock = clock
        # As many as there are places that log.
        self._floods: dict[Hashable, _Flood] = {}
        self._next_look = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless there are too many like it."""
        now = self._clock()
        if now >= self._next_look:
            self.report(now)
        if self._passes(record, now):
            super().emit(record)

    def report(self, now: float | None = None) -> None:
        """Say how many lines were left out, of floods that are over."""
        now = self._clock() if now is None else now
        self._next_look = now + 1.0
        with self.lock or threading.RLock():
            over = [key for key, flood in self._floods.items() if now - flood.begun >= FLOOD_SECONDS]
            ended = [self._floods.pop(key) for key in over]
        self._say(ended)

    def close(self) -> None:
        """Say what is left to say, and close."""
        floods, self._floods = list(self._floods.values()), {}
        if not self.stream.closed:
            self._say(floods)
        super().close()

    def _say(self, floods: list[_Flood]) -> None:
        for flood in floods:
            if flood.suppressed:
                message = f"{flood.suppressed} more lines like an earlier one were left out"
                line = logging.LogRecord(flood.name, flood.level, __file__, 0, message, None, None)
                line.suppressed = flood.suppressed
                super().emit(line)

    def _passes(self, record: logging.LogRecord, now: float) -> bool:
        status = getattr(record, "status", None)
        refused = any(
            isinstance(code, int) and code >= least
            for code, least in ((status, _REFUSED), (getattr(record, "close_code", None), _REFUSED_CLOSE))
        )
        if record.levelno < logging.WARNING and not refused:
            return True
        key = (record.name, record.pathname, record.lineno, status if refused else None)
        flood = self._floods.get(key)
        if flood is None:
            flood = self._floods[key] = _Flood(now, record.levelno, record.name)
        flood.lines += 1
        if flood.lines > self._lines:
            flood.suppressed += 1
            return False
        return True


def is_json(log_format: str, stream: TextIO) -> bool:
    """Whether lines are JSON; "auto" is text for whoever sits before a terminal, and JSON for programs."""
    return log_format == "json" or (log_format != "text" and not stream.isatty())


def configure_logs(log_format: str, level: str, trace_ids: TraceIds = no_trace_ids) -> None:
    """Send every line of the process to standard error, in one format; uncaught exceptions too.

    Parameters
    ----------
    log_format : "auto", "json" or "text"
    level : str
        Least severe level.
    trace_ids : callable
    """
    handler = LogHandler(sys.stderr)
    handler.setFormatter((JsonFormatter if is_json(log_format, sys.stderr) else TextFormatter)(trace_ids))
    handler.addFilter(_is_wanted)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # A line for each request and one for each batch of spans say nothing that is not said elsewhere.
    for name in ("httpx", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _is_wanted(record: logging.LogRecord) -> bool:
    if record.name != "uvicorn.error" or record.levelno > logging.INFO:
        return True
    return not str(record.msg).startswith((_UVICORN_ACCESS, "connection "))


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("service").critical("an exception was not caught", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        thread = args.thread.name if args.thread is not None else "?"
        info = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger("service").critical("an exception ended thread %s", thread, exc_info=info)


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _ids(trace_ids: TraceIds) -> dict[str, str]:
    ids = {"request_id": request_id.get(), "session": session_id.get()}
    return {**{name: value for name, value in ids.items() if value is not None}, **trace_ids()}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
    if record.stack_info:
        text += f"\n{record.stack_info}"
    # The end of a traceback says what happened.
    return text if len(text) <= _MAX_CHARS else f"…{text[-_MAX_CHARS:]}"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}…"


def _plain(value: Any, depth: int = 0) -> Any:
    """A value that JSON can hold."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0.0 else str(value)
    if isinstance(value, str):
        return _cut(str(value))
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in list(value.items())[:_MAX_ITEMS]}
    if depth < _MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    return _cut(str(value))


def _one_line(text: str) -> str:
    """The text with its control characters escaped, so that nobody can begin a line or paint the terminal."""
    escaped = _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return _SURROGATES.sub("\ufffd", escaped)


def _quoted(value: Any) -> str:
    text = _one_line(_cut(str(value)))
    return text if _PLAIN_VALUE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
