"""A web server of this machine that delivers, cuts, forgets, lies, drips, is busy, or has not what is asked for."""

import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CUT = 100  # bytes that a connection to /cut brings, at least; a fifth of the file if that is more


class Server:
    """Each file under several first folders, `/good/NAME` and those of `_Handler`; `requests` are paths and ranges."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requests: list[tuple[str, str | None]] = []
        self.asked: Counter[str] = Counter()
        handler = type("Handler", (_Handler,), {"test": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{path}"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    """good; cut: breaks off; forgetful: no ranges; page: a firewall's, with status 200; chunked: one of a length that is not
    said; wrong: other bytes of that length; long: one byte more; short: says one byte less; busy: 503 twice; drip: a byte
    each tenth of a second; missing."""

    test: Server

    def do_GET(self):
        how, _, name = self.path.lstrip("/").partition("/")
        wanted = self.headers["Range"]
        self.test.requests.append((f"{how}/{name}", wanted))
        self.test.asked[self.path] += 1
        if how == "missing" or name not in self.test.files:
            self.send_error(404)
        elif how == "busy" and self.test.asked[self.path] <= 2:
            self.send_error(503)
        else:
            self._send(how, self.test.files[name], int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0)

    def _send(self, how: str, whole: bytes, start: int) -> None:
        page = b"<html>blocked by policy</html>"
        pages = {"page": page, "chunked": page, "wrong": whole[::-1], "long": whole + b"!", "short": whole[:-1]}
        content, start = pages.get(how, whole), start if how not in ("forgetful", "page", "chunked") else 0
        self.send_response(206 if start else 200)
        if how != "chunked":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if how == "drip":
            for place in range(start, len(content)):
                self.wfile.write(content[place : place + 1])
                time.sleep(0.1)
        else:
            self.wfile.write(content[start : start + max(CUT, len(content) // 5)] if how == "cut" else content[start:])

    def log_message(self, *arguments):
        pass
