"""A server with a thread pool in front of an LSTM, of the standard library alone; and clients that measure it.

``POST /score`` takes a ``.npy`` file (what `numpy.save` writes) of one sequence (T, I) or a batch (B, T, I), float32,
and answers with the last hidden states as one. A bad request is answered by the status 400 and what is wrong with it
as JSON. ``GET /health`` says what is served. On SIGTERM or Ctrl-C the server takes no more connections, finishes the
requests that it has, and ends::

    python examples/serve.py --port 8000        # serve until stopped
    python examples/serve.py                    # start such a server, measure it with clients, stop it

Calls of cylstm release the GIL, and each runs on one thread here: the requests are what runs side by side. The exit
status of a measurement is 1 if an answer differs in a single bit from what this process computes, or if the server does
not end as it should.
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from settings import missing

try:
    import numpy as np

    import cylstm
except ModuleNotFoundError as error:
    raise SystemExit(missing(error)) from None

HOST = "127.0.0.1"
FEATURES = 16
LARGEST = 16 << 20  # bytes of a request
PATIENCE = 5  # seconds for a client that sends nothing


def make_model() -> cylstm.LSTM:
    """The model that is served; `cylstm.load` here for one of yours."""
    cylstm.manual_seed(0)
    return cylstm.LSTM(FEATURES, 128, batch_first=True)


def score(lstm: cylstm.LSTM, sequences: np.ndarray) -> np.ndarray:
    """The last hidden state of each sequence: (H,) or (B, H)."""
    _, (h_n, _) = lstm(sequences)
    return h_n[-1]


class BadRequest(Exception):
    """What the client did wrong, with the status that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One request; each has a connection of its own. A client that is silent has its thread for PATIENCE seconds."""

    server: Server
    timeout = PATIENCE

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(200, {"model": repr(self.server.lstm), "threads": self.server.threads})
        else:
            self.answer(404, {"error": f"there is no {self.path}: GET /health or POST /score"})

    def do_POST(self) -> None:
        try:
            scores = score(self.server.lstm, self.read_sequences())
        except BadRequest as error:
            self.answer(error.status, {"error": str(error)})
        except (TypeError, ValueError, RuntimeError) as error:  # cylstm's: what must be, and what it got
            self.answer(400, {"error": str(error)})
        else:
            self.answer(200, scores)

    def read_sequences(self) -> np.ndarray:
        """The array in the body of the request."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise BadRequest("the header Content-Length is needed", 411)
        if int(length) > LARGEST:
            raise BadRequest(f"a request may have {LARGEST} bytes, got {length}", 413)
        body = self.rfile.read(int(length))  # read before any answer, or the client may not see that
        if self.path != "/score":
            raise BadRequest(f"there is no {self.path}: GET /health or POST /score", 404)
        if not body.startswith(np.lib.format.MAGIC_PREFIX):
            raise BadRequest(f"the body must be an array as numpy.save writes it, got {len(body)} other bytes")
        try:
            return np.load(io.BytesIO(body), allow_pickle=False)
        except Exception as error:  # ValueError, EOFError, MemoryError; of a damaged header SyntaxError, TokenError …
            raise BadRequest(f"the array cannot be read: {error}") from None

    def answer(self, status: int, content: np.ndarray | dict[str, Any]) -> None:
        """Send an array as ``.npy``, anything else as JSON."""
        if isinstance(content, np.ndarray):
            kind, body = "application/octet-stream", as_npy(content)
        else:
            kind, body = "application/json", json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """No line per request."""


class Server(HTTPServer):
    """Hands each connection to a thread of a pool."""

    request_queue_size = 128

    def __init__(self, lstm: cylstm.LSTM, *, port: int, threads: int) -> None:
        super().__init__((HOST, port), Handler)
        self.lstm, self.threads = lstm, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="request")

    def process_request(self, request: Any, client_address: Any) -> None:
        self._pool.submit(self._in_pool, request, client_address)

    def _in_pool(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except (ConnectionError, TimeoutError):
            pass  # the client has gone
        except Exception:
            self.handle_error(request, client_address)  # prints it
        finally:
            self.shutdown_request(request)

    def server_close(self) -> None:
        """Take no more connections, and finish the requests that are there."""
        super().server_close()
        self._pool.shutdown(wait=True)


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def serve(port: int, threads: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    cylstm.set_num_threads(1)
    with Server(make_model(), port=port, threads=threads) as server:

        def stop(*_: Any) -> None:  # shutdown() waits for the loop that this signal has interrupted
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        print(f"serving {server.lstm} on http://{HOST}:{server.server_port}, {threads} threads", flush=True)
        server.serve_forever(poll_interval=0.1)
    print("stopped", flush=True)


def request(port: int, body: bytes, path: str = "/score", method: str = "POST") -> tuple[int, bytes]:
    """Status and body of the answer."""
    connection = HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def measure(port: int, *, clients: int, requests: int) -> bool:
    """Send requests, by so many clients at a time; print throughput and latency. Whether all bits are right."""
    lstm = make_model()
    sequences = cylstm.randn(32, 100, FEATURES)
    bodies = [as_npy(sequence) for sequence in sequences]
    expected = [score(lstm, sequence) for sequence in sequences]

    def ask(n: int) -> tuple[float, bool]:
        begin = time.perf_counter()
        status, body = request(port, bodies[n % len(bodies)])
        seconds = time.perf_counter() - begin
        return seconds, status == 200 and np.array_equal(np.load(io.BytesIO(body)), expected[n % len(bodies)])

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(4 * clients)))  # warm up
        begin = time.perf_counter()
        answers = list(pool.map(ask, range(requests)))
        seconds = time.perf_counter() - begin
    milliseconds = 1000 * np.array([latency for latency, _ in answers])
    right = sum(same for _, same in answers)
    begin = time.perf_counter()
    for sequence in sequences:
        score(lstm, sequence)
    alone = (time.perf_counter() - begin) / len(sequences)
    percentiles = " / ".join(f"{p:.1f}" for p in np.percentile(milliseconds, [50, 90, 99, 100]))
    print(f"{'throughput':18} {requests / seconds:,.0f} requests per second, {clients} clients")
    print(f"{'latency':18} {percentiles} ms: median, 90 %, 99 %, longest")
    print(f"{'without a server':18} {1000 * alone:.2f} ms for a call")
    print(f"{'same bits':18} {right} of {requests}")
    bad = [
        ("no array", b"hello"),
        ("wrong size", as_npy(np.zeros((100, FEATURES + 1), np.float32))),
        ("wrong dtype", as_npy(np.zeros((100, FEATURES)))),
    ]
    refused = True
    for name, body in bad:
        status, answer = request(port, body)
        refused &= status == 400
        print(f"{name:18} {status}: {json.loads(answer)['error']}")
    return right == requests and refused


def start(threads: int) -> tuple[subprocess.Popen[str], int]:
    """A server in a process of its own, and its port."""
    command = [sys.executable, __file__, "--port", "0", "--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    guard = threading.Timer(120, process.kill)
    guard.start()
    line = process.stdout.readline()
    guard.cancel()
    print(line, end="")
    return process, int(line.partition(f"{HOST}:")[2].partition(",")[0])


def is_open(port: int) -> bool:
    """Whether the server takes connections."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def stop(process: subprocess.Popen[str], port: int) -> bool:
    """Stop a server while a request is on its way; whether that was answered and the server ended well."""
    body = as_npy(np.zeros((100, FEATURES), np.float32))
    with socket.create_connection((HOST, port), timeout=60) as connection:
        connection.sendall(f"POST /score HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
        request(port, b"", "/health", "GET")  # came later: a thread has the first one now, and waits for the last byte
        process.terminate()
        while is_open(port):
            time.sleep(0.05)
        connection.sendall(body[-1:])
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    output, _ = process.communicate(timeout=60)
    well = answer.startswith(b"HTTP/1.0 200 ") and output == "stopped\n" and process.returncode == 0
    print(f"{'on SIGTERM':18} {'the request on its way was answered, then it ended' if well else answer or output}")
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, help="serve there (0: any free one) until stopped, instead of measuring")
    parser.add_argument("--threads", type=int, default=4, help="of the server's pool")
    parser.add_argument("--clients", type=int, default=4, help="that send requests at the same time (4)")
    parser.add_argument("--requests", type=int, default=2000, help="of all clients together (2000)")
    arguments = parser.parse_args()
    if arguments.port is not None:
        serve(arguments.port, arguments.threads)
        return 0
    if arguments.threads < 2:
        parser.error("a measurement needs 2 threads or more: one is kept waiting while the server is stopped")
    process, port = start(arguments.threads)
    try:
        right = measure(port, clients=arguments.clients, requests=arguments.requests)
        return 0 if stop(process, port) and right else 1
    finally:
        process.kill()  # does nothing where it has ended
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    sys.exit(main())
