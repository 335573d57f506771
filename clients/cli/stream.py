"""``spikeseg stream``: events in, masks and a report out."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from clients.cli.interrupts import interrupts
from clients.cli.options import (
    POSITIVE,
    SOURCE_HELP,
    LoopType,
    Service,
    network_options,
    opened,
    service_options,
    source_options,
)
from clients.health import StateChange, StreamState
from clients.items import Item
from clients.options import FrameOptions, StreamOptions
from clients.outputs import (
    MaskFolder,
    McapRecording,
    Output,
    OverlayVideo,
    Report,
    RerunRecording,
    WindowEvents,
    WindowFrames,
)
from clients.results import SessionInfo
from clients.sources import FrameSource, Source, play, play_frames
from clients.streaming import ResultStream
from models.events import SensorSize

PathType: Any = click.Path(path_type=Path)


@click.command(epilog=SOURCE_HELP, short_help="Stream a source; save masks, video, reports.")
@click.argument("source")
@click.option("--save", metavar="FOLDER", type=PathType, help="Save indexed PNG masks there.")
@click.option("--overlay", is_flag=True, help="With --save: also pictures of the masks with the events.")
@click.option("--video", metavar="FILE.mp4", type=PathType, help="Save a video of the masks with the events.")
@click.option("--mcap", metavar="FILE.mcap", type=PathType, help="Save masks, events and activity for Foxglove.")
@click.option("--rerun", metavar="FILE.rrd", type=PathType, help="Save masks, events and activity for Rerun.")
@click.option(
    "--rerun-connect",
    metavar="URL",
    help="Show them live in a Rerun viewer that listens, as rerun+http://127.0.0.1:9876/proxy.",
)
@network_options
@click.option(
    "--speed",
    type=POSITIVE,
    metavar="N",
    help="Play a recording N times as fast as it was recorded; as fast as the service answers if not given.",
)
@click.option("--loop", "loops", type=LoopType(), default=1, show_default=True, help="Play a recording so often.")
@source_options
@click.option(
    "--queue",
    type=click.Choice(["wait", "drop-oldest", "merge"]),
    default="wait",
    show_default=True,
    help="What becomes of windows that come faster than they are computed.",
)
@click.option("--reorder-us", type=click.IntRange(0), default=0, help="Events may come late by so many microseconds.")
@click.option(
    "--filter-background-us",
    type=click.IntRange(0),
    default=0,
    metavar="US",
    help="Drop background activity: events without one at a neighbouring pixel so many microseconds before.",
)
@click.option(
    "--filter-refractory-us",
    type=click.IntRange(0),
    default=0,
    metavar="US",
    help="Drop events that follow another one of their pixel within so many microseconds.",
)
@click.option("--filter-hot", is_flag=True, help="Silence pixels that are far too active during the first second.")
@click.option(
    "--emulate",
    type=click.Choice(["client", "server"]),
    default="client",
    show_default=True,
    help="Where a video's or webcam's frames become events; with server, frames are sent and shown in place of events.",
)
@click.option("--quiet", is_flag=True, help="No progress, only the report.")
@service_options
def stream(
    source: str,
    save: Path | None,
    overlay: bool,
    video: Path | None,
    mcap: Path | None,
    rerun: Path | None,
    rerun_connect: str | None,
    model: str | None,
    window_us: int | None,
    speed: float | None,
    loops: int,
    sensor: SensorSize | None,
    topic: str | None,
    skip_us: int | None,
    duration_us: int | None,
    queue: Literal["wait", "drop-oldest", "merge"],
    reorder_us: int,
    filter_background_us: int,
    filter_refractory_us: int,
    filter_hot: bool,
    emulate: Literal["client", "server"],
    quiet: bool,
    service: Service,
) -> int:
    """Stream SOURCE through the service; save what comes, and print a report at the end.

    The connection is taken up again if it breaks. Ctrl-C ends a camera's stream: outputs are completed, and the report
    is printed.
    """
    if overlay and save is None:
        raise click.UsageError("--overlay needs --save FOLDER.")
    if reorder_us and emulate == "server":
        raise click.UsageError("--reorder-us is for events; frames come in order.")
    interrupted = False
    with ExitStack() as closing:
        events = closing.enter_context(opened(source, sensor, topic, ordered=not reorder_us))
        client = closing.enter_context(service.client())
        progress = closing.enter_context(_progress(quiet))
        kept, seen = WindowEvents(), WindowFrames()
        shown = bool(save or video or mcap or rerun or rerun_connect)
        played: dict[str, Any] = {
            "speed": speed,
            "skip_us": skip_us or 0,
            "duration_us": duration_us,
            "loops": loops or None,
        }
        items: Iterable[Item]
        if emulate == "server":
            if not isinstance(events, FrameSource):
                raise click.UsageError(f"--emulate server is for video and webcams; {source} gives events.")
            frames = play_frames(events, **played)
            items = seen.watch(frames) if shown else frames
        else:
            batches = play(events, **played)
            items = kept.watch(batches) if shown else batches
        results = closing.enter_context(
            client.stream(
                items,
                events.sensor,
                model=model,
                window_us=window_us,
                options=StreamOptions(
                    queue=queue,
                    reorder_us=reorder_us,
                    filter_background_us=filter_background_us,
                    filter_refractory_us=filter_refractory_us,
                    filter_hot=filter_hot,
                    lost_session="restart",
                    frames=FrameOptions() if emulate == "server" else None,
                ),
                on_state=_teller(progress),
            )
        )
        outputs = _outputs(closing, results.session, events.sensor, save, overlay, video, mcap)
        if rerun is not None or rerun_connect is not None:
            recording = RerunRecording(results.session.classes, events.sensor, path=rerun, url=rerun_connect)
            outputs.append(closing.enter_context(recording))
        report = Report(results.session.classes)
        sigint = closing.enter_context(interrupts())
        task = progress.add_task("", total=None, sensor=0.0, windows=0, latency=0.0, state="")
        try:
            for result in results:
                with sigint.held():
                    report.add(result)
                    if outputs:
                        window, frame = kept.take(result.t_start, result.t_end), seen.take(result.t_end)
                        for output in outputs:
                            output.write(result, window, frame)
                progress.update(
                    task,
                    sensor=report.sensor_us / 1e6,
                    windows=report.windows,
                    latency=result.latency.total_ms,
                    state=results.state.value,
                )
        except KeyboardInterrupt:
            interrupted = True
    _print(report, events, results)
    return 130 if interrupted else 0


def _outputs(
    closing: ExitStack,
    session: SessionInfo,
    sensor: SensorSize,
    save: Path | None,
    overlay: bool,
    video: Path | None,
    mcap: Path | None,
) -> list[Output]:
    outputs: list[Output] = []
    if save is not None:
        outputs.append(MaskFolder(save, session.classes, overlays=overlay))
    if video is not None:
        outputs.append(closing.enter_context(OverlayVideo(video, session.classes)))
    if mcap is not None:
        outputs.append(closing.enter_context(McapRecording(mcap, session.classes, sensor)))
    return outputs


def _print(report: Report, source: Source, results: ResultStream) -> None:
    print(f"source         {source.name} ({source.format}, {source.sensor})")
    print(f"model          {results.session.model}")
    for line in report.lines():
        print(line)
    if results.reconnects:
        print(f"reconnects     {results.reconnects}")
    if results.restarts:
        print(f"restarts       {results.restarts} (the service had lost the session; the network began anew)")


def _progress(quiet: bool) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[windows]} windows"),
        TextColumn("{task.fields[sensor]:.2f} s of the sensor's time"),
        TextColumn("{task.fields[latency]:.0f} ms"),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty())


def _teller(progress: Progress) -> Any:
    def tell(change: StateChange) -> None:
        if change.after is StreamState.DEGRADED:
            progress.console.print(f"degraded: {change.reason}", highlight=False, soft_wrap=True)
        elif change.before is StreamState.DEGRADED and change.after is StreamState.STREAMING:
            progress.console.print("streaming again", highlight=False)

    return tell
