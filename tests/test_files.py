"""The doors: every file from outside is understood, or refused in one line that names it."""

import json
import os
import pickle
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr import files


def refused(function, *args, **how) -> str:
    "The one line with which something is refused."
    with pytest.raises((ValueError, OSError)) as caught: function(*args, **how)
    assert "\n" not in str(caught.value), str(caught.value)
    return str(caught.value)


@given(st.text())
def test_what_is_printed_is_one_line_without_escapes(text):
    shown = files.printable(text)
    assert len(shown.splitlines()) <= 1 and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)


def test_escapes_are_taken_out_and_words_stay():
    assert files.printable("a\x1b[31mred\x1b[0m\nb\u202e c") == "a [31mred [0m b c"
    assert files.printable("x" * 100, 10) == "xxxxxxx..."


def test_atomic_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.atomic_write(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("problem", [OSError("1474560 requested and 8064 written"), OSError(28, "No space left on device")])
def test_a_write_that_fails_names_the_file_and_keeps_the_old_one(tmp_path, problem):
    path = tmp_path / "a.npy"
    files.write_text(path, "old")
    with pytest.raises(OSError, match=r"a\.npy.*(8064|No space).*still whole"), files.atomic_write(path): raise problem
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_nothing_but_a_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe"); (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"): assert f"{name} is a {name}" in refused(files.write_text, tmp_path / name, "x")
    assert not (tmp_path / "pipe").is_file() and len(list(tmp_path.iterdir())) == 2


def test_what_a_killed_process_left_goes_with_the_next_write_and_nothing_else(tmp_path):
    code = (f"import os\nfrom cmr.files import atomic_write\nwith atomic_write({str(tmp_path / 'a[1].txt')!r}) as p:\n    p.write_text('half')\n"
            f"    os._exit(9)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    others = tmp_path / ".film.mkv.part", tmp_path / f".b.txt.{files.HOST}.{os.getppid()}.part", tmp_path / ".a[1].txt.elsewhere.1.part"
    for other in others: other.write_text("not ours")
    assert len(list(tmp_path.iterdir())) == 4
    files.write_text(tmp_path / "a[1].txt", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a[1].txt", *(p.name for p in others)])


def test_room_is_asked_for_first(tmp_path):
    assert "left" in refused(files.check_room, tmp_path / "no" / "such" / "a", 2**60)
    assert "memory" in refused(files.check_memory, 2**60, "a.npy")
    (tmp_path / "a").write_bytes(b"")
    files.reserve(tmp_path / "a", 10**6)
    if hasattr(os, "posix_fallocate"): assert (tmp_path / "a").stat().st_size == 10**6
    assert "left" in refused(files.reserve, tmp_path / "a", 2**60)


def test_kinds_by_content(tmp_path):
    def made(name, content): (tmp_path / name).write_bytes(content); return files.kind_of(tmp_path / name)
    np.save(open(tmp_path / "a.txt", "wb"), np.zeros(3)); np.savez(tmp_path / "b", x=np.zeros(3)); torch.save({"a": 1}, tmp_path / "c")
    with h5py.File(tmp_path / "d", "w") as file: file["x"] = 1
    files.write_tensors(tmp_path / "e", {"a": torch.zeros(2)})
    assert [files.kind_of(tmp_path / name) for name in ("a.txt", "b.npz", "c", "d", "e")] == ["npy", "npz", "torch", "hdf5", "safetensors"]
    assert made("f", pickle.dumps({})) == "pickle" and made("g", b"") == "empty" and made("h", b"\xef\xbb\xbf [1]") == "json"
    assert made("i", b"a man\n") == "text" and made("j", b"\0\1\2") == "bytes" and made("k", b"PK\x03\x04 half") == "zip"


def test_a_pickle_is_called_one_and_a_checkpoint_names_the_command(tmp_path):
    (tmp_path / "a.npy").write_bytes(pickle.dumps([1])); torch.save({}, tmp_path / "b.pth.tar")
    said = refused(files.open_npy, tmp_path / "a.npy")
    assert "a.npy is a pickle" in said and "allow_pickle=False" in said and "allow_pickle=True" not in said
    for read in (files.open_npy, files.open_h5): assert "cmr import checkpoint" in refused(read, tmp_path / "b.pth.tar")
    np.save(tmp_path / "c.npy", np.array([[1], [2, 3]], dtype=object), allow_pickle=True)
    said = refused(files.open_npy, tmp_path / "c.npy")
    assert "mask" in said and "padded" in said and "allow_pickle" not in said


def test_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa man\r\nzwei M\u00e4nner\n".encode())
    assert files.read_lines(path) == ["a man", "zwei M\u00e4nner"]
    path.write_bytes("a\nb\nM\u00e4nner".encode("latin-1"))
    assert "a.txt: line 3 is not UTF-8" in refused(files.read_lines, path)
    path.write_text("a\n" + "x" * 10_001)
    assert "line 2: 10,001 characters" in refused(files.read_lines, path)
    path.write_bytes(b"a\nb\0c")
    assert "line 2 has a NUL" in refused(files.read_lines, path)
    assert "no captions at" in refused(files.read_lines, tmp_path / "none", "captions")
    assert "is a folder" in refused(files.read_lines, tmp_path)


class Words(files.FromFile):
    words: list[str]
    idx: int = 0
    share: float = 0.0
    names: list[files.Id] = []


@pytest.mark.parametrize("content, part", [
    ('{"words": ["a"], "idx": 1.5}', "idx"), ('{"words": ["a"], "idx": "1"}', "idx"), ('{"words": ["a"], "idx": true}', "idx"),
    ('{"words": "a"}', "words"), ('{"words": [1]}', "words.0"), ("{}", "words"), ("[]", "a.json"), ('{"words": ["a"], "share": NaN}', "share"),
    ('{"words": ["a"], "share": 1e999}', "share"), ('{"words"', "a.json"), ("[" * 100_000, "a.json"), ('{"words": ["\\ud800"]}', "a.json"),
    ('{"words": ["a"], "names": [1.5]}', "names.0"), ('{"words": ["a"], "names": [null]}', "names.0"), ("", "a.json")])
def test_json_of_another_kind_is_refused_with_file_and_place(tmp_path, content, part):
    (tmp_path / "a.json").write_text(content)
    said = refused(files.read_json, tmp_path / "a.json", Words, "a vocabulary")
    assert "a.json is not a vocabulary" in said and part in said and files.COPY_AGAIN in said, said


def test_json(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff{"words": ["a"], "names": [7, "b"], "more": 1}', encoding="utf-8")
    read = files.read_json(tmp_path / "a.json", Words, "a vocabulary")
    assert read.words == ["a"] and read.names == ["7", "b"]


KINDS = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3))

@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["words", "idx", "share", "names", "x"]), KINDS) | KINDS)
def test_any_json_is_understood_or_refused_in_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    try: assert isinstance(files.read_json(path, Words, "a vocabulary"), Words)
    except ValueError as problem: assert "\n" not in str(problem) and "a.json" in str(problem)


def test_npy_rows_are_those_of_the_array(tmp_path):
    array = np.arange(60, dtype=np.float32).reshape(5, 3, 4)
    np.save(tmp_path / "a.npy", array)
    read = files.open_npy(tmp_path / "a.npy")
    assert read.shape == array.shape and len(read) == 5 and read.ndim == 3
    for index in (0, -1, slice(1, 4), slice(None, None, 2), slice(4, 1, -1), slice(3, 3), slice(None)): np.testing.assert_array_equal(read[index], array[index])
    np.testing.assert_array_equal(np.asarray(read), array)
    with pytest.raises(IndexError): read[5]


def test_a_run_reads_the_npy_file_it_began_with(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((4, 2, 3), np.float32))
    read = files.open_npy(path)
    np.save(tmp_path / "b.npy", np.zeros((4, 2, 3), np.float32)); os.replace(tmp_path / "b.npy", path)
    assert read[:].min() == 1                            # another file of that name
    read = files.open_npy(path)
    with open(path, "rb+") as file: file.truncate(150)   # cut short in a run: a line, where a mapped file ends the process
    assert "cut short while it was read" in refused(lambda: read[3])


def npy(path, header: bytes, data: bytes = b"", version=(1, 0)):
    path.write_bytes(b"\x93NUMPY" + bytes(version) + len(header).to_bytes(2 if version[0] == 1 else 4, "little") + header + data)


@pytest.mark.parametrize("header", [
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 36, 2048), }\n", b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }\n",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 3), }\n" % 2**70, b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, ", b"[" * 60_000,
    b"{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }\n", b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }\n", b"()\n",
    b"{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1), }\n", b"{'descr': '<U9', 'fortran_order': False, 'shape': (1, 1), }\n",
    b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 1), }\n", b"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3, 4), }\n",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n", b"{'descr': '<f4', 'fortran_order': False, 'shape': 7, }\n"])
def test_npy_headers_that_lie_are_refused(tmp_path, header):
    npy(tmp_path / "a.npy", header, b"\0" * 8)
    assert "a.npy" in refused(files.open_npy, tmp_path / "a.npy")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_no_npy(tmp_path_factory, content, begun):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    path.write_bytes(b"\x93NUMPY" * begun + content)
    try: files.open_npy(path)
    except ValueError as problem: assert "\n" not in str(problem) and "a.npy" in str(problem)


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 3)), bbox=np.ones((2, 4)))
    assert files.read_npz(tmp_path / "a.npz", {"x": "f", "bbox": "f"}, "regions")["bbox"].shape == (2, 4)
    assert "no array 'y'" in refused(files.read_npz, tmp_path / "a.npz", {"y": "f"}, "regions")
    np.savez(tmp_path / "b.npz", x=np.array([{}], dtype=object))
    assert "Python objects" in refused(files.read_npz, tmp_path / "b.npz", {"x": "f"}, "regions")
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive: archive.writestr("x.npy", b"no array")
    assert "c.npz" in refused(files.read_npz, tmp_path / "c.npz", {"x": "f"}, "regions")


def h5(path, **members):
    with h5py.File(path, "w") as file:
        for name, value in members.items(): file[name] = value
    return path


def test_members_of_hdf5(tmp_path):
    path = h5(tmp_path / "a.h5", x=np.ones((2, 3), np.float32), t=np.array(["a", "b\u00e4"], dtype=h5py.string_dtype()), s=np.array([b"a"], "S3"))
    with files.open_h5(path) as file:
        assert files.h5_array(file, "x", "f", (2,)).shape == (2, 3) and files.h5_text(file, "t") == ["a", "b\u00e4"] and files.h5_text(file, "s") == ["a"]
        file_says = [refused(files.h5_member, file, *ask) for ask in (("y", "f", (2,)), ("x", "i", (2,)), ("x", "f", (3,)), ("x", "T", (1,)), ("t", "f", (1,)))]
    assert all("a.h5" in line for line in file_says) and all(f"member {name}" in line for line, name in zip(file_says, "yxxxt"))


def test_hdf5_that_points_elsewhere_is_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"root:x:0:0" * 10)
    h5(tmp_path / "other.h5", x=np.ones((2, 3)))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("external", (16,), np.uint8, external=[(str(secret), 0, 16)])
        file["link"], file["soft"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x"), h5py.SoftLink("/external")
        layout = h5py.VirtualLayout((2, 3), float); layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (2, 3))
        file.create_virtual_dataset("virtual", layout)
        file.create_group("group"); file["null"] = h5py.Empty("f")
    with files.open_h5(tmp_path / "a.h5") as file:
        for name in ("external", "link", "soft", "virtual", "group", "null"):
            assert f"member {name}" in refused(files.h5_member, file, name, "fu", (1, 2))


def test_hdf5_that_declares_more_than_it_holds_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("huge", (10**9, 36, 2048), np.float32, chunks=(1, 36, 2048))
        file.create_dataset("flat", (10**4, 10), np.float32)
        some = file.create_dataset("some", (4, 10), np.float32, chunks=(1, 10)); some[:3] = 1
        file.create_dataset("packed", (2, 10), np.float32, chunks=(1, 10), compression="gzip", data=np.zeros((2, 10)))
    assert (tmp_path / "a.h5").stat().st_size < 20_000
    with files.open_h5(tmp_path / "a.h5") as file:
        for name in ("huge", "flat", "some"): assert "only a part" in refused(files.h5_member, file, name, "f", (2, 3))
        assert files.h5_array(file, "packed", "f", (2,)).sum() == 0


def test_hdf5_cut_short_at_any_place_is_refused_or_whole(tmp_path):
    whole = h5(tmp_path / "a.h5", x=np.arange(600, dtype=np.float64).reshape(20, 30)).read_bytes()
    for size in range(0, len(whole), 97):
        (tmp_path / "b.h5").write_bytes(whole[:size])
        assert "b.h5" in refused(lambda: files.h5_array(files.open_h5(tmp_path / "b.h5"), "x", "f", (2,)))


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    def written(order):
        files.write_tensors(tmp_path / "a", {name: torch.full((3,), float(ord(name))) for name in order}, {name: name for name in order})
        return (tmp_path / "a").read_bytes()
    assert len({written(order) for order in ("abcdef", "fedcba", "cabdfe") for _ in range(8)}) == 1
    tensors, about = files.read_tensors(tmp_path / "a", "weights")
    assert set(tensors) == set(about) == set("abcdef") and about["c"] == "c"


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path):
    for filler in range(700):                       # lengths of headers from about 70 to 770 bytes: 0x0280 = 640 begins as a pickle does
        files.write_tensors(tmp_path / "a", {"x": torch.ones(1)}, {"note": "x" * filler})
        assert files.kind_of(tmp_path / "a") == "safetensors", filler


def test_safetensors_cut_short_is_refused(tmp_path):
    files.write_tensors(tmp_path / "a", {"x": torch.ones(10)})
    whole = (tmp_path / "a").read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "b").write_bytes(whole[:size])
        assert "b" in refused(files.read_tensors, tmp_path / "b", "weights")


class Evil:
    def __reduce__(self): return os.system, ("touch executed",)


@pytest.mark.parametrize("save", [lambda x, path: torch.save(x, path), lambda x, path: torch.save(x, path, _use_new_zipfile_serialization=False),
                                  lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_checkpoint_runs_nothing(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"model": Evil()}, tmp_path / "a.pth.tar")
    said = refused(files.read_torch, tmp_path / "a.pth.tar", "a checkpoint", "ask its authors")
    assert "a.pth.tar" in said and not (tmp_path / "executed").exists()


def test_a_damaged_tensor_in_a_checkpoint_is_found(tmp_path):
    torch.save({"x": torch.arange(10_000.)}, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    at = content.index(torch.arange(5000., 5004.).numpy().tobytes())
    assert files.read_torch(tmp_path / "a.pt", "a checkpoint", "")["x"][5000] == 5000
    content[at] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    assert "damaged" in refused(files.read_torch, tmp_path / "a.pt", "a checkpoint", "start again")
