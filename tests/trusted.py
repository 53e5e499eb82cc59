"""Trusted publishing, in front of an index server of the tests' own: GitHub's identities, tokens, and who may upload what.

Over HTTPS, since twine asks for tokens over nothing else. Twine takes part in this for two hosts alone; `teach` has the
twine of an environment take this index for the first of them.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.server import PASSWORD, USER, Server

PENDING = 3  # publishers for names that are not there yet, at one time
_HOST = "127.0.0.1"
_TEACH = """import os, sys; "twine" in sys.orig_argv and exec("import twine.utils; twine.utils.DEFAULT_REPOSITORY = os.environ['INDEX']")"""


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine's loopback with its key, and all certificates that a client has to trust."""

    def openssl(*words: str | Path) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    folder.mkdir()
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout")
    openssl("req", "-x509", *key, "ca.key", "-out", "ca.pem", "-subj", "/CN=tests", "-days", "2")
    openssl("req", *key, "key.pem", "-out", "request.pem", "-subj", f"/CN={_HOST}")
    (folder / "names").write_text(f"subjectAltName=IP:{_HOST}")
    openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "cert.pem")  # fmt: skip
    (folder / "own.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    usual = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    (folder / "all.pem").write_text(Path(usual).read_text() + (folder / "ca.pem").read_text())
    return folder / "own.pem", folder / "all.pem"


def _token(claims: dict[str, str]) -> str:
    """A JSON Web Token but for its signature."""
    return ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims, {})
    )


def _claims(token: str) -> dict[str, str]:
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


class _Handler(http.server.BaseHTTPRequestHandler):
    index: TrustedIndex

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        if place.path == "/identity":
            asked = parse_qs(place.query)
            self.say(200, {"value": _token({"environment": asked["environment"][0], "aud": asked["audience"][0]})})
        elif place.path == "/_/oidc/audience":
            self.say(200, {"audience": "tests"})
        else:
            self.passed(None)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/_/oidc/mint-token":
            claims = _claims(json.loads(body)["token"])
            environment = claims["environment"]
            if claims["aud"] == "tests" and self.index.publishers.get(environment):
                self.say(200, {"success": True, "token": f"token-{environment}"})
            else:
                self.index.refused.append(environment)
                reason = {"code": "invalid-publisher", "description": "no corresponding publisher"}
                self.say(422, {"message": "failed", "errors": [reason]})
            return
        user, _, token = base64.b64decode(self.headers["Authorization"].split()[1]).decode().partition(":")
        name = re.search(rb'name="name"\r\n\r\n([^\r]+)', body)
        allowed = self.index.publishers.get(token.removeprefix("token-"), set())
        if user == "__token__" and name and name[1].decode() in allowed:
            self.passed(body)
        else:
            self.send_error(403, "Invalid API Token")

    def say(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def passed(self, body: bytes | None) -> None:
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {name: self.headers[name] for name in ("Content-Type", "Accept") if name in self.headers}
        wanted = urllib.request.Request(
            f"{self.index.server.url}{self.path.lstrip('/')}", body, {**headers, "Authorization": f"Basic {login}"},
            method=self.command,
        )  # fmt: skip
        try:
            with urllib.request.urlopen(wanted) as answer:
                status, content, kind = answer.status, answer.read(), answer.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            status, content, kind = error.code, error.read(), "text/plain"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class TrustedIndex:
    """Tokens are given to environments that have publishers, for the names of these, and nobody uploads otherwise."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.publishers = server, dict[str, set[str]]()  # environment -> names
        self.refused: list[str] = []
        own, self.certificates = _certificate(folder)
        self.front = http.server.ThreadingHTTPServer((_HOST, 0), type("Handler", (_Handler,), {"index": self}))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own)
        self.front.socket = context.wrap_socket(self.front.socket, server_side=True)
        threading.Thread(target=self.front.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://{_HOST}:{self.front.server_port}/"

    def register(self, environment: str, name: str) -> None:
        """A publisher for a name, pending where the name is new."""
        there = {file.split("-")[0].replace("_", "-") for file in self.server.files()}
        pending = [one for names in self.publishers.values() for one in names if one not in there]
        assert name in there or len(pending) < PENDING, f"{pending} are pending already"
        assert name in there or environment not in self.publishers, "one pending publisher for each environment"
        self.publishers.setdefault(environment, set()).add(name)

    def trust(self) -> dict[str, str]:
        """Variables with which a machine trusts this index's certificate, and all that it trusted before."""
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
        return dict.fromkeys(names, str(self.certificates))

    def identity(self, environment: str) -> dict[str, str]:
        """What GitHub gives a job that may have an identity."""
        return {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}identity?environment={environment}",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job",
        }

    def close(self) -> None:
        self.front.shutdown()
        self.front.server_close()


def teach(tools: Path) -> None:
    """Have the twine of these environments take the index that a step names in INDEX for one with trusted publishing."""
    for site in tools.glob("*/lib/python*/site-packages"):
        (site / "trusted.pth").write_text(_TEACH)
