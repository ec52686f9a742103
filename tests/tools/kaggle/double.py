"""A double of Kaggle's API on this machine: the requests that the real kaggle package sends, and answers as Kaggle's.

The package takes no address, but with KAGGLE_API_ENVIRONMENT=LOCALHOST it asks http://localhost, which requests sends
through HTTP_PROXY, the double's own port.
"""

import base64
import json
import re
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SERVICE = "/api/v1/competitions.CompetitionApiService/"


class Kaggle:
    """What the server holds, how it fails, and what it was asked."""

    def __init__(self):
        self.entered = {"aerial-cactus-identification": True}  # competition -> whether its rules are accepted
        self.notebooks_only = False
        self.key = ("ann", "secret")
        self.archive, self.etag, self.files = b"", '"one"', [("train.csv", 10), ("train.zip", 90)]
        self.cuts = []  # bytes after which the next downloads are broken off
        self.stalls = False  # a broken download is not closed
        self.submissions, self.uploads = [], []
        self.pending = 0  # questions that are answered by "pending"
        self.failing = []  # HTTP status of the next answers about a submission; 0: the connection is closed
        self.scores, self.error = ("0.9731", "0.9702"), None
        self.refusal = None  # (status, message) of CreateSubmission
        self.loses_answer = False  # CreateSubmission is done, but its answer never comes
        self.left = 5
        self.odd = {}  # method -> (status, body) of each of its answers, whatever was asked
        self.asked, self.ranges = [], []

    def answer(self, method, request):
        """Return (status, JSON) of a call of the API."""
        name = request.get("competitionName", "")
        if method == "ListCompetitions":
            return 200, {"competitions": [
                {"ref": f"https://www.kaggle.com/competitions/{one}", "userHasEntered": entered,
                 "isKernelsSubmissionsOnly": self.notebooks_only}
                for one, entered in self.entered.items()
            ]}  # fmt: skip
        if method == "GetSubmission":
            return self._get_submission(request["ref"])
        if name not in self.entered:
            return 403, {"code": 403, "message": "Permission 'competitions.participate' was denied"}
        if method == "ListDataFiles":
            return 200, {"files": [{"name": one, "totalBytes": size} for one, size in self.files]}
        if not self.entered[name]:
            said = "You must accept this competition's rules before you'll be able to download files."
            return 403, {"code": 403, "message": said}
        if method == "GetSubmissionLimits":
            sent = len(self.submissions)
            return 200, {"numToday": sent, "numTotal": sent, "numAllowedNow": self.left if sent else 0}
        if method == "StartSubmissionUpload":
            return 200, {"token": "token", "createUrl": "http://localhost/upload"}
        if method == "ListSubmissions":
            return 200, {"submissions": self.submissions}
        assert method == "CreateSubmission", method
        if self.refusal:
            return self.refusal[0], {"code": self.refusal[0], "message": self.refusal[1]}
        ref, now = 700 + len(self.submissions), datetime.now(UTC).isoformat().replace("+00:00", "Z")
        about = {"ref": ref, "date": now, "description": request["submissionDescription"], "fileName": "submission.csv"}
        self.submissions.insert(0, about | {"totalBytes": len(self.uploads[-1])})
        return 200, {"message": f"Successfully submitted to {name}", "ref": ref}

    def _get_submission(self, ref):
        found = next(one for one in self.submissions if one["ref"] == ref)
        if self.pending:
            self.pending -= 1
            return 200, found | {"status": "PENDING"}
        if self.error:
            return 200, found | {"status": "ERROR", "errorDescription": self.error}
        public, private = self.scores
        return 200, found | {"status": "COMPLETE", "publicScore": public, "privateScore": private}


@contextmanager
def serve(kaggle):
    """Yield the environment in which the kaggle package talks to the double."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def reply(self, status, body=b"", **headers):
            self.send_response(status)
            for key, value in {"Content_Length": len(body), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            path = self.path.removeprefix("http://localhost")
            method = path.removeprefix(_SERVICE)
            kaggle.asked.append(method)
            if method.endswith("/IntrospectToken"):
                known = {"active": request["token"] == "good", "username": "ann"}
                return self.reply(200, json.dumps(known).encode(), Content_Type="application/json")
            key = base64.b64encode(":".join(kaggle.key).encode()).decode()
            if self.headers["Authorization"] not in (f"Basic {key}", "Bearer good"):
                return self.reply(401, b'{"code": 401, "message": "Unauthorized"}', Content_Type="application/json")
            if method == "GetSubmission" and kaggle.failing and (status := kaggle.failing.pop(0)) != 200:
                if status:
                    self.reply(status)
                self.close_connection = True
                return None
            if method in kaggle.odd:
                return self.reply(*kaggle.odd[method])
            if method == "DownloadDataFiles":
                status, answer = kaggle.answer("GetSubmissionLimits", request)
                if status == 200:
                    return self.reply(302, Location="http://localhost/files/archive.zip?signed=1")
            else:
                status, answer = kaggle.answer(method, request)
            if method == "CreateSubmission" and kaggle.loses_answer:
                kaggle.loses_answer, self.close_connection = False, True
                return None
            return self.reply(status, json.dumps(answer).encode(), Content_Type="application/json")

        def do_PUT(self):
            kaggle.uploads.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(200)

        def do_GET(self):
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            begin = int(asked[1]) if asked and self.headers["If-Range"] == kaggle.etag else 0
            kaggle.ranges.append(begin)
            body, headers = kaggle.archive[begin:], {"ETag": kaggle.etag, "Accept_Ranges": "bytes"}
            status = 206 if begin else 200
            if not kaggle.cuts:
                return self.reply(status, body, **headers)
            self.reply(status, body[: kaggle.cuts.pop(0)], Content_Length=len(body), **headers)
            if kaggle.stalls:
                stopped.wait()
            self.close_connection = True
            return None

    server, stopped = ThreadingHTTPServer(("127.0.0.1", 0), Handler), threading.Event()
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    port = f"http://127.0.0.1:{server.server_port}"
    try:
        yield {"HTTP_PROXY": port, "http_proxy": port, "NO_PROXY": "", "no_proxy": "",
               "KAGGLE_API_ENVIRONMENT": "LOCALHOST"}  # fmt: skip
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
