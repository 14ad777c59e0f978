"""The server as several replicas behind Ray Serve (the extra `cluster`): each a process with models of its own.

A replica that dies is replaced, and requests that it had not answered end with an error of Ray's proxy. What one server
keeps between requests would be known to one replica alone, so `not_offered.py` refuses those routes here.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from castor.server.app import create_app
from castor.server.config import ServerConfig
from castor.server.keys import Keys
from castor.server.models import Offer

CHECK_S = 5.0  # between looks at whether a replica lives


def serve_replicas(
    make: Callable[[], list[Offer]], config: ServerConfig, keys: Keys, *, host: str, port: int, replicas: int
) -> None:
    """Answer with `replicas` processes until a signal comes; `make` gives each of them its models."""
    try:
        import ray
        from ray import serve
    except ModuleNotFoundError as error:
        raise ValueError(f"--ray needs Ray Serve, but {error.name} is missing: pip install 'castor[cluster]'") from None
    ray.init(include_dashboard=False, ignore_reinit_error=True, log_to_driver=False)
    serve.start(http_options={"host": host, "port": port, "request_timeout_s": None})
    serve.run(_deployment(serve, make, config, keys, replicas), name="castor", route_prefix="/")
    print(f"castor serves {config.name} with {replicas} replicas at http://{host}:{port}", file=sys.stderr, flush=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    serve.shutdown()
    ray.shutdown()


def _deployment(serve: Any, make: Callable[[], list[Offer]], config: ServerConfig, keys: Keys, replicas: int) -> Any:
    """What Ray runs: the application, made anew in each replica."""

    def build() -> Any:
        return create_app(make(), config, keys)

    options = {
        "num_replicas": replicas,
        "max_ongoing_requests": config.max_rows + config.max_waiting,
        "health_check_period_s": CHECK_S,
        "graceful_shutdown_timeout_s": float(config.drain_s),
        "ray_actor_options": {"num_cpus": 0},  # a replica's threads are counted by torch, not by Ray
    }
    return serve.deployment(**options)(serve.ingress(build)()).bind()
