#!/usr/bin/env python3
"""Several copies of a worker run, and exactly one may work. When it dies, another takes over at
once; one that cannot be sure any more stops by itself, before that. Standard library only.

    QUORUMD_SOCKET=/run/quorumd/quorumd.sock ./leader_election.py reports alice
"""

import http.client
import json
import os
import socket
import sys
import threading
import time

SOCKET = os.environ.get("QUORUMD_SOCKET", "/run/quorumd/quorumd.sock")
STEP = 1.0  # Seconds that a piece of work may take.


class Daemon(http.client.HTTPConnection):
    """HTTP over the daemon's unix socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # Runs on while the host sleeps.


class Leadership:
    """Won, until the stream says otherwise, or the time that was promised is over."""

    def __init__(self, stream, message):
        self.token, self.lease = message["token"], message["lease"]
        self.lost, self.until = False, 0.0
        threading.Thread(target=self.listen, args=(stream,), daemon=True).start()

    def listen(self, stream):
        try:
            for message in map(json.loads, stream):
                if message["state"] == "lost":
                    break
        except (OSError, http.client.HTTPException, ValueError):
            pass
        self.lost = True

    def lasts(self, seconds):
        """Whether nobody else can lead for so long. Asks the daemon anew when that gets close."""
        if not self.lost and self.until < now() + seconds + 3:
            before = now()  # The promise counts from before the question.
            try:
                daemon = Daemon("quorumd", timeout=1)
                daemon.request("GET", f"/v1/leases/{self.lease}?consistency=local")
                promised = json.load(daemon.getresponse()).get("valid_for_ms") or 0
                self.until = max(self.until, before + promised / 1000)
            except (OSError, http.client.HTTPException, ValueError):
                pass  # What was promised before still holds.
        return not self.lost and self.until > now() + seconds


def campaign(election, name):
    """Waits until this one leads. The stream stays open: its end is the end of the leadership."""
    daemon = Daemon("quorumd", timeout=None)
    daemon.request("POST", f"/v1/elections/{election}", json.dumps({"value": name}))
    stream = daemon.getresponse()
    for message in map(json.loads, stream):
        if message.get("state") == "leader":
            return Leadership(stream, message)
        print(name, "waits:", message.get("position", message), flush=True)
    raise ConnectionError("the stream ended")


def work(name, token):
    """Whatever this changes outside should be told the token, and refuse lower ones."""
    print(f"{name} works with token {token}", flush=True)
    time.sleep(STEP / 2)


election, me = (sys.argv[1:] + ["reports", f"pid-{os.getpid()}"])[:2]
while True:
    try:
        leadership = campaign(election, me)
        while leadership.lasts(STEP):
            work(me, leadership.token)
        print(me, "leads no longer", flush=True)
    except (OSError, http.client.HTTPException, ValueError) as error:
        print(me, "cannot campaign, tries again:", error, flush=True)
        time.sleep(1)
