"""Settings of the service, from environment variables that begin with ``SPIKESEG_``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.zoo import ZOO
from service.origins import names_in, origin_of
from service.wire.masks import MaskEncoding

PACKAGE = Path(__file__).resolve().parent


class Settings(BaseSettings):
    """Every setting, its default and its unit; ``SPIKESEG_PORT=9000`` sets ``port``."""

    model_config = SettingsConfigDict(env_prefix="SPIKESEG_", frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe line to log."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="Log lines as JSON or as text; auto is text on a terminal and JSON elsewhere."
    )
    access_log: bool = Field(default=True, description="Log a line for each HTTP request and WebSocket connection.")
    traces: bool | None = Field(
        default=None,
        description="Send traces over OTLP; if not set, when OTEL_EXPORTER_OTLP_ENDPOINT names a collector.",
    )
    compute_slow_seconds: float = Field(
        default=10.0, gt=0, description="A batch that takes longer makes the server's health degraded."
    )
    compute_stuck_seconds: float = Field(
        default=300.0, gt=0, description="A batch that takes longer counts as stuck: the server is no longer live."
    )
    shutdown_seconds: int = Field(default=5, ge=0, description="Time for requests under way to finish on shutdown.")

    keys_file: Path | None = Field(
        default=None, description="File of API keys, made by python -m service.keys; anybody may do anything without."
    )
    insecure: bool = Field(
        default=False, description="Listen on other addresses than loopback without keys: something in front checks."
    )
    tls_cert: Path | None = Field(default=None, description="Certificate (PEM, with its chain); serves HTTPS and WSS.")
    tls_key: Path | None = Field(default=None, description="Private key (PEM) of the certificate.")
    tls_client_ca: Path | None = Field(
        default=None, description="Only clients with a certificate of these authorities (PEM) are served."
    )
    trusted_proxies: str = Field(
        default="127.0.0.1",
        description="Addresses and networks, with commas between, whose X-Forwarded-For and -Proto are believed.",
    )
    allowed_origins: str = Field(
        default="",
        description="Origins besides its own whose pages may use this server: https://app.example, commas between.",
    )
    allowed_hosts: str = Field(
        default="", description="Host names that requests may be for, with commas between; any if empty."
    )
    request_rate: float = Field(
        default=500.0, ge=0, description="Requests and handshakes a second of a key, or of an address; 0: no limit."
    )
    request_burst: float = Field(default=2000.0, ge=1, description="So many of these may come at once.")
    refusal_rate: float = Field(
        default=0.5, ge=0, description="Requests a second of an address that are refused as 401, 403 or 421; then 429."
    )
    refusal_burst: float = Field(default=30.0, ge=1, description="So many of these may come at once.")

    zoo: Path = Field(default=ZOO, description="Folder of the trained networks: NAME.json and its weights.")
    default_model: str = Field(default="edge-s", description="Model of requests that name none; loaded at start.")
    frame_model: str = Field(default="paper-deeplab-voc", description="Model of pictures that come with no name.")
    backend: Literal["auto", "torch", "event-driven"] = Field(
        default="auto",
        description="What computes the networks: torch, event-driven (where spikes are alone; needs a C compiler at the"
        " first start), or auto: event-driven where it can run. With a state store auto is event-driven: a replica that"
        " cannot run it does not start, since its sessions could not move.",
    )
    weights: Literal["float32", "bfloat16", "int8"] = Field(
        default="float32",
        description="What the weights of the streaming networks are rounded to: int8 takes less memory and time and may"
        " cost accuracy. A session goes on only where they are rounded as where it was opened.",
    )
    cores: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="Threads that compute, over all sessions."
    )
    max_batch: int = Field(default=4, ge=1, description="Most windows, of different sessions, computed together.")
    batch_wait_ms: float = Field(
        default=0.0, ge=0, description="How long a window may wait for others to be computed with, in milliseconds."
    )
    exact: bool = Field(
        default=True,
        description="Answers have the same bits whoever else is served; without it, batches may round differently.",
    )
    codec_workers: int = Field(default=2, ge=1, description="Threads that decode bodies and encode masks.")

    default_mask: MaskEncoding = Field(
        default=MaskEncoding.ZLIB, description="Mask encoding of sessions that name none."
    )
    min_window_us: int = Field(default=1_000, ge=1, description="Shortest window, in microseconds.")
    max_window_us: int = Field(default=10_000_000, ge=1, description="Longest window, in microseconds.")
    max_windows_per_message: int = Field(
        default=256, ge=1, description="Most windows that one message or request may close."
    )
    max_events_per_window: int = Field(default=4_000_000, ge=1, description="Most events in one window.")
    max_sensor_side: int = Field(default=4096, ge=1, le=65535, description="Longest side of a sensor, in pixels.")
    max_sensor_pixels: int = Field(default=2_097_152, ge=1, description="Largest sensor, in pixels.")

    max_body_bytes: int = Field(default=32 * 2**20, ge=1, description="Largest HTTP body with events.")
    max_json_bytes: int = Field(
        default=4 * 2**20, ge=1, description="Largest HTTP body with events in JSON, which nothing runs beside."
    )
    max_packets_per_body: int = Field(default=16_384, ge=1, description="Most event packets in one HTTP body.")
    max_recording_bytes: int = Field(
        default=256 * 2**20, ge=1, description="Largest HTTP body with a recording to convert."
    )
    max_snapshot_bytes: int = Field(default=256 * 2**20, ge=1, description="Largest HTTP body with a snapshot.")
    max_message_bytes: int = Field(
        default=16 * 2**20, ge=1024, description="Largest WebSocket message, header included."
    )
    head_seconds: float = Field(default=10.0, gt=0, description="Time for the head of an HTTP request to arrive.")
    body_seconds: float = Field(default=60.0, gt=0, description="Time for an HTTP body to arrive.")
    hello_seconds: float = Field(default=10.0, gt=0, description="Time for a WebSocket client to say hello.")
    send_seconds: float = Field(default=60.0, gt=0, description="Time for a client to take what it is sent.")
    ping_seconds: float = Field(
        default=20.0, gt=0, description="Time between WebSocket pings; they keep proxies awake."
    )
    pong_seconds: float = Field(
        default=60.0, gt=0, description="A WebSocket client that after a ping is silent for so long is gone."
    )

    max_connections: int = Field(default=256, ge=1, description="Most WebSocket connections at a time.")
    max_sessions: int = Field(default=64, ge=1, description="Most sessions at a time.")
    max_state_bytes: int = Field(
        default=4 * 2**30, ge=1, description="Memory for the membranes and held events of all sessions."
    )
    idle_seconds: float = Field(
        default=120.0, gt=0, description="A session that no connection holds ends after this silence."
    )
    attached_idle_seconds: float = Field(
        default=600.0, gt=0, description="A connection that sends nothing for so long is closed."
    )
    lifetime_seconds: float = Field(default=86_400.0, gt=0, description="A session ends so long after it was opened.")
    ended_seconds: float = Field(
        default=30.0, gt=0, description="For so long the last answers of an ended session are kept."
    )
    reap_seconds: float = Field(default=1.0, gt=0, description="Time between two looks for idle sessions.")
    replay_bytes: int = Field(
        default=4 * 2**20,
        ge=0,
        description="Answers kept for each session, for clients that lost them with a connection.",
    )

    queue_messages: int = Field(
        default=16, ge=1, description="Messages of a session that are taken up before they are answered (its credit)."
    )
    queue_bytes: int = Field(default=32 * 2**20, ge=1, description="Bytes of such messages.")
    queue_windows: int = Field(
        default=4, ge=1, description="Windows that wait in sessions that drop or merge and name no number."
    )
    retry_seconds: int = Field(default=5, ge=1, description="Retry-After of answers that turn a connection away.")

    store_url: SecretStr = Field(
        default=SecretStr(""),
        description="Redis or Valkey that keeps checkpoints of sessions, redis://HOST:PORT/0; in memory if empty.",
    )
    store_prefix: str = Field(default="spikeseg:", description="What the store's keys begin with.")
    store_seconds: float = Field(default=2.0, gt=0, description="Time for the store to answer.")
    store_threads: int = Field(default=2, ge=1, description="Checkpoints written or read at a time.")
    checkpoint_seconds: float = Field(
        default=1.0, ge=0, description="Least time between two checkpoints of a session that streams."
    )
    checkpoint_ttl_seconds: float = Field(
        default=3600.0, gt=0, description="The store forgets a session that no server has saved for so long."
    )
    drain_notice_seconds: float = Field(
        default=1.0,
        ge=0,
        description="Time for proxies to see that the server is about to stop, while it still takes what comes.",
    )
    drain_seconds: float = Field(
        default=20.0, ge=0, description="Time to hand the sessions over when the server is told to stop."
    )

    demo_recording: Path = Field(
        default=PACKAGE / "demo" / "street.aedat4", description="AEDAT4 file that GET /v1/recordings/demo answers with."
    )

    @field_validator("keys_file", "tls_cert", "tls_key", "tls_client_ca", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def backend_of_replica(self) -> Literal["auto", "torch", "event-driven"]:
        """The backend; where sessions move between replicas, ``auto`` may not mean another one on each of them."""
        return "event-driven" if self.backend == "auto" and self.store_url.get_secret_value() else self.backend

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: str) -> str:
        for origin in names_in(value):
            if origin_of(origin) is None:
                raise ValueError(f"{origin!r} is no origin, such as https://app.example")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_window_us > self.max_window_us:
            raise ValueError("min_window_us is larger than max_window_us")
        if self.compute_slow_seconds > self.compute_stuck_seconds:
            raise ValueError("compute_slow_seconds is larger than compute_stuck_seconds")
        if self.default_mask is MaskEncoding.NPY:
            raise ValueError("default_mask must be zlib, raw or png")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        scheme = self.store_url.get_secret_value().partition("://")[0]
        if scheme not in ("", "redis", "rediss", "unix", "valkey", "valkeys"):
            raise ValueError("store_url must begin with redis://, rediss:// or unix://, or be empty")
        return self
