"""A ComfyUI of the standard library alone: the part of its API that a grid uses, over the small workflow."""

import contextlib
import http.server
import json
import struct
import threading
import time
import urllib.parse

from .grid import INFO


class FakeComfyUI(http.server.ThreadingHTTPServer):
    """Runs prompts one after the other, each in `seconds`; a picture's bytes are its prompt and its workflow.

    As `kit.grid.Fake`, steps 13 are refused, and cfg 66 fails. Attributes that tests read and set:

    ran: The prompts that ran, in their order.
    open: Cleared, no prompt begins.
    gone: Names of files that are no longer there.
    """

    daemon_threads = True

    def __init__(self, seconds=0.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.seconds, self.ran, self.gone, self.freed = seconds, [], set(), 0
        self.history, self.running, self.pending = {}, [], []  # items of the queue: (number, id, prompt, extra data)
        self.files, self.clients, self.changed = {}, {}, threading.Condition()
        self.open = threading.Event()
        self.open.set()

    def __enter__(self):
        for target in (self.serve_forever, self._work):
            threading.Thread(target=target, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def _work(self):
        while True:
            with self.changed:
                while not self.pending:
                    self.changed.wait()
            self.open.wait()
            with self.changed:
                if not self.pending:
                    continue
                self.pending.sort()
                item = self.pending.pop(0)
                self.running = [item]
            time.sleep(self.seconds)
            self._run(*item)

    def _run(self, number, prompt_id, prompt, extra):
        name, inputs = f"{len(self.ran)}.png", prompt["6"]["inputs"]
        failed = inputs["cfg"] == 66
        self.files[name] = json.dumps([prompt, extra.get("extra_pnginfo")], sort_keys=True).encode()
        end = "execution_error" if failed else "execution_success"
        data = {"timestamp": 1500, "node_id": "6", "node_type": "KSampler", "exception_message": "unlucky\n"}
        with self.changed:
            self.running = []
            self.ran.append(prompt)
            self.history[prompt_id] = {
                "prompt": [number, prompt_id, prompt, extra, ["8"]],
                "outputs": {} if failed else {"8": {"images": [{"filename": name, "subfolder": "", "type": "output"}]}},
                "status": {"messages": [["execution_start", {"timestamp": 1000}], [end, data]]},
            }
        self.tell(extra["client_id"], {"type": "executing", "data": {"node": None, "prompt_id": prompt_id}})

    def tell(self, client_id, event):
        """Sends an event to a client's websocket, where it has one."""
        text = json.dumps(event).encode()
        head = bytes([0x81, len(text)]) if len(text) < 126 else struct.pack("!BBH", 0x81, 126, len(text))
        with contextlib.suppress(KeyError, OSError):
            self.clients[client_id].sendall(head + text)


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def _send(self, content, status=200):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url, server = urllib.parse.urlsplit(self.path), self.server
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/object_info":
            self._send(INFO)
        elif url.path.startswith("/history/"):
            prompt_id = url.path.rpartition("/")[2]
            self._send({prompt_id: server.history[prompt_id]} if prompt_id in server.history else {})
        elif url.path == "/queue":
            with server.changed:
                self._send({"queue_running": server.running, "queue_pending": server.pending})
        elif url.path == "/view":
            there = query["filename"] in server.files.keys() - server.gone
            self._send(server.files[query["filename"]] if there else b"", 200 if there else 404)
        elif url.path == "/ws":
            server.clients[query["clientId"]] = self.connection
            self.send_response(101)
            self.end_headers()
            with contextlib.suppress(OSError):
                while self.connection.recv(1000):
                    pass

    def do_POST(self):
        data, server = json.loads(self.rfile.read(int(self.headers["Content-Length"]))), self.server
        if self.path == "/prompt":
            self._prompt(data)
            return
        with server.changed:
            if self.path == "/queue":
                server.pending = [item for item in server.pending if item[1] not in data["delete"]]
            elif self.path == "/free":
                server.freed += 1
        self._send({})

    def _prompt(self, data):
        if data["prompt"]["6"]["inputs"]["steps"] == 13:
            problem = {"type": "x", "message": "13 is one too many", "details": "", "extra_info": {}}
            self._send({"error": {}, "node_errors": {"6": {"errors": [problem]}}}, 400)
            return
        extra = {**data.get("extra_data", {}), "client_id": data["client_id"]}
        with self.server.changed:
            self.server.pending.append((data["number"], data["prompt_id"], data["prompt"], extra))
            self.server.changed.notify_all()
        self._send({"prompt_id": data["prompt_id"], "number": 1, "node_errors": {}})
