"""A real Prometheus, for as long as a test takes."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.patience import PATIENCE_S
from tests.served import wait_until


def free_port() -> int:
    """Return a port of this host that nobody has just now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


class Prometheus:
    """A Prometheus that scrapes and knows the alerts."""

    def __init__(self, port: int) -> None:
        self._port = port

    def is_ready(self) -> bool:
        """Tell whether it can be asked."""
        try:
            return bool(self.query("vector(1)"))
        except (OSError, ValueError):
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of a PromQL expression now; fail if it is none."""
        answer = self._get("query", query=expression)
        assert answer["status"] == "success", (expression, answer)
        return list(answer["data"]["result"])

    def alerts(self) -> dict[str, str]:
        """Return the state of each alert; fail if one cannot be evaluated."""
        [group] = self._get("rules")["data"]["groups"]
        for rule in group["rules"]:
            assert (rule["health"], rule.get("lastError")) in (("ok", None), ("unknown", None))
        return {rule["name"]: rule["state"] for rule in group["rules"]}

    def expressions(self) -> list[str]:
        """Return what the alerts ask."""
        [group] = self._get("rules")["data"]["groups"]
        return [rule["query"] for rule in group["rules"]]

    def _get(self, what: str, **words: str) -> dict[str, Any]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        try:
            connection.request("GET", f"/api/v1/{what}?{urlencode(words)}")
            return dict(json.loads(connection.getresponse().read()))
        finally:
            connection.close()


@contextmanager
def prometheus(directory: Path, target: int, rules: Path) -> Iterator[Prometheus]:
    """A Prometheus with rules that scrapes a port of this host every second."""
    config = directory / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n"
        f"rule_files: [{rules}]\n"
        f"scrape_configs:\n- job_name: fusevol\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{target}']}}]\n"
    )
    port = free_port()
    with (
        (directory / "messages").open("wb") as messages,
        subprocess.Popen(
            ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
            stdout=messages, stderr=messages, cwd=directory,
        ) as process,
    ):  # fmt: skip
        try:
            found = Prometheus(port)
            wait_until(found.is_ready, "Prometheus")
            yield found
        finally:
            process.kill()
