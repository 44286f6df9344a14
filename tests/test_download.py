"Downloads from a server on this machine that does what servers do: nothing here reaches the network."

import hashlib
import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from contextlib import nullcontext
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from pydantic import ValidationError
from typer.testing import CliRunner

from cmr.cli import app
from cmr.data import open_split, published
from cmr.data.download import PIECE, Member, PartialFile, Patience, Source, SourceFailed, TryAgain, download, judge, pick_members, recorded, unpack
from cmr.data.published import DATASETS, DataSet, Piece, check_counts, make_data, obtain

QUICK = Patience(connect=2, stall=.15, slowest=0, pause=.01, longest=.5)
MOST = 10**6


def packed(members):
    "The bytes of a zip archive."
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, text in members.items(): file.writestr(name, text)
    return content.getvalue()


BODY = packed({"pictures/1.jpg": np.random.default_rng(0).bytes(100_000)})
OTHER = packed({"pictures/1.jpg": np.random.default_rng(1).bytes(100_000)})
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()


# --- a server with bad habits

class Handler(BaseHTTPRequestHandler):
    "Each request takes the next behaviour from the server's list, and sends the file whole and honest where none is left."
    protocol_version = "HTTP/1.1"

    def log_message(self, *_): pass

    def do_GET(self):
        self.server.asked.append({"path": self.path, **self.headers})
        does = self.server.todo.pop(0) if self.server.todo else {}
        if callable(does): does = does(self) or {}
        body, tag = does.get("body", self.server.files.get(self.path.split("?")[0], self.server.body)), does.get("etag", '"one"')
        validator = {"ETag": tag} if tag else {"Last-Modified": does["date"]} if "date" in does else {}
        asked, start = self.headers["Range"], 0
        if asked and does.get("range", True) and self.headers["If-Range"] in (None, *validator.values()): start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if "status" in does: return self.reply(does["status"], does.get("headers", {}), does.get("body", b"no"))
        if start and start >= len(body): return self.reply(416, {"Content-Range": f"bytes */{len(body)}"}, b"<h1>Range Not Satisfiable</h1>")
        head = {"Content-Type": "application/zip", **validator, **does.get("headers", {})}
        if start: head["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.reply(206 if start else 200, {**head, **does.get("lies", {})}, body[start:][:does.get("stop")], does, len(body) - start)

    def reply(self, code, headers, body, does=None, length=None):
        does = does or {}
        self.send_response(code)
        headers = {"Content-Length": str(len(body) if length is None else length), **headers}
        for key, value in headers.items():
            if value is not None: self.send_header(key, value)
        self.end_headers()
        for at in range(0, len(body), does.get("drip", len(body) or 1)):
            self.wfile.write(body[at:at + does.get("drip", len(body))])
            self.wfile.flush()
            if "drip" in does: time.sleep(does["every"])
        time.sleep(does.get("sleep", 0))
        self.close_connection = bool(does)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    def handle_error(self, *_): pass  # who asked has left


@pytest.fixture(scope="session")
def running():
    server = Server((socket.inet_ntoa(bytes([127, 0, 0, 1])), 0), Handler)
    threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def server(running):
    running.todo, running.asked, running.files, running.body = [], [], {}, BODY
    running.url = f"http://{running.server_address[0]}:{running.server_address[1]}"
    return running


@pytest.fixture
def get(server, tmp_path):
    "Download a.zip while the server behaves as listed."
    def run(*todo, patience=QUICK, most=MOST, **about):
        server.todo = list(todo)
        return download(Source(url=f"{server.url}/a.zip", **about), tmp_path / "a.zip", most, patience, progress=False).read_bytes()
    return run


STALL = {"stop": 50_000, "sleep": .3}
BREAK = {"stop": 50_000}
FIRST = 50_000 // PIECE * PIECE


# --- it gets on

def test_an_honest_server(get, server, tmp_path):
    assert get(digest=SHA, size=len(BODY)) == BODY
    assert len(server.asked) == 1 and "Range" not in server.asked[0]
    assert (tmp_path / "a.zip.sha256").read_text() == f"{SHA[7:]}  a.zip\n"          # as `sha256sum -c` reads it
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == ["a.zip", "a.zip.sha256"]


@pytest.mark.parametrize("habit", [STALL, BREAK, {**BREAK, "etag": '"one"'}], ids=["stalls", "breaks off", "tagged"])
def test_the_rest_is_asked_for(get, server, habit):
    assert get(habit, digest=SHA) == BODY
    assert [asked.get("Range") for asked in server.asked] == [None, f"bytes={FIRST}-"]
    assert server.asked[1]["If-Range"] == '"one"'


def test_the_date_serves_where_there_is_no_etag(get, server):
    dated = {"etag": "", "date": "Mon, 02 Nov 2026 10:00:00 GMT"}
    assert get({**BREAK, **dated}, dated) == BODY
    assert server.asked[1]["If-Range"] == dated["date"]


@pytest.mark.parametrize("habit", [{"etag": 'W/"one"'}, {"etag": ""}], ids=["a weak tag", "no tag"])
def test_nothing_is_added_to_a_part_of_unknown_version(get, server, habit):
    assert get({**BREAK, **habit}, habit, digest=SHA) == BODY
    assert "Range" not in server.asked[1]


def test_a_server_without_range_begins_anew(get, server):
    assert get(BREAK, {"range": False}, digest=SHA) == BODY
    assert "Range" in server.asked[1]


def test_another_file_of_the_same_size_and_name(get):
    "Half of each would have the right size."
    assert len(BODY) == len(OTHER)
    assert get(BREAK, {"body": OTHER, "etag": '"two"'}) == OTHER


def test_a_server_that_sends_another_part_is_asked_again(get):
    wrong = {"lies": {"Content-Range": f"bytes 7-{len(BODY) - 1}/{len(BODY)}"}}
    assert get(BREAK, wrong, wrong, digest=SHA) == BODY


def test_attempts_that_get_on_do_not_count(get, server):
    steps = [{"stop": 2 * PIECE}] * 5
    assert get(*steps, patience=Patience(attempts=2, progress=PIECE, pause=.01), digest=SHA) == BODY
    assert len(server.asked) == 6


def test_attempts_that_do_not_get_on_end(get, server):
    with pytest.raises(SourceFailed, match=r"asked 3 times"): get(*[{"stop": 10}] * 9, patience=Patience(attempts=3, pause=.01))
    assert len(server.asked) == 3


def test_what_was_there_is_kept_for_the_next_time(get, server, tmp_path):
    with pytest.raises(SourceFailed): get(BREAK, patience=Patience(attempts=1))
    assert PartialFile(tmp_path / "a.zip").size == FIRST
    server.asked.clear()
    assert get(digest=SHA) == BODY
    assert server.asked[0]["Range"] == f"bytes={FIRST}-"


def test_a_part_of_another_source_is_not_continued(get, server, tmp_path):
    with pytest.raises(SourceFailed): get(BREAK, patience=Patience(attempts=1))
    server.asked.clear()
    download(Source(url=f"{server.url}/b.zip"), tmp_path / "a.zip", MOST, QUICK, progress=False)
    assert "Range" not in server.asked[0]


def test_a_file_that_was_complete_but_not_yet_named(get, server, tmp_path):
    "A kill between the last byte and the rename: the server has nothing more, and says how much that is."
    part = PartialFile(tmp_path / "a.zip")
    part.begin(f"{server.url}/a.zip", '"one"')
    part.path.write_bytes(BODY)
    assert get(digest=SHA) == BODY
    assert server.asked[0]["Range"] == f"bytes={len(BODY)}-" and len(server.asked) == 1


def test_a_part_longer_than_the_file_is_given_up(get, server, tmp_path):
    part = PartialFile(tmp_path / "a.zip")
    part.begin(f"{server.url}/a.zip", '"one"')
    part.path.write_bytes(BODY + bytes(5))
    assert get(digest=SHA) == BODY


KILLED = """
import sys
from cmr.data.download import Patience, Source, download
download(Source(url=sys.argv[1]), sys.argv[2], 10**6, Patience(), progress=False)
"""


def test_a_killed_process_is_continued(get, server, tmp_path):
    server.todo = [{"drip": PIECE, "every": .05}]
    process = subprocess.Popen([sys.executable, "-c", KILLED, f"{server.url}/a.zip", str(tmp_path / "a.zip")])
    part, until = PartialFile(tmp_path / "a.zip"), time.monotonic() + 60
    while part.size < 3 * PIECE and time.monotonic() < until: time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a.zip").exists() and part.size >= 3 * PIECE
    server.asked.clear()
    assert get(digest=SHA) == BODY
    assert int(server.asked[0]["Range"][6:-1]) >= 3 * PIECE


def test_only_one_process_downloads_a_file(server, tmp_path):
    begun, go = threading.Event(), threading.Event()
    def hold(_): begun.set(); go.wait(20)
    server.todo = [hold]
    source = Source(url=f"{server.url}/a.zip")
    first = threading.Thread(target=download, args=(source, tmp_path / "a.zip", MOST, Patience(), False))
    first.start()
    assert begun.wait(20)
    with pytest.raises(ValueError, match="a.zip is being written by another process"): download(source, tmp_path / "a.zip", MOST, QUICK, False)
    go.set()
    first.join()
    assert (tmp_path / "a.zip").read_bytes() == BODY


# --- it waits, as it is asked to

def test_busy_servers_are_asked_again(get, server):
    assert get({"status": 503}, {"status": 429, "headers": {"Retry-After": "0"}}, {"status": 500}) == BODY
    assert len(server.asked) == 4


def test_retry_after_is_waited_for(get, monkeypatch):
    slept = []
    monkeypatch.setattr("cmr.data.download.time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic))
    patience = Patience(pause=.01, longest=100)
    get({"status": 429, "headers": {"Retry-After": "7"}}, {"status": 503, "headers": {"Retry-After": formatdate(time.time() + 50, usegmt=True)}},
        {"status": 503, "headers": {"Retry-After": "soon"}}, patience=patience)
    assert slept[0] == 7 and 40 < slept[1] < 51 and slept[2] == patience.wait(3)


def test_a_wait_that_is_too_long_is_said(get, server):
    with pytest.raises(SourceFailed, match="answers 429 .*come back in 3,600 s"): get({"status": 429, "headers": {"Retry-After": "3600"}})
    assert len(server.asked) == 1


def test_a_dripping_server_is_not_waited_for(get):
    drip = {"drip": 300, "every": .03}                                                 # 10 kB a second, without ever stalling
    with pytest.raises(SourceFailed, match="bytes a second"):
        get(drip, patience=Patience(stall=.2, slowest=100_000, attempts=1))


# --- it is refused

@pytest.mark.parametrize("habit, said", [
    ({"status": 404}, "answers 404"),
    ({"status": 403}, "answers 403"),
    ({"status": 451}, "answers 451"),
    ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "a web page instead of the file"),
    ({"body": b"<!doctype html><title>Log in</title>"}, "sent a text, no data"),
    ({"body": b"version https://git-lfs.github.com/spec/v1\n"}, "sent a text, no data"),
    ({"body": b""}, "sent empty, no data"),
    ({"lies": {"Content-Length": "20000"}}, None),
], ids=["404", "403", "451", "login page", "login page called zip", "pointer", "empty", "says less than it has"])
def test_what_is_no_file_is_refused_at_once(get, server, tmp_path, habit, said):
    if said is None:                                                 # its bytes are a part of the archive: the digest says so
        with pytest.raises(SourceFailed, match="is published"): get(habit, digest=SHA)
    else:
        with pytest.raises(SourceFailed, match=said): get(habit)
    assert len(server.asked) == 1 and not (tmp_path / "a.zip").exists()


def test_a_server_that_says_more_than_it_has(get, tmp_path):
    lie = {"lies": {"Content-Length": str(2 * len(BODY))}}
    with pytest.raises(SourceFailed, match="breaks off|ended after|does not go on"): get(*[lie] * 9)
    assert not (tmp_path / "a.zip").exists()


def test_a_short_body_is_noticed_also_where_the_library_does_not(get, monkeypatch):
    "urllib3 before 2 takes a body that is shorter than its length for whole."
    monkeypatch.setattr("cmr.data.download._receive", lambda response, part, *_: part.path.write_bytes(BODY[:100]))
    with pytest.raises(SourceFailed, match=f"ended after 100 of {len(BODY):,} bytes"): get()


def test_endless_bodies_end(get):
    endless = {"body": BODY * 20, "lies": {"Content-Length": None}}
    with pytest.raises(SourceFailed, match="sends more than 1,000,000 bytes"): get(endless)


def test_circles_and_other_schemes(get, server):
    circle = {"status": 302, "headers": {"Location": f"{server.url}/a.zip"}}
    with pytest.raises(SourceFailed, match="round in circles"): get(*[circle] * 40)
    assert len(server.asked) <= 12
    with pytest.raises(SourceFailed, match="No connection adapters"): get({"status": 302, "headers": {"Location": "file:///etc/hostname"}})


def test_a_redirect_is_followed_and_continued(get, server):
    there = {"status": 302, "headers": {"Location": f"{server.url}/there.zip?signed=1"}}
    again = {"status": 302, "headers": {"Location": f"{server.url}/there.zip?signed=2"}}
    assert get(there, BREAK, again, digest=SHA) == BODY
    assert server.asked[-1]["path"].endswith("signed=2") and server.asked[-1]["Range"] == f"bytes={FIRST}-"


@pytest.mark.parametrize("about, said", [({"size": 7}, "^has .* 7 are published"), ({"digest": "sha256:" + 64 * "0"}, "is published"),
                                         ({"digest": "md5:" + 32 * "0"}, "md5")])
def test_other_bytes_than_published(get, tmp_path, about, said):
    with pytest.raises(SourceFailed, match=said): get(**about)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".lock"], "nothing wrong is left to be continued"


def test_a_size_is_held_against_a_body_without_length(get):
    unsaid = {"lies": {"Content-Length": None}, "etag": ""}
    with pytest.raises(SourceFailed, match="sends more than"): get(unsaid, size=len(BODY) - 1)
    with pytest.raises(SourceFailed, match="^sent .* are published"): get(unsaid, size=len(BODY) + 1)


def test_the_digest_that_the_hub_names(get, server):
    def there(digest): return {"status": 302, "headers": {"Location": f"{server.url}/cdn", "X-Linked-Etag": f'"{digest}"'}}
    assert get(there(SHA[7:])) == BODY
    with pytest.raises(SourceFailed, match="is published"): get(there("0" * 64))


def test_no_leaving_encryption_without_a_digest():
    answer = requests.Response()
    answer.status_code, answer.url = 200, "http://example.org/a.zip"
    with pytest.raises(SourceFailed, match="without encryption"): judge(answer, Source(url="https://example.org/a.zip"), 0)
    assert judge(answer, Source(url="https://example.org/a.zip", digest=SHA), 0) == (0, None)


def test_nobody_answers(tmp_path):
    with socket.socket() as free:
        free.bind((socket.inet_ntoa(bytes([127, 0, 0, 1])), 0))
        url = f"http://{free.getsockname()[0]}:{free.getsockname()[1]}/a.zip"
    with pytest.raises(SourceFailed, match="cannot be reached"): download(Source(url=url), tmp_path / "a.zip", MOST, QUICK, False)


def test_a_full_disk_is_said_before(get, monkeypatch):
    monkeypatch.setattr("cmr.files.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="the disk has 0.0 MB left"): get()


FULL = """
import resource, sys
from cmr.data.download import Source, download
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try: download(Source(url=sys.argv[1]), sys.argv[2], 10**6, progress=False)
except OSError as problem: print(type(problem).__name__, problem)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits a file's size as POSIX does")
def test_a_disk_that_fills_up_is_named_and_continued(get, server, tmp_path):
    command = [sys.executable, "-c", FULL, f"{server.url}/a.zip", str(tmp_path / "a.zip")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("OSError") and ".a.zip.part: File too large; what came is kept" in said
    server.asked.clear()
    assert get(digest=SHA) == BODY
    assert server.asked[0]["Range"] == "bytes=30000-"


@pytest.mark.parametrize("about", [{"url": "ftp://example.org/a"}, {"url": "https://example.org"}, {"url": "hf://owner/file.zip"},
                                   {"url": "https://example.org/a", "digest": "sha1:00"}, {"url": "https://example.org/a", "size": 0},
                                   {"url": "https://example.org/a", "name": "../a"}])
def test_wrong_descriptions_are_refused(about):
    with pytest.raises(ValidationError): Source(**about)


# --- archives

WANTED = r"pictures/.*\.jpg"


def special(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize("members, said", [
    ({"pictures/../../x.jpg": b"1"}, "leads out"),
    ({"pictures/..\\..\\x.jpg": b"1"}, "leads out"),
    ({"pictures/C:x.jpg": b"1"}, "leads out"),
    ({special("pictures/x.jpg", stat.S_IFLNK | 0o777): b"/etc/passwd"}, "is a link"),
    ({"pictures/a/x.jpg": b"1", "pictures/b/x.jpg": b"2"}, "a second file"),
    ({"pictures/x.jpg": bytes(2_000_000)}, "unpacks to more than 1,000,000"),
    ({f"pictures/{i}.jpg": bytes(300_000) for i in range(4)}, "unpacks to more than 1,000,000"),
    ({"notes.txt": b"1"}, r"nothing that is wanted here \(it has notes\.txt\)"),
], ids=["up", "up with backslashes", "drive", "link", "twice", "bomb", "bomb of many", "nothing"])
def test_bad_zips_write_nothing(tmp_path, members, said):
    (tmp_path / "a.zip").write_bytes(packed(members))
    with pytest.raises(ValueError, match=said): unpack(tmp_path / "a.zip", tmp_path / "out", WANTED, MOST, False)
    assert list((tmp_path / "out").iterdir()) == [] and not (tmp_path / "x.jpg").exists()


def test_a_member_that_declares_less_than_it_holds(tmp_path):
    content = bytearray(packed({"pictures/1.jpg": bytes(1000)}))
    size = (1000).to_bytes(4, "little")
    while size in content:
        at = content.index(size)
        content[at:at + 4] = (10).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError): unpack(tmp_path / "a.zip", tmp_path / "out", WANTED, MOST, False)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("damage", [lambda body: body[:-200], lambda body: body[:5000] + b"oops" + body[5004:], lambda body: b"PK\3\4" + bytes(99)])
def test_damaged_zips(tmp_path, damage):
    (tmp_path / "a.zip").write_bytes(damage(BODY))
    with pytest.raises(ValueError, match=r"a\.zip is damaged or no archive"): unpack(tmp_path / "a.zip", tmp_path / "out", WANTED, MOST, False)
    assert list((tmp_path / "out").iterdir()) == []


def test_passwords_are_not_guessed():
    info = zipfile.ZipInfo("pictures/1.jpg")
    info.flag_bits |= 1
    from cmr.data.download import _zip_member
    member = _zip_member(zipfile.ZipFile(io.BytesIO(packed({}))), info)
    with pytest.raises(ValueError, match="needs a password"): list(pick_members([member], WANTED, MOST, "a"))


def test_a_member_of_another_size_than_declared(tmp_path, monkeypatch):
    "Whatever an archive's reader lets through."
    member = Member("pictures/x.jpg", 10, True, lambda: io.BytesIO(b"abc"))
    (tmp_path / "a.zip").write_bytes(BODY)
    monkeypatch.setattr("cmr.data.download.open_archive", lambda _: nullcontext(iter([member])))
    with pytest.raises(ValueError, match="declares 10 bytes and holds 3"): unpack(tmp_path / "a.zip", tmp_path / "out", WANTED, MOST, False)


def test_only_what_is_wanted_comes_out(tmp_path):
    (tmp_path / "a.zip").write_bytes(packed({"pictures/1.jpg": b"1", "../../evil.sh": b"2", "notes.txt": b"3"}))
    assert unpack(tmp_path / "a.zip", tmp_path / "out", WANTED, MOST, False) == ["1.jpg"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["1.jpg"]


def tarred(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content) if kind == tarfile.REGTYPE else 0, "/etc/passwd"
            tar.addfile(info, io.BytesIO(content))
    return path


def test_tar_gz(tmp_path):
    path = tarred(tmp_path / "a.tar.gz", ("pictures/1.jpg", tarfile.REGTYPE, b"one"), ("other", tarfile.SYMTYPE, b""))
    assert unpack(path, tmp_path / "out", WANTED, MOST, False) == ["1.jpg"]
    assert (tmp_path / "out" / "1.jpg").read_bytes() == b"one"


@pytest.mark.parametrize("name, kind, said", [("pictures/x.jpg", tarfile.SYMTYPE, "is a link"), ("pictures/x.jpg", tarfile.FIFOTYPE, "is a link"),
                                              ("pictures/../../x.jpg", tarfile.REGTYPE, "leads out"), ("pictures/x.jpg", tarfile.LNKTYPE, "is a link")])
def test_bad_tars_write_nothing(tmp_path, name, kind, said):
    path = tarred(tmp_path / "a.tar.gz", ("pictures/1.jpg", tarfile.REGTYPE, b"one"), (name, kind, b"two"))
    with pytest.raises(ValueError, match=said): unpack(path, tmp_path / "out", WANTED, MOST, False)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tar_bomb_and_half_a_tar(tmp_path):
    path = tarred(tmp_path / "a.tar.gz", *((f"pictures/{i}.jpg", tarfile.REGTYPE, bytes(300_000)) for i in range(4)))
    with pytest.raises(ValueError, match="unpacks to more than"): unpack(path, tmp_path / "out", WANTED, MOST, False)
    whole = tarred(tmp_path / "b.tar.gz", ("pictures/1.jpg", tarfile.REGTYPE, BODY)).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(whole[:-5000])
    with pytest.raises(ValueError, match="is damaged"): unpack(tmp_path / "b.tar.gz", tmp_path / "out", WANTED, MOST, False)
    assert list((tmp_path / "out").iterdir()) == []


# --- a data set

def karpathy(splits=("train", "train", "val", "test"), captions=2):
    images = [{"filename": f"{i}.jpg", "split": split, "sentences": [{"raw": f"caption {i} {k}"} for k in range(captions)]}
              for i, split in enumerate(splits)]
    return json.dumps({"images": images}).encode()


def scan(train=2):
    "The features' archive, with another data set's files in it."
    members = {}
    for name, rows in {"train": train, "dev": 1, "test": 1}.items():
        np.save(content := io.BytesIO(), np.ones((rows, 3, 4), np.float32) * np.arange(1, rows + 1)[:, None, None])
        members[f"data/toy_precomp/{name}_ims.npy"] = content.getvalue()
        members[f"data/toy_precomp/{name}_caps.txt"] = "".join(f"caption {i}\n" for i in range(5 * rows))
    return packed({**members, "data/other_precomp/train_ims.npy": b"not looked at"})


ABOUT = {"by_hand": "the form at https://example.org", "most": MOST, "terms": "For teaching only.", "size": "1 kB"}


@pytest.fixture
def toy(server, monkeypatch):
    "A data set on the server, known by the name of a real one."
    server.files = {"/toy.json": karpathy(), "/pictures.zip": packed({f"toy/{i}.jpg": bytes([i]) for i in range(4)}), "/scan.zip": scan()}
    def source(name, **about): return Source(url=f"{server.url}/{name}", **about)
    data = DataSet(
        name="flickr30k", title="Toy", default=("features",), captions={"train": (2, 4), "dev": (1, 2), "test": (1, 2)},
        features={"train": (2, 10), "dev": (1, 5), "test": (1, 5)}, pieces=(
            Piece(part="captions", what="captions", members=r"toy\.json", **ABOUT, sources=(source("gone.json"), source("toy.json"))),
            Piece(part="pictures", what="pictures", members=r"toy/.*\.jpg", names=("archive.zip",), **ABOUT, sources=(source("pictures.zip"),)),
            Piece(part="features", what="features", members=r"(.*/)?toy_precomp/(train|dev|test)_(ims\.npy|caps\.txt)", **ABOUT,
                  sources=(source("scan.zip"),))))
    monkeypatch.setitem(published.DATASETS, "flickr30k", data)
    return data


def not_there(handler): return {"status": 404} if "gone" in handler.path else {}


def run(*words): return CliRunner().invoke(app, ["data", "flickr30k", *map(str, words), "--no-progress"])


def refusal(result):
    "The one line of an error."
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and result.stderr.rstrip().endswith(lines[0])
    return lines[0]


def test_features_by_name(toy, server, tmp_path):
    result = run(tmp_path / "d", "--accept-terms")
    assert result.exit_code == 0, result.output
    split = open_split(tmp_path / "d", "train")
    assert (split.n_images, len(split.captions)) == (2, 10)
    assert "Terms: For teaching only." in result.output and "cmr train --data" in result.output
    assert result.output.index("Terms:") < result.output.index("wrote")
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["dev.h5", "downloads", "test.h5", "train.h5"]
    server.asked.clear()
    assert run(tmp_path / "d").exit_code == 0 and server.asked == [], "what is there is not fetched again, and nobody is asked"


def test_captions_and_pictures_by_name(toy, server, tmp_path):
    server.todo = [not_there] * 4
    result = run(tmp_path / "d", "--accept-terms", "--no-features", "--pictures")
    assert result.exit_code == 0, result.output
    assert "answers 404" in result.output, "a source that has it no more is named"
    assert (tmp_path / "d" / "dev_ids.txt").read_text() == "2.jpg\n2.jpg\n"
    assert sorted(p.name for p in (tmp_path / "d" / "pictures").glob("[!.]*")) == [f"{i}.jpg" for i in range(4)]
    changed = (tmp_path / "d" / "pictures" / "0.jpg").stat().st_mtime_ns
    assert run(tmp_path / "d", "--no-features", "--pictures").exit_code == 0
    assert (tmp_path / "d" / "pictures" / "0.jpg").stat().st_mtime_ns == changed, "unpacked once"


def test_terms_are_shown_and_nothing_is_fetched_without_a_yes(toy, server, tmp_path):
    result = run(tmp_path / "d")
    assert "--accept-terms" in refusal(result) and "For teaching only." in result.output
    assert server.asked == [] and not (tmp_path / "d").exists()


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_person_is_asked(toy, server, tmp_path, monkeypatch, answer):
    monkeypatch.setattr("cmr.cli.download.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    result = CliRunner().invoke(app, ["data", "flickr30k", str(tmp_path / "d"), "--no-progress"], input=f"{answer}\n")
    if answer == "y": assert result.exit_code == 0 and (tmp_path / "d" / "train.h5").is_file()
    else: assert "not accepted" in refusal(result) and server.asked == []


def test_terms_that_do_not_ask_are_shown_only(toy, server, tmp_path, monkeypatch):
    pieces = tuple(piece.model_copy(update={"asks": False}) for piece in toy.pieces)
    monkeypatch.setitem(published.DATASETS, "flickr30k", toy.model_copy(update={"pieces": pieces}))
    result = run(tmp_path / "d")
    assert result.exit_code == 0 and "For teaching only." in result.output


def test_when_no_source_answers_it_is_said_what_to_do(toy, server, tmp_path):
    server.todo = [{"status": 404}] * 9
    said = refusal(run(tmp_path / "d", "--accept-terms"))
    for part in ("answers 404", "Get the file by hand", "the form at https://example.org", str(tmp_path / "d" / "downloads"), "scan.zip"):
        assert part in said
    assert not list((tmp_path / "d").glob("*.h5"))
    (tmp_path / "d" / "downloads" / "scan.zip").write_bytes(scan())                    # and that is enough
    server.asked.clear()
    assert run(tmp_path / "d").exit_code == 0 and server.asked == []


def test_from_a_folder(toy, server, tmp_path):
    (tmp_path / "hand").mkdir()
    said = refusal(run(tmp_path / "d", "--from", tmp_path / "hand"))
    assert "has no file with the features" in said and "as scan.zip" in said and "the form at" in said
    (tmp_path / "hand" / "scan.zip").write_bytes(scan())
    assert run(tmp_path / "d", "--from", tmp_path / "hand").exit_code == 0
    assert server.asked == [] and not (tmp_path / "d" / "downloads").exists()
    assert "no folder at" in refusal(run(tmp_path / "d", "--from", tmp_path / "nowhere"))


def test_from_a_folder_that_somebody_unpacked(toy, server, tmp_path):
    with zipfile.ZipFile(io.BytesIO(scan())) as archive: archive.extractall(tmp_path / "hand")
    assert run(tmp_path / "d", "--from", tmp_path / "hand" / "data").exit_code == 0
    assert run(tmp_path / "e", "--from", tmp_path / "hand" / "data" / "toy_precomp").exit_code == 0
    assert open_split(tmp_path / "e", "dev").n_images == 1


def test_files_under_the_names_they_have_by_hand(toy, tmp_path):
    (tmp_path / "hand").mkdir()
    (tmp_path / "hand" / "toy.json").write_bytes(karpathy())
    (tmp_path / "hand" / "archive.zip").write_bytes(packed({f"toy/{i}.jpg": bytes([i]) for i in range(4)}))
    assert run(tmp_path / "d", "--from", tmp_path / "hand", "--no-features", "--pictures").exit_code == 0


def test_one_folder_of_downloads_for_two_data_sets(toy, server, tmp_path):
    assert run(tmp_path / "d", "--accept-terms", "--downloads", tmp_path / "shared").exit_code == 0
    server.asked.clear()
    assert run(tmp_path / "e", "--downloads", tmp_path / "shared").exit_code == 0
    assert server.asked == [] and (tmp_path / "shared" / "scan.zip").is_file()


def test_a_changed_download_is_noticed(toy, tmp_path):
    assert run(tmp_path / "d", "--accept-terms").exit_code == 0
    (tmp_path / "d" / "downloads" / "scan.zip").write_bytes(scan(3))
    assert "is not what was downloaded" in refusal(run(tmp_path / "d"))


def test_other_digests_by_hand_are_noted(toy, tmp_path):
    piece = toy.pieces[2].model_copy(update={"sources": (Source(url="https://example.org/scan.zip", digest=SHA),)})
    (tmp_path / "scan.zip").write_bytes(scan())
    notes = []
    assert obtain(piece, tmp_path, QUICK, False, notes.append) == tmp_path / "scan.zip"
    assert "has not the digest that is published" in notes[0]
    assert recorded(tmp_path / "scan.zip") == ""


@pytest.mark.parametrize("content, said", [
    (scan(3), "the split train has 3 pictures and 15 captions, expected 2 and 10"),
    (packed({"data/toy_precomp/train_ims.npy": b"x"}), ""),
    (packed({"readme.txt": b"moved"}), "nothing that is wanted"),
], ids=["larger", "damaged", "another"])
def test_features_that_are_others(toy, server, tmp_path, content, said):
    server.files["/scan.zip"] = content
    assert said in refusal(run(tmp_path / "d", "--accept-terms"))
    assert not list((tmp_path / "d").glob("*.h5")) and not list((tmp_path / "d").glob(".*part"))


@pytest.mark.parametrize("content, said", [
    (karpathy(("train", "val", "test")), "the split train has 1 pictures and 2 captions, expected 2 and 4"),
    (karpathy(("train", "train", "test")), "has no split dev"),
    (karpathy(captions=3), "2 pictures and 6 captions"),
    (b'{"images": 3}', "images"),
    (b"[" * 100_000, ""),
])
def test_captions_that_are_others(toy, server, tmp_path, content, said):
    server.files |= {"/toy.json": content, "/gone.json": content}
    assert said in refusal(run(tmp_path / "d", "--accept-terms", "--no-features"))
    assert not list((tmp_path / "d").glob("*_caps.txt"))


def test_pictures_that_are_missing(toy, server, tmp_path):
    server.files |= {"/gone.json": karpathy(), "/pictures.zip": packed({f"toy/{i}.jpg": bytes([i]) for i in range(3)})}
    said = refusal(run(tmp_path / "d", "--accept-terms", "--no-features", "--pictures"))
    assert "lacks 1 of the pictures" in said and "3.jpg" in said
    assert not list((tmp_path / "d").glob("*_caps.txt"))


def test_from_python(toy, tmp_path):
    assert sorted(p.name for p in make_data(toy, tmp_path / "d", patience=QUICK, progress=False)) == ["dev.h5", "test.h5", "train.h5"]
    with pytest.raises(ValueError, match="nobody publishes features for flickr8k"): make_data(DATASETS["flickr8k"], tmp_path / "e", ["features"])


# --- the real descriptions

def test_splits_are_those_that_papers_report_on():
    pictures = {name: tuple(data.captions[split][0] for split in ("train", "dev", "test")) for name, data in DATASETS.items()}
    assert pictures == {"flickr8k": (6000, 1000, 1000), "flickr30k": (29_000, 1014, 1000), "coco": (113_287, 5000, 5000)}
    for name in ("flickr8k", "flickr30k"): assert all(captions == 5 * images for images, captions in DATASETS[name].captions.values())
    assert sum(captions for _, captions in DATASETS["coco"].captions.values()) == 414_113 + 202_654        # COCO's train2014 and val2014
    with pytest.raises(ValueError, match="expected 6,000 and 30,000"): check_counts({"train": (6000, 29_999)}, DATASETS["flickr8k"].captions, "x")


def test_descriptions_can_be_believed():
    for data in DATASETS.values():
        for piece in data.pieces:
            assert piece.terms and piece.by_hand.count("http") >= 1
            for source in piece.sources:
                assert source.url.startswith(("https://", "hf://")) or source.digest, f"{source.url}: neither encryption nor a digest"
                assert "@main" not in source.url, f"{source.url}: a revision that changes"
                assert (source.size or 0) <= piece.most
    assert "features" not in {piece.part for piece in DATASETS["flickr8k"].pieces}


@pytest.mark.parametrize("name", ["flickr8k", "flickr30k", "coco"])
def test_the_help_has_sizes_and_examples(name):
    said = CliRunner().invoke(app, ["data", name, "--help"], env={"COLUMNS": "140"}).output
    assert "GB" in said and "37 MB" in said and said.count(f"cmr data {name}") >= 3 and "--accept-terms" in said


def test_try_again_and_source_failed_are_told_apart():
    assert TryAgain("busy", 2).wait == 2 and not isinstance(TryAgain("busy"), SourceFailed)
    assert os.fspath(PartialFile(published.Path("a/b.zip")).path) == "a/.b.zip.part"
