"""The client of the fork server: stands for the process that it asks for, signals and exit code included."""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

from forking.request import describe, receive, send

RELAYED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(real: list[str], address: str) -> NoReturn:
    """Run this program's arguments in a copy of the server's process.

    An interrupt of a client that leads a session is that of a terminal, and goes to all processes of the copy. If this
    process is killed, the server ends the copy and what it started.

    Args:
        real: the words by which a process of its own is started.
        address: of the server.
    """
    words = [*real, *sys.argv[1:]]
    request = describe(words)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(address)
        signal.pthread_sigmask(signal.SIG_BLOCK, RELAYED)  # until it is known whom to tell
        send(connection, request, (0, 1, 2))
        answer, _ = receive(connection)
        if not isinstance(answer, int):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, RELAYED)
            os.execv(words[0], words)
        _relay_to(answer)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, RELAYED)
        status, _ = receive(connection)
    if not isinstance(status, int):
        sys.exit("the fork server is gone")
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def _relay_to(process: int) -> None:
    """Pass on what arrives; the copy leads a group of its own."""
    leads = os.getsid(0) == os.getpid()

    def relay(number: int, frame: FrameType | None) -> None:
        try:
            if leads and number == signal.SIGINT:
                os.killpg(process, number)
            else:
                os.kill(process, number)
        except ProcessLookupError:  # it has ended; its status is on the way
            pass

    for number in RELAYED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, relay)
