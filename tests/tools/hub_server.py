"""A small server that speaks what the hub's client asks for when it resolves a file."""

import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_RESOLVE = re.compile(r"/(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class Hub:
    """A hub on a port of this machine; use it as a context manager.

    Attributes:
        repos: Repository -> commit -> file -> content; the last commit is "main".
        faults: Repository -> what goes wrong with its files, one for each request of content;
            "always X" for all of them.
        requests: (method, path) of each request.
        statements: File -> digest sent in place of the true one.
        after: File -> what is called when its content was asked for.
    """

    def __init__(self):
        self.repos, self.faults, self.requests, self.statements = {}, {}, [], {}
        self.after = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def publish(self, repo, files):
        """Add a commit to a repository; return its name."""
        commits = self.repos.setdefault(repo, {})
        commit = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[commit] = dict(files)
        return commit

    def answer(self, request, *, body):
        self.requests.append((request.command, request.path))
        match = _RESOLVE.fullmatch(request.path.split("?")[0])
        commits = self.repos.get(match["repo"]) if match else None
        if commits is None:
            # What the hub says of a repository that is private, or not there.
            return self.refuse(request, 401, "RepoNotFound")
        commit = list(commits)[-1] if match["revision"] == "main" else match["revision"]
        if commit not in commits:
            return self.refuse(request, 404, "RevisionNotFound")
        if match["file"] not in commits[commit]:
            return self.refuse(request, 404, "EntryNotFound")
        content = commits[commit][match["file"]]
        if body:
            self.after.get(match["file"], lambda: None)()
        fault = self.next_fault(match["repo"], body)
        if fault.isdigit():
            return self.refuse(request, int(fault), "GatedRepo" if fault == "403" else "")
        return self.send(request, match["file"], content, commit, fault, body)

    def next_fault(self, repo, body):
        faults = self.faults.get(repo, [])
        if faults and faults[0].startswith("always "):
            return faults[0].removeprefix("always ")
        return faults.pop(0) if body and faults else ""

    def refuse(self, request, status, code):
        request.send_response(status)
        if code:
            request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def send(self, request, file, content, commit, fault, body):
        digest = self.statements.get(file, hashlib.sha256(content).hexdigest())
        start = 0
        if body and (part := request.headers.get("Range")):
            start = int(part.removeprefix("bytes=").split("-")[0])
        request.send_response(206 if start else 200)
        request.send_header("ETag", f'"{digest}"')
        request.send_header("X-Repo-Commit", commit)
        request.send_header("Content-Length", str(len(content) - start))
        if start:
            where = f"bytes {start}-{len(content) - 1}/{len(content)}"
            request.send_header("Content-Range", where)
        request.end_headers()
        if not body:
            return
        if fault == "cut":
            half = len(content) // 2
            request.wfile.write(content[start:half])
            request.wfile.flush()
            request.close_connection = True
        elif fault == "slow":
            step = len(content) // 5 + 1
            for place in range(start, len(content), step):
                request.wfile.write(content[place : place + step])
                time.sleep(0.1)
        else:
            request.wfile.write(content[start:])
