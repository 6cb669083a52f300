#!/usr/bin/env python3
"""A service shall follow its configuration while it runs: begin with what is there, learn each
change once and in order, and miss none while the daemon restarts. Standard library only.

    QUORUMD_SOCKET=/run/quorumd/quorumd.sock ./watch_config.py config/   # messages: docs/api.md
"""

import http.client
import json
import os
import socket
import sys
import time
import urllib.parse

SOCKET = os.environ.get("QUORUMD_SOCKET", "/run/quorumd/quorumd.sock")
SILENCE = 15  # Seconds. The daemon says something every 10 s, else the connection is dead.


class Daemon(http.client.HTTPConnection):
    """HTTP over the daemon's unix socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SILENCE)
        self.sock.connect(SOCKET)


def messages(query):
    connection = Daemon("quorumd")
    try:
        connection.request("GET", "/v1/watch?" + urllib.parse.urlencode(query))
        response = connection.getresponse()
        if response.status == 200:
            yield from map(json.loads, response)
        else:
            yield {**json.load(response), "type": "error"}
    finally:
        connection.close()


def follow(prefix):
    """Yields (revision, settings) after each change."""
    settings, resume, epoch = {}, None, None
    while True:
        # Without a place to resume from: the whole state first, then its changes, without a gap.
        query = {"initial": "true"} if resume is None else {"from": resume, "epoch": epoch}
        try:
            for message in messages({"prefix": prefix, **query}):
                kind, revision = message["type"], message.get("revision")
                if kind == "resync" or (kind == "error" and message["code"] == "compacted"):
                    settings, resume = {}, None
                elif kind == "snapshot":
                    settings.update((record["key"], record["value"]) for record in message["keys"])
                elif kind == "synced":
                    epoch = message["epoch"]
                    if resume is None:
                        resume = revision + 1
                        yield revision, settings
                elif kind == "changes":
                    for event in message["events"]:
                        settings.pop(event["key"], None)
                        if event["type"] == "put":
                            settings[event["key"]] = event["value"]
                    resume = revision + 1
                    yield revision, settings
                elif kind == "progress" and resume is not None:
                    resume = max(resume, revision + 1)
                elif kind == "error":
                    print(message["code"], message["detail"], file=sys.stderr)
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            print("interrupted, resuming:", error, file=sys.stderr)
        settings = settings if resume else {}
        time.sleep(0.5)


for at, found in follow(sys.argv[1] if len(sys.argv) > 1 else "config/"):
    print(f"revision {at}: {found}", flush=True)
