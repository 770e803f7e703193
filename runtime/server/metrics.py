"""What a server counts and times, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

import switchkd
from switchkd.runtime.engines.timings import Timings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
_PHASES = ("encode", "prefill", "decode")  # pictures are prepared outside the engine


class Metrics:
    """A server's own registry. All times are in seconds.

    Args:
        models: the served models' names, and how long loading each took.
        waiting: tells how many requests wait now.
        busy: tells whether the engine is answering one now.
    """

    def __init__(self, models: Mapping[str, float], waiting: Callable[[], float], busy: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        info = Gauge("skd_info", "What is served.", ("model", "version"), registry=registry)
        for model in models:
            info.labels(model, switchkd.__version__).set(1)
        load = Gauge("skd_load_seconds", "Time that loading the models took.", registry=registry)
        load.set(sum(models.values()))
        Gauge("skd_waiting", "Requests that wait for an engine.", registry=registry).set_function(waiting)
        Gauge("skd_busy", "1 while an engine answers a request.", registry=registry).set_function(busy)
        self._requests = Counter("skd_requests", "Chat requests by HTTP status.", ("status",), registry=registry)
        self._tokens = Counter("skd_tokens", "Tokens read (prompt) and decoded.", ("kind",), registry=registry)
        self._pictures = Counter("skd_pictures", "Pictures encoded.", registry=registry)
        self._phases = Histogram("skd_phase_seconds", "Time by phase.", ("phase",), buckets=_SECONDS, registry=registry)
        self._whole = Histogram(
            "skd_request_seconds", "From a request's arrival to its answer's end.", buckets=_SECONDS, registry=registry
        )
        self._wait = Histogram(
            "skd_wait_seconds",
            "From a request's arrival to the engine's beginning.",
            buckets=_SECONDS,
            registry=registry,
        )
        for phase in _PHASES:
            self._phases.labels(phase)

    def responded(self, status: int) -> None:
        """A chat request got its status; 499: the client had gone."""
        self._requests.labels(str(status)).inc()

    def answered(self, timings: Timings, waited: float, seconds: float, pictures: int) -> None:
        """The engine finished a request."""
        self._tokens.labels("prompt").inc(timings.prompt_tokens)
        self._tokens.labels("decoded").inc(timings.new_tokens)
        self._pictures.inc(pictures)
        for phase in _PHASES:
            if value := getattr(timings, phase):
                self._phases.labels(phase).observe(value)
        self._wait.observe(waited)
        self._whole.observe(seconds)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
