"""*Service*: the golden signals (latency, traffic, errors, saturation) and how fast the error budget is spent."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import (
    AMBER,
    GREEN,
    RED,
    dashboard,
    heat,
    lines,
    number,
    of_job,
    quantile,
    query,
    rate,
    select,
    select_server,
    total,
)

# Of prometheus/rules/recording.yml.
_BUDGET = 0.01
_LIVE = 'model!~"paper-.*"'
_SLOW = "job:spikeseg_window_latency_slow:ratio_rate"
_LATENCY = "spikeseg_window_latency_seconds"
_QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


def build() -> Dashboard:
    """The dashboard."""
    in_time = rate(f"{_LATENCY}_bucket", f'le="0.1", {_LIVE}')
    skipped = "spikeseg_windows_skipped_total"
    return dashboard(
        "spikeseg-service",
        "Spikeseg: Service",
        "Golden signals of the service, and how fast the error budget of its latency objective is spent.",
        [
            "Latency: 99 % of windows within 0.1 s",
            number(
                "In time",
                "Share of session windows answered within 0.1 s. The paper's networks are not counted.",
                "percentunit",
                query(f"{total(in_time)} / {total(rate(f'{_LATENCY}_count', _LIVE))}", "in time"),
                steps=((None, RED), (0.95, AMBER), (0.99, GREEN)),
                decimals=2,
            ),
            number(
                "Burn rate, 1 h",
                "How many times faster than in 30 days the error budget is spent, over the last hour.",
                "none",
                query(f"{of_job(_SLOW + '1h')} / {_BUDGET}", "1 h"),
                steps=((None, GREEN), (1, AMBER), (6, RED)),
                decimals=1,
            ),
            number(
                "Budget left, 3 d",
                "Share of the error budget that three days at this rate would leave; negative if overspent.",
                "percentunit",
                query(f"1 - {of_job(_SLOW + '3d')} / {_BUDGET}", "left"),
                steps=((None, RED), (0, AMBER), (0.5, GREEN)),
                decimals=0,
            ),
            number(
                "Windows",
                "Windows segmented in a second, over all models.",
                "cps",
                query(total(rate("spikeseg_windows_total")), "windows"),
                decimals=1,
            ),
            number(
                "Events",
                "Events in the windows segmented, in a second.",
                "short",
                query(total(rate("spikeseg_events_total")), "events"),
            ),
            number(
                "Active sessions",
                "Sessions that have not ended.",
                "none",
                query(total(select("spikeseg_sessions_active")), "sessions"),
            ),
            lines(
                "Latency of windows",
                "From the arrival of the message that closed a window to its answer.",
                "s",
                *(query(quantile(q, _LATENCY), name) for name, q in _QUANTILES),
                marks=((None, "transparent"), (0.1, RED)),
            ),
            heat(
                "Latency distribution",
                "Windows in a second, by latency.",
                "cps",
                query(total(rate(f"{_LATENCY}_bucket"), "le"), "{{le}}"),
                width=8,
                buckets=True,
            ),
            lines(
                "Latency by stage, p95",
                "Where the time goes: decoding, waiting for a free core, computing, encoding the mask.",
                "s",
                query(quantile(0.95, "spikeseg_latency_seconds", "stage"), "{{stage}}"),
            ),
            lines(
                "Burn rate of the error budget",
                "1 spends the budget of 30 days in 30 days. Alerts: 14.4 over 1 h and 5 min, 6 over 6 h and 30 min, "
                "1 over 3 d and 6 h.",
                "none",
                *(query(f"{of_job(_SLOW + span)} / {_BUDGET}", span) for span in ("5m", "30m", "1h", "6h", "3d")),
                width=16,
                marks=((None, "transparent"), (1, GREEN), (6, AMBER), (14.4, RED)),
            ),
            lines(
                "Latency by model, p95",
                "The paper's networks take many steps for each window.",
                "s",
                query(quantile(0.95, _LATENCY, "model"), "{{model}}"),
            ),
            "Traffic",
            lines(
                "Windows",
                "Windows segmented in a second.",
                "cps",
                query(total(rate("spikeseg_windows_total"), "model"), "{{model}}"),
                stack=True,
            ),
            lines(
                "Events",
                "Events in the windows segmented, in a second.",
                "short",
                query(total(rate("spikeseg_events_total"), "model"), "{{model}}"),
                stack=True,
            ),
            lines(
                "Windows computed together",
                "Mean size of a batch.",
                "none",
                query(
                    f"{total(rate('spikeseg_batch_rows_sum'))} / {total(rate('spikeseg_batch_rows_count'))}", "windows"
                ),
            ),
            "Errors",
            lines(
                "Refusals",
                "Requests and messages refused in a second, by problem code (docs/protocol.md). "
                "internal is a fault of the service.",
                "cps",
                query(_refusals(), "{{code}}"),
            ),
            lines(
                "Windows not computed",
                "In a second: empty ones of a gap (nothing to do), dropped ones and merged ones (too much to do).",
                "cps",
                query(total(rate(skipped), "reason"), "{{reason}}"),
            ),
            lines(
                "Too late",
                "In a second: windows whose computation began after their deadline, and events that came after their "
                "window was closed.",
                "cps",
                query(total(rate("spikeseg_deadlines_missed_total")), "windows after their deadline"),
                query(total(rate("spikeseg_late_events_total")), "events"),
            ),
            "Saturation",
            lines(
                "Queue",
                "Windows that wait to be computed.",
                "none",
                query(select("spikeseg_windows_queued"), "{{instance}}"),
            ),
            lines(
                "Processor",
                "Cores in use, of the threads that may compute.",
                "none",
                query(f"rate({select_server('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}"),
                query(f"min({select('spikeseg_compute_threads')})", "threads of a server"),
            ),
            lines(
                "Memory",
                "Resident memory of each server, and the state of its sessions within.",
                "bytes",
                query(select_server("process_resident_memory_bytes"), "{{instance}}"),
                query(select("spikeseg_state_bytes"), "state of {{instance}}"),
            ),
            lines(
                "Room",
                "Share of the sessions and of the state that a server may hold. At 1 it turns clients away.",
                "percentunit",
                query(
                    f"{select('spikeseg_sessions_active')} / {select('spikeseg_sessions_limit')}",
                    "sessions of {{instance}}",
                ),
                query(
                    f"{select('spikeseg_state_bytes')} / {select('spikeseg_state_limit_bytes')}",
                    "state of {{instance}}",
                ),
                width=24,
                marks=((None, "transparent"), (0.9, RED)),
            ),
        ],
    )


def _refusals() -> str:
    """By code, of those codes that there have been, and of faults of the service in any case."""
    errors = "spikeseg_errors_total"
    there_have_been = f"{total(f'increase({select(errors)}[$__range])', 'code')} > 0"
    internal = rate(errors, 'code="internal"')
    return f"({total(rate(errors), 'code')} and {there_have_been}) or {total(internal, 'code')}"
