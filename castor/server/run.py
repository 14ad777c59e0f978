"""The server as a process: it takes an address, says how to talk to it, and ends without breaking answers off."""

from __future__ import annotations

import signal
import socket
import sys
from types import FrameType

import uvicorn

from castor.engine.model import Model
from castor.server.app import create_app
from castor.server.config import ServerConfig
from castor.server.connections import PatientUpTo
from castor.server.keys import Keys
from castor.server.measures import log_to_stderr
from castor.server.models import Offer
from castor.server.service import Service

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class DrainingServer(uvicorn.Server):
    """On SIGTERM or Ctrl-C: no new requests, those under way are finished; a second Ctrl-C ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. It is not kept to be raised again at the end, as uvicorn does: to end well is status 0."""
        self.service.is_draining = True
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; ValueError says why the address cannot be had. Port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}") from None


def serve(offered: Model | list[Offer], config: ServerConfig, keys: Keys, bound: socket.socket) -> None:
    """Answer until a signal comes."""
    app = create_app(offered, config, keys)
    log_to_stderr()
    settings = uvicorn.Config(
        app, http=PatientUpTo, log_config=None, access_log=False, timeout_graceful_shutdown=config.drain_s
    )
    names = [" = ".join(offer.names) for offer in app.state.service.models.offers]
    print(welcome(names, keys, *bound.getsockname()[:2]), file=sys.stderr, flush=True)
    DrainingServer(settings, app.state.service).run(sockets=[bound])


def welcome(names: list[str], keys: Keys, host: str, port: int) -> str:
    """What a person reads at the start; `names` of each model, joined by " = "."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"
    key = "your key" if len(keys) else "none"
    lines = [
        f"castor serves {', '.join(names)} at {url}; Ctrl-C ends it",
        f"  a browser        {url}/",
        f'  Google\'s client  genai.Client(api_key="{key}", http_options={{"base_url": "{url}"}})',
        f'  OpenAI\'s client  OpenAI(api_key="{key}", base_url="{url}/v1")',
        f"  by hand          curl {url}/v1beta/models/{names[0].partition(' = ')[0]}:generateContent "
        """-d '{"contents":[{"parts":[{"text":"Hello"}]}]}'""",
    ]
    if not len(keys) and host not in LOOPBACK:
        lines.append("  ! other machines can reach this address, and no API key is asked for: see --api-key-file")
    return "\n".join(lines)
