"""As much of S3 as the blob store uses: objects and multipart uploads of one bucket, in memory, over real HTTP."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4


class ObjectStore(ThreadingHTTPServer):
    """Holds what was put: whole objects, and the parts of uploads that are neither completed nor aborted."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.refusing = 0  # the status of every answer, when it is not 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The usual variables, pointing here."""
        return {
            "AWS_ENDPOINT": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "NO_PROXY": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a body waits 40 ms for its head to be acknowledged
    server: ObjectStore

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test is quiet."""

    def do_PUT(self) -> None:
        path, query, body = self._asked()
        if "uploadId" in query:
            self.server.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
        else:
            self.server.objects[path] = body
        self._answer(200, etag='"1"')

    def do_POST(self) -> None:
        path, query, _ = self._asked()
        if "uploads" in query:
            upload = uuid4().hex
            self.server.uploads[upload] = {}
            xml = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        else:
            parts = self.server.uploads.pop(query["uploadId"][0])
            self.server.objects[path] = b"".join(parts[number] for number in sorted(parts))
            xml = "<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
        self._answer(200, xml.encode())

    def do_DELETE(self) -> None:
        _, query, _ = self._asked()
        self.server.uploads.pop(query["uploadId"][0])
        self._answer(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        data = self.server.objects.get(self._asked()[0])
        if data is None:
            self._answer(404)
        elif found := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", "")):
            start, end = int(found[1]), min(int(found[2]) + 1, len(data))
            self._answer(206, data[start:end], content_range=f"bytes {start}-{end - 1}/{len(data)}")
        else:
            self._answer(200, data)

    def _asked(self) -> tuple[str, dict[str, list[str]], bytes]:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        return parts.path, parse_qs(parts.query, keep_blank_values=True), body

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(self.server.refusing or status)
        usual = {"etag": '"1"', "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT", "content-length": str(len(body))}
        for name, value in (usual | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store that answers until the block ends."""
    with ObjectStore() as store:
        thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
            thread.join()
