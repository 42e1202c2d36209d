"""Numbers for Prometheus."""

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.types import Scope

from kinora.serve.job import ENDED, State
from kinora.serve.service import Service

__all__ = ["Metrics"]

STATES: Final[tuple[State, ...]] = ("queued", "running", *ENDED)


class Metrics:
    """Requests as this process has seen them, and jobs and workers as the database has them."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "kinora_requests",
            "HTTP requests",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "kinora_request_seconds", "Time of requests", ("route",), registry=self.registry
        )
        self.registry.register(_Jobs(service))

    def request(self, method: str, scope: Scope, status: int, seconds: float) -> None:
        """Count a request by its route: paths with ids in them would be endless."""
        route = getattr(scope.get("route"), "path", "other")
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Jobs(Collector):
    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> list[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("kinora_jobs", "Jobs by state", labels=["state"])
        counts = self.service.jobs.counts()
        for state in STATES:
            jobs.add_metric([state], counts.get(state, 0))
        workers = GaugeMetricFamily("kinora_workers", "Workers by model", labels=["model"])
        for model, count in self.service.models().items():
            workers.add_metric([model], count)
        return [jobs, workers]
