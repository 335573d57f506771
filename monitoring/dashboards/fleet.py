"""*Fleet*: replicas, their sessions, the state store and checkpoints."""

from __future__ import annotations

from grafana_foundation_sdk.models.common import BigValueTextMode
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import (
    AMBER,
    GREEN,
    RED,
    dashboard,
    lines,
    number,
    quantile,
    query,
    rate,
    select,
    select_server,
    total,
)

_EACH = "{{instance}}"


def build() -> Dashboard:
    """The dashboard."""
    return dashboard(
        "spikeseg-fleet",
        "Spikeseg: Fleet",
        "Replicas, the sessions that they hold and hand over, the state store, and checkpoints.",
        [
            "Now",
            number(
                "Servers up",
                "Servers that answer Prometheus.",
                "none",
                query(total(select_server("up")), "up"),
                steps=((None, RED), (1, GREEN)),
            ),
            number(
                "Servers ready",
                "Servers that take new sessions, as their health check says.",
                "none",
                query(total(select("spikeseg_ready")), "ready"),
                steps=((None, RED), (1, GREEN)),
            ),
            number(
                "State store",
                "Servers that can use their state store; one in memory can always be used.",
                "percentunit",
                query(f"avg({select('spikeseg_state_store_up')})", "up"),
                steps=((None, RED), (1, GREEN)),
            ),
            number(
                "Active sessions",
                "Sessions that have not ended, over all servers.",
                "none",
                query(total(select("spikeseg_sessions_active")), "sessions"),
            ),
            number(
                "Not saved for",
                "Age of the oldest progress of any session that the state store does not have.",
                "s",
                query(f"max({select('spikeseg_checkpoint_age_seconds')})", "age"),
                steps=((None, GREEN), (5, AMBER), (30, RED)),
                decimals=1,
            ),
            number(
                "Versions",
                "Of the service; more than one while it is being replaced.",
                "none",
                query(f"count by (version) ({select('spikeseg_build_info')})", "{{version}}"),
                text=BigValueTextMode.VALUE_AND_NAME,
            ),
            "Servers",
            lines(
                "Up and ready",
                "1: answers and takes new sessions; 0: answers, but takes none.",
                "none",
                query(select("spikeseg_ready"), _EACH),
            ),
            lines(
                "Running for",
                "Time since each server was started.",
                "s",
                query(f"time() - {select_server('process_start_time_seconds')}", _EACH),
            ),
            lines(
                "Windows",
                "Windows segmented in a second, by server.",
                "cps",
                query(total(rate("spikeseg_windows_total"), "instance"), _EACH),
                stack=True,
            ),
            "Sessions",
            lines(
                "Sessions",
                "Sessions that have not ended, by server.",
                "none",
                query(select("spikeseg_sessions_active"), _EACH),
                stack=True,
            ),
            lines(
                "Connections",
                "WebSocket connections, by server.",
                "none",
                query(select("spikeseg_connections"), _EACH),
                stack=True,
            ),
            lines(
                "Coming and going",
                "In a second: sessions begun, clients that came back to their session, sessions taken up from the "
                "state store because another server had them before.",
                "cps",
                query(total(rate("spikeseg_sessions_opened_total")), "begun"),
                query(total(rate("spikeseg_sessions_resumed_total")), "resumed"),
                query(total(rate("spikeseg_sessions_taken_over_total")), "taken over"),
            ),
            lines(
                "State",
                "Membranes and pending events of all sessions, by server.",
                "bytes",
                query(select("spikeseg_state_bytes"), _EACH),
                stack=True,
                width=24,
            ),
            "State store",
            lines(
                "Store usable",
                "1 if the server can use its state store.",
                "none",
                query(select("spikeseg_state_store_up"), _EACH),
                width=6,
            ),
            lines(
                "Checkpoints",
                "In a second: checkpoints that arrived in the state store, and attempts that failed.",
                "cps",
                query(total(rate("spikeseg_checkpoint_seconds_count")), "arrived"),
                query(total(rate("spikeseg_checkpoint_failures_total")), "failed"),
                width=6,
            ),
            lines(
                "Duration of a checkpoint",
                "Time to make a checkpoint and bring it into the state store.",
                "s",
                query(quantile(0.5, "spikeseg_checkpoint_seconds"), "p50"),
                query(quantile(0.95, "spikeseg_checkpoint_seconds"), "p95"),
                width=6,
            ),
            lines(
                "Age of what is not saved",
                "What would have to be sent and computed again if the server died now.",
                "s",
                query(select("spikeseg_checkpoint_age_seconds"), _EACH),
                width=6,
            ),
        ],
    )
