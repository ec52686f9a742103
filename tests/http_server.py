"""A small HTTP server in this process, whose answers can be made slow, broken or wrong."""

import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Server(ThreadingHTTPServer):
    """Answers with files {path: bytes}; faults {path: [one for each request, in turn]} come first.

    A fault is a status, "reset" (the connection), "cut" (half of the body), "slow" (never ends within `patience`
    seconds), "endless" (no length). delay: seconds before each answer.
    """

    daemon_threads, request_queue_size = True, 128

    def __init__(self, files, faults=None, delay=0.0, patience=5.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.faults, self.delay, self.patience = dict(files), faults or {}, delay, patience
        self.asked, self.headers, self.at_once, self.most_at_once = Counter(), [], 0, 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """A client that ends a connection is none of our faults."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def do_GET(self):
        server, raw = self.server, self.path
        path = unquote(raw.partition("?")[0]).lstrip("/")
        server.asked[raw.lstrip("/")] += 1
        server.headers.append(dict(self.headers))
        server.at_once += 1
        server.most_at_once = max(server.most_at_once, server.at_once)
        time.sleep(server.delay)
        server.at_once -= 1
        fault = server.faults[path].pop(0) if server.faults.get(path) else None
        data = server.files.get(path)
        if fault == "reset":
            self.connection.close()
            return
        if isinstance(fault, int) or data is None:
            self.send_error(fault or 404)
            return
        self.send_response(200)
        if fault == "endless":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault in ("cut", "slow"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            time.sleep(server.patience if fault == "slow" else 0)
            self.close_connection = True
            return
        self.wfile.write(data)
        self.close_connection = fault == "endless"

    def log_message(self, *_):
        pass
