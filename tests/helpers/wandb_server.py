"""A stand-in for the W&B server on loopback: it knows runs, and the history that the client streams to it."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """``runs``: id -> ``config``, ``group`` and ``history``, the rows as the client sent them."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs = {}
        self.address = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def wandb_server():
    """Serves until the end of the block, or until its ``shutdown`` and ``server_close``."""
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/graphql":
            operation = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])[1]
            answer = getattr(self, operation, lambda **_: {})
            self._answer({"data": answer(**(body.get("variables") or {}))})
        else:  # /files/<entity>/<project>/<run>/file_stream
            lines = body.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            history = self.server.runs[self.path.split("/")[-2]]["history"]
            history[lines["offset"] : lines["offset"] + len(lines["content"])] = map(
                json.loads, lines["content"]
            )
            self._answer({})

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def RunResumeStatus(self, name, project, **_):
        run = self.server.runs.get(name)
        bucket = run and {
            "id": name,
            "name": name,
            "config": run["config"],
            "summaryMetrics": "{}",
            "historyLineCount": len(run["history"]),
            "historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            # Marks a run that had begun to report, which is what makes it one to resume.
            "wandbConfig": '{"t": 1}',
        }
        return {"model": {"name": project, "entity": {"name": "team"}, "bucket": bucket}}

    def UpsertBucket(self, name, project, config=None, groupName=None, **_):
        run = self.server.runs.setdefault(name, {"history": [], "config": "{}", "group": groupName})
        run["config"] = config or run["config"]
        bucket = {"id": name, "name": name, "project": {"name": project, "entity": {"name": "team"}}}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def CreateRunFiles(self, files, run, **_):
        urls = [{"name": name, "uploadUrl": f"{self.server.address}/upload"} for name in files]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": urls}}

    def _answer(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Prints nothing."""
