"""Who may use the label server: the options of `medseg serve` about it, and the server's token."""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from medseg.atomic import write_whole
from medseg.errors import ConfigError

FILE = "access.json"
VARIABLE = "MEDSEG_TOKEN"
TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,512}")
"""What a token may be: it travels in addresses, in headers and as a password."""
UPLOAD_MB = 2048
"""MiB of a request with files, where `--max-upload-mb` does not say otherwise: a large CT has half of it."""
EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - compared with what was given


@dataclass(frozen=True)
class Access:
    """Who may use a server.

    Attributes:
        host: the address that it listens on.
        origins: web pages of other addresses (scheme, name and port) whose requests are answered; their names are also
            taken as names of this server, for it may stand behind a proxy of that name.
        needs_token: whether a token is asked for.
        upload_mb: MiB that a request with files may have.
    """

    host: str = "127.0.0.1"
    origins: tuple[str, ...] = ()
    needs_token: bool = True
    upload_mb: int = UPLOAD_MB

    @property
    def remote(self) -> bool:
        """Whether other machines can reach the server."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name, which may stand for anything
            return True

    @property
    def reached_by(self) -> str:
        """How clients name this machine in addresses."""
        name = socket.gethostname().lower() if self.host in EVERYWHERE else self.host
        return f"[{name}]" if ":" in name else name


def check_access(
    host: str, origins: Sequence[str], needs_token: bool, upload_mb: int, environ: Mapping[str, str]
) -> Access:
    """The options of the command line about who may use the server, checked.

    Args:
        host: `--host`.
        origins: `--origin`, each.
        needs_token: not `--no-token`.
        upload_mb: `--max-upload-mb`.
        environ: of the process.

    Raises:
        ConfigError: an origin that is none, a limit below 1, or a token that cannot be one or is not wanted.
    """
    if upload_mb < 1:
        raise ConfigError(f"--max-upload-mb {upload_mb}: 1 or more is possible")
    if not needs_token and VARIABLE in environ:
        raise ConfigError(f"--no-token and a token in {VARIABLE} contradict each other; leave one of them away")
    access = Access(host, tuple(parse_origin(text) for text in origins), needs_token, upload_mb)
    resolve_token(access, environ)
    return access


def parse_origin(text: str) -> str:
    """An origin as browsers write it.

    Raises:
        ConfigError: it is none.
    """
    hint = "give scheme, name and port, such as https://viewer.hospital.org or http://127.0.0.1:3000"
    try:
        parts = urlsplit(text.strip().lower())
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"--origin {text!r} is none ({error})", hint=hint) from error
    wrong = parts.scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9.:_-]+", parts.hostname or "")
    if wrong or parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(f"--origin {text!r} is none", hint=hint)
    name = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    standard = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{name}" + (f":{port}" if port not in (None, standard) else "")


def resolve_token(access: Access, environ: Mapping[str, str]) -> str | None:
    """The token of a server: that of `MEDSEG_TOKEN`, or a new one; None if none is asked for.

    Raises:
        ConfigError: `MEDSEG_TOKEN` cannot be a token.
    """
    if not access.needs_token:
        return None
    if environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() in ("1", "true", "yes", "on", "t", "y"):
        raise ConfigError(
            "MONAI_LABEL_AUTH_ENABLE and our token are two ways to let users in",
            hint="unset it, or give --no-token and leave it to MONAI Label",
        )
    if VARIABLE not in environ:
        return secrets.token_hex(24)
    token = environ[VARIABLE]
    if not TOKEN.fullmatch(token):
        raise ConfigError(
            f"{VARIABLE} has {len(token)} characters; 16 to 512 letters, digits, '.', '_', '~' and '-' are wanted",
            hint='for instance MEDSEG_TOKEN="$(openssl rand -hex 24)"',
        )
    return token


def write_access(app: Path, access: Access) -> None:
    """Tell the server who may use it; its token is in no file.

    Raises:
        OutputError: it cannot be written.
    """
    write_whole(app / FILE, json.dumps(asdict(access), indent=1) + "\n")


def read_access(app: Path) -> Access:
    """The options that `medseg serve` has written for the server.

    Raises:
        ConfigError: the file is gone or damaged.
    """
    try:
        content = dict(json.loads((app / FILE).read_text("utf-8")))
        return Access(**{**content, "origins": tuple(content["origins"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("does not say who may use the server", path=app / FILE, hint="start it anew") from error


def warnings_of(access: Access) -> list[str]:
    """What whoever starts a server should know."""
    found = []
    if access.remote:
        found.append(
            f"--host {access.host} lets other machines in: without TLS (a proxy that speaks it, or the line of --print "
            "with --ssl_certfile and --ssl_keyfile) whoever sees the network reads token and images"
        )
    if not access.needs_token:
        who = "every machine that reaches this one" if access.remote else "every user and program of this machine"
        found.append(f"--no-token: {who} may read all studies, save and delete labels, and start trainings")
    return found


def greeting(address: str, page: str, token: str | None, shown: bool) -> list[str]:
    """How the server is reached, for who started it.

    Args:
        address: scheme, name and port.
        page: to open in a browser.
        token: None: none is asked for.
        shown: false: it was given by `MEDSEG_TOKEN`, and is known; what a service prints is kept in logs.
    """
    if token is None:
        return [f"serving at {address}{page}; no token is asked for"]
    if not shown:
        return [f"serving at {address}{page}?token=TOKEN; the token is that of {VARIABLE}"]
    return [
        f"in a browser: {address}{page}?token={token}",
        f"in 3D Slicer: server {address}, any name, and as password {token}",
    ]
