"""A closed loop of clients against `semanticist serve`, some of which do not behave.

    semanticist serve --port 7860 &
    python3 scripts/studio/load.py 127.0.0.1 7860 PHOTO --seconds 180 --clients 8 --pid $!

Every client asks, waits for the answer, and asks again: reconstructions, tokens, pictures of tokens and of a class; and in
between half bodies, bodies that are too large, pictures that are bombs, connections that vanish, and 200 at once. Says how
long good requests took, what the faulty ones were answered, whether equal requests had equal answers (whatever they were
computed together with), how many of a kind were computed in a batch, and, on Linux, what memory the process had at the start
and at the end. With --kinds decode and --faults 0 it measures what batches gain over a version without them. Needs nothing
but Python.
"""

import argparse
import collections
import hashlib
import http.client
import json
import random
import re
import socket
import threading
import time


class Load:
    def __init__(self, arguments):
        self.arguments = arguments
        self.photo = open(arguments.photo, "rb").read()
        self.lock = threading.Lock()
        self.seconds = collections.defaultdict(list)
        self.answers = collections.Counter()
        self.digests = collections.defaultdict(set)
        self.end = time.monotonic() + arguments.seconds

    def ask(self, kind, path, body, content):
        """One request whose answer must be right, or 429, after which is waited as told."""
        begun = time.monotonic()
        connection = http.client.HTTPConnection(self.arguments.host, self.arguments.port, timeout=300)
        connection.request("POST", path, body=body, headers={"Content-Type": content})
        response = connection.getresponse()
        first, data = None, b""
        while chunk := response.read1(65536):
            data += chunk
            if first is None and (b"event: preview" in data or b"event: pictures" in data):
                first = time.monotonic() - begun
        connection.close()
        with self.lock:
            self.answers[kind, response.status] += 1
            if response.status == 200:
                self.seconds[kind].append(time.monotonic() - begun)
                if first is not None:
                    self.seconds[f"{kind}, first picture"].append(first)
                # Of events, what is finished: how many previews are sent depends on how fast they are taken.
                final = re.sub(rb'"seconds":[0-9.e-]+', b"", data[max(0, data.rfind(b"event: pictures")) :])
                self.digests[kind, path, hashlib.sha256(body).hexdigest()].add(hashlib.sha256(final).hexdigest())
                if b"event: error" in data:
                    self.answers[kind, "error event"] += 1
        if response.status == 429:
            time.sleep(int(response.getheader("Retry-After")))

    def connect(self):
        return socket.create_connection((self.arguments.host, self.arguments.port), timeout=60)

    def head(self, path, length):
        return f"POST {path} HTTP/1.1\r\nHost: {self.arguments.host}\r\nContent-Length: {length}\r\n\r\n".encode()

    def vanish(self):
        """Leaves while the pictures are computed."""
        with self.connect() as client:
            client.sendall(self.head("/api/reconstruct?steps=250", len(self.photo)) + self.photo)
            time.sleep(random.uniform(0, 2))
        self.count("vanished", "-")

    def crowd(self):
        """Opens 200 connections, asks nothing, and leaves."""
        crowd = [self.connect() for _ in range(200)]
        time.sleep(1)
        for client in crowd:
            client.close()
        self.count("200 connections", "-")

    def half(self):
        """Sends half a body, and leaves a little later."""
        with self.connect() as client:
            client.sendall(self.head("/api/encode", len(self.photo)) + self.photo[: len(self.photo) // 2])
            time.sleep(random.uniform(0, 2))
        self.count("half a body", "-")

    def large(self):
        """Says that 100 MB come."""
        with self.connect() as client:
            client.sendall(self.head("/api/encode", 100_000_000))
            self.count("100 MB", client.recv(12).decode()[-3:])

    def bomb(self):
        """A PNG of 30000 × 30000 pixels, as its header says."""
        body = self.photo[:16] + bytes([0, 0, 0x75, 0x30] * 2) + self.photo[24:]
        with self.connect() as client:
            client.sendall(self.head("/api/encode", len(body)) + body)
            self.count("bomb", client.recv(12).decode()[-3:])

    def count(self, kind, answer):
        with self.lock:
            self.answers[kind, answer] += 1

    def good(self):
        """A request of one of the kinds."""
        kind, seed = random.choice(self.arguments.kinds), random.randrange(4)
        drawing = json.dumps({"class": str(seed), "count": 1}).encode()
        path, body, content = {
            "reconstruct": (f"/api/reconstruct?seed={seed}&previews=6", self.photo, "image/png"),
            "encode": ("/api/encode", self.photo, "image/png"),
            "decode": (f"/api/decode?seed={seed}", self.tokens, "application/json"),
            "generate": ("/api/generate", drawing, "application/json"),
        }[kind]
        self.ask(kind, path, body, content)

    def client(self):
        bad = [self.vanish, self.half, self.large, self.bomb, self.crowd]
        while time.monotonic() < self.end:
            try:
                if random.random() < self.arguments.faults:
                    random.choice(bad)()
                else:
                    self.good()
            except OSError as error:
                self.count("connection", type(error).__name__)

    def batches(self):
        """Jobs and batches by kind, so far."""
        found = collections.defaultdict(dict)
        connection = http.client.HTTPConnection(self.arguments.host, self.arguments.port, timeout=300)
        connection.request("GET", "/metrics")
        for line in connection.getresponse().read().decode().splitlines():
            if match := re.match(r'semanticist_(jobs|batches)_total\{kind="(\w+)"(,outcome="done")?\} (\d+)', line):
                found[match[2]][match[1]] = int(match[4])
        connection.close()
        return {kind: counts for kind, counts in found.items() if "batches" in counts}

    def memory(self):
        try:
            with open(f"/proc/{self.arguments.pid}/status") as status:
                return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024
        except (OSError, TypeError):
            return None

    def run(self):
        connection = http.client.HTTPConnection(self.arguments.host, self.arguments.port, timeout=300)
        connection.request("POST", "/api/encode", body=self.photo)
        self.tokens = connection.getresponse().read()
        before, clients = self.memory(), []
        for _ in range(self.arguments.clients):
            clients.append(threading.Thread(target=self.client))
            clients[-1].start()
        while any(client.is_alive() for client in clients):
            time.sleep(self.arguments.seconds / 6)
            print(f"memory {self.memory()} MiB", flush=True)
        print(f"{'':30} {'number':>7} {'median':>7} {'90 %':>7} {'99 %':>7} {'most':>7}   seconds")
        for kind, seconds in sorted(self.seconds.items()):
            seconds.sort()
            parts = [seconds[min(len(seconds) - 1, int(len(seconds) * part))] for part in (0.5, 0.9, 0.99, 1)]
            print(f"{kind:30} {len(seconds):7}", *(f"{part:7.2f}" for part in parts))
        for (kind, answer), number in sorted(self.answers.items(), key=str):
            print(f"{kind:30} {answer!s:>15} {number:6} times")
        different = [key[:2] for key, digests in self.digests.items() if len(digests) > 1]
        for kind, counts in sorted(self.batches().items()):
            print(f"{kind:30} {counts.get('jobs', 0)} done in {counts['batches']} batches")
        print(f"equal requests with different answers: {different or 'none'}")
        print(f"memory {before} MiB before, {self.memory()} MiB after")


parser = argparse.ArgumentParser()
parser.add_argument("host")
parser.add_argument("port", type=int)
parser.add_argument("photo")
parser.add_argument("--seconds", type=float, default=180)
parser.add_argument("--clients", type=int, default=8)
parser.add_argument("--pid", type=int)
kinds = ["reconstruct", "encode", "decode", "generate"]
parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
parser.add_argument("--faults", type=float, default=0.2, help="share of requests that are faulty")
Load(parser.parse_args()).run()
