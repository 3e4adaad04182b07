"""Events over MQTT: who is seen and how, as it changes."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from edge_stra.extras import install_command
from edge_stra.live.scene import Scene
from edge_stra.quiet import encodable, without_secret
from edge_stra.spec import MissingError, OutputError

PASSWORD_VARIABLE = "EDGE_STRA_MQTT_PASSWORD"
PORTS = {"mqtt": 1883, "mqtts": 8883}
CONNECT_S = 5.0
GOODBYE_S = 2.0
MAX_QUEUED = 100  # events kept while the broker is away; later ones are dropped
QUEUE_FULL = 15  # paho's MQTT_ERR_QUEUE_SIZE
MAX_TOPIC_BYTES = 65535 - len("/status")


class MqttOutput:
    """Publishes a scene's JSON when the tracks or their names change, and every `every_s` while anything is seen.

    url: mqtt://user@host:1883 or mqtts://host:8883; the password comes from EDGE_STRA_MQTT_PASSWORD. TOPIC takes the
    events (QoS 1), TOPIC/status the retained words "online" and "offline", the latter from the broker itself where the
    app dies. A broker that goes away later is connected to again, and never holds the app up; `tell` takes a line when
    it goes, when it refuses to come back, and when it is back. Raises MissingError without paho-mqtt, OutputError for a
    wrong URL or topic and for a broker that can't be reached at the start.
    """

    def __init__(
        self, url: str, topic: str, every_s: float = 1.0, tell: Callable[[str], None] = lambda line: None
    ) -> None:
        host, port, user, secure = parse_url(url)
        check_topic(topic)
        self.topic, self.every_s, self.dropped, self.tell = topic, every_s, 0, tell
        self._told_dropped, self._away, self._closing = 0, "", False
        self._seen: list[tuple[str, str]] = []
        self._sent_s = -float("inf")
        self._last: Any = None
        self._answered = threading.Event()
        self._refusal: str | None = None
        self._client = make_client(user, secure)
        self._client.will_set(f"{topic}/status", "offline", qos=1, retain=True)
        self._client.on_connect, self._client.on_disconnect = self._on_connect, self._on_disconnect
        self._where = where = f"the MQTT broker {host}:{port}"
        try:
            self._client.connect(host, port, keepalive=30)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"{where} must be reachable, but: {reason}; start it or correct the URL") from error
        self._client.loop_start()
        if not self._answered.wait(CONNECT_S):
            self._refusal = f"it did not answer within {CONNECT_S:g} s"
        if self._refusal is not None:
            self._end()
            raise OutputError(f"{where} must accept this client, but: {self._refusal}; see {PASSWORD_VARIABLE}")

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        """Runs in paho's thread, at each connection."""
        if not reason.is_failure:
            client.publish(f"{self.topic}/status", "online", qos=0, retain=True)  # QoS 1 would wait behind a full queue
            if self._away:
                lost, self._told_dropped, self._away = self.dropped - self._told_dropped, self.dropped, ""
                self.tell(f"{self._where} is back; {lost} events were dropped meanwhile")
        elif not self._answered.is_set():
            self._refusal = str(reason)
        else:
            self._miss(f"refuses this client: {reason}; see {PASSWORD_VARIABLE}")
        self._answered.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        """Runs in paho's thread; paho then tries to connect again."""
        if self._answered.is_set() and self._refusal is None and not self._closing and not self._away:
            self._miss(f"is away ({reason}); the first {MAX_QUEUED} events wait for it, later ones are dropped")

    def _miss(self, how: str) -> None:
        """Tells once of each way in which the broker is missed."""
        if how != self._away:
            self.tell(f"{self._where} {how}")
        self._away = how

    def write(self, scene: Scene) -> None:
        seen = sorted((str(row.get("track")), str(row.get("label", row.get("identity")))) for row in scene.rows)
        now_s = time.monotonic()
        if seen == self._seen and not (seen and now_s - self._sent_s >= self.every_s):
            return
        payload = json.dumps(scene.to_json(), ensure_ascii=False, separators=(",", ":"))
        sent = self._client.publish(self.topic, encodable(payload).encode(), qos=1)
        if sent.rc == QUEUE_FULL:
            self.dropped += 1
            return  # the change is told with the next scene that finds room
        self._seen, self._sent_s, self._last = seen, now_s, sent

    def close(self) -> None:
        if self._client.is_connected():
            word = self._client.publish(f"{self.topic}/status", "offline", qos=0, retain=True)
            for message in (self._last, word):
                if message is not None and message.rc == 0:
                    with contextlib.suppress(RuntimeError, ValueError):  # the broker went in this very moment
                        message.wait_for_publish(GOODBYE_S)
        self._end()

    def _end(self) -> None:
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()


def make_client(user: str | None, secure: bool) -> Any:
    """A paho client that connects again by itself. Raises MissingError without paho-mqtt 2."""
    try:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion
    except ImportError as error:
        raise MissingError(f"MQTT needs paho-mqtt 2 or later; run: {install_command('mqtt')}") from error
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect_timeout = CONNECT_S
    client.reconnect_delay_set(1, 30)
    client.max_queued_messages_set(MAX_QUEUED)
    password = os.environ.get(PASSWORD_VARIABLE)
    for what, word in (("the user in the URL", user or ""), (PASSWORD_VARIABLE, password or "")):
        if word != encodable(word):
            raise OutputError(f"{what} must be UTF-8, but is not; write it in a terminal whose encoding is UTF-8")
    if user is not None:
        client.username_pw_set(user, password)
    elif password:
        raise OutputError(f"{PASSWORD_VARIABLE} is set, but the URL names no user; write mqtt://USER@host")
    if secure:
        client.tls_set()
    return client


def parse_url(url: str) -> tuple[str, int, str | None, bool]:
    """Host, port, user and whether TLS is wanted. Raises OutputError, which never repeats a password."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        raise OutputError(
            "an MQTT URL must be mqtt://user@host:1883 or mqtts://..., but its port is no number"
        ) from None
    if parts.password is not None:
        raise OutputError(
            f"an MQTT URL must not hold the password, which others on this machine could read; "
            f"put it in {PASSWORD_VARIABLE}"
        )
    if parts.scheme not in PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise OutputError(
            f"an MQTT URL must be mqtt://user@host:1883 or mqtts://user@host:8883, but is {without_secret(url)[:80]!r}"
        )
    return parts.hostname, port, unquote(parts.username) if parts.username else None, parts.scheme == "mqtts"


def check_topic(topic: str) -> None:
    bad = not topic or set(topic) & set("+#\0") or topic.startswith("$") or topic != encodable(topic)
    if bad or len(topic.encode()) > MAX_TOPIC_BYTES:
        raise OutputError(f"an MQTT topic must be a name like home/door, without + and #, but is {topic[:60]!r}")
