"""Runs the Milvus server that PyPI's milvus==2.3.5 carries, reachable at 127.0.0.1 alone: python milvus_server.py DIR

To be run by a Python that has that package (Linux, x86_64). The server listens on all interfaces and can't be told
otherwise, so it runs in a network namespace of its own, and this script passes on what comes to a port of 127.0.0.1.
Prints that port when the server answers, then what is asked for: the line `kill` kills the server at once and starts
it again on what it kept; the end of the standard input ends server and script.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
import threading
from typing import Any

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET
SET_INTERFACE_FLAGS, UP_AND_RUNNING = 0x8914, 0x41  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
NO_NAMESPACE = 3  # exit status: neither root nor user namespaces are to be had here
COMPONENTS = ("rootCoord", "proxy", "queryCoord", "queryNode", "dataCoord", "dataNode", "indexNode")


def enter_namespace() -> None:
    """A network of this process's own with a loopback interface; sockets made before stay where they were made."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK) and libc.unshare(NEW_USER | NEW_NETWORK):
        print(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        raise SystemExit(NO_NAMESPACE)
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SET_INTERFACE_FLAGS, struct.pack("16sh14x", b"lo", UP_AND_RUNNING))


def start(folder: str) -> Any:
    from milvus import MilvusServer, MilvusServerConfig

    server = MilvusServer(MilvusServerConfig(data_dir=folder))
    for component in COMPONENTS:
        server.config.set(f"{component}.ip", "127.0.0.1")  # else it looks for an interface that is not there
    server.config.set("log.level", "error")
    server.config.set("common.session.ttl", 5)  # so long a killed server's parts count as there
    server.start()
    return server


def die_with_parent() -> None:
    """The wrapper's child outlives it otherwise."""
    import subprocess

    libc, plain = ctypes.CDLL(None), subprocess.Popen

    def popen(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, preexec_fn=lambda: libc.prctl(DIE_WITH_PARENT, signal.SIGKILL), **kwargs)

    subprocess.Popen = popen  # type: ignore[assignment, misc]


def pass_on(listener: socket.socket, ports: list[int]) -> None:
    """Each connection to the listener, to the server's last port inside and back."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    while True:
        outside, _ = listener.accept()
        try:
            inside = socket.create_connection(("127.0.0.1", ports[-1]))
        except OSError:
            outside.close()
            continue
        for end in (outside, inside):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pair in ((outside, inside), (inside, outside)):
            threading.Thread(target=copy, args=pair, daemon=True).start()


def main(folder: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    enter_namespace()
    die_with_parent()
    server = start(folder)
    ports = [server.listen_port]
    threading.Thread(target=pass_on, args=(listener, ports), daemon=True).start()
    try:
        print(listener.getsockname()[1], flush=True)
        for line in sys.stdin:
            if line.strip() == "kill":
                os.kill(server.server_proc.pid, signal.SIGKILL)
                server.server_proc.wait()
                server = start(folder)
                ports.append(server.listen_port)  # another: the last one's is still held by the system
                print("again", flush=True)
    finally:
        os.kill(server.server_proc.pid, signal.SIGKILL)  # what it holds goes with its folder
        server.server_proc.wait()


if __name__ == "__main__":
    main(sys.argv[1])
