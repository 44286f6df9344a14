"""Scores on disk: cut off at any moment and gone on with, refused for another model or other data; and devices that run out of memory."""

import json
import os
import signal
import time
import warnings
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from cmr.encoders import Fragments
from cmr.fast import score_all, scoring
from cmr.imram import IMRAM
from cmr.matcher import VSE
from cmr.recall import report

SMALL = 80_000  # bytes: many tiles


def side(count, k, d=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(k) < torch.randint(1, k + 1, (count, 1), generator=generator)
    mask[0] = True
    return Fragments(torch.nn.functional.normalize(torch.randn(count, k, d, generator=generator), dim=-1) * mask[..., None], mask)


def imram(seed=0, **args):
    torch.manual_seed(seed)
    return IMRAM(4, 10, embed_dim=8, word_dim=4, **{"steps": 2, **args}).eval()


@pytest.fixture
def sides(): return side(30, 5, seed=1), side(70, 7, seed=2)


class Stop(Exception): pass


def watched(scores_of):
    "The same, which calls a model's `before_tile` first, where it has one."
    def scores(model, *more):
        getattr(model, "before_tile", lambda: None)()
        return scores_of(model, *more)
    return scores


@pytest.fixture(autouse=True)
def tiles_are_watched(monkeypatch): monkeypatch.setattr(scoring, "scores_of", watched(scoring.scores_of))


def stops(model, calls, error=Stop):
    "The same model, of which a tile cannot be scored any more after so many."
    left = [calls]

    def before_tile():
        left[0] -= 1
        if left[0] < 0: raise error("stopped")
    model.before_tile = before_tile
    return model


def never(model):
    "A model that must not score any more."
    return stops(model, 0, AssertionError)


def notes(out): return json.loads(Path(f"{out}.cmr.json").read_text())


# --- the file

def test_the_file_is_the_matrix(sides, tmp_path):
    whole = score_all(imram(), *sides, max_bytes=SMALL)
    out = tmp_path / "deep" / "er" / "s.npy"
    found = score_all(imram(), *sides, max_bytes=SMALL, out=out)
    assert torch.equal(found, whole) and found.dtype == torch.float32 and found.device.type == "cpu"
    assert sorted(p.name for p in out.parent.iterdir()) == ["s.npy", "s.npy.cmr.json"]
    stored = np.load(out, allow_pickle=False)
    assert stored.dtype == np.float32 and np.array_equal(stored, whole.numpy())
    image_of_caption = np.arange(70) % 30
    assert report(found, image_of_caption) == report(whole, image_of_caption)
    again = score_all(never(imram()), *sides, out=str(out))                       # whole: opened, nothing is computed
    assert torch.equal(again, whole)
    again[:] = 0                                                                  # what comes back is not the file
    assert np.array_equal(np.load(out), whole.numpy())
    assert score_all(imram(), sides[0], sides[1][:0], out=tmp_path / "none.npy").shape == (30, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_written_in_float32(sides, dtype, tmp_path):
    model, (images, captions) = VSE(4, 10, embed_dim=8, word_dim=4).to(dtype), (Fragments(x.values[:, :1].to(dtype), x.mask[:, :1]) for x in sides)
    found = score_all(model, images, captions, out=tmp_path / "s.npy")
    assert found.dtype == torch.float32 and torch.allclose(found, model.score(images, captions).float(), atol=1e-6)
    assert score_all(model, images, captions).dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("after", [0, 1, 7])
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_cut_off_and_gone_on_with(sides, after, error, tmp_path):
    out, whole = tmp_path / "s.npy", score_all(imram(), *sides, max_bytes=SMALL)
    with pytest.raises(error): score_all(stops(imram(), after, error), *sides, max_bytes=SMALL, out=out)
    assert notes(out)["done"] == after and not out.exists()
    rest, calls = imram(), []
    rest.before_tile = lambda: calls.append(1)
    assert torch.equal(score_all(rest, *sides, max_bytes=SMALL, out=out), whole)
    a, b = notes(out)["tile"]
    assert len(calls) == -(-30 // a) * -(-70 // b) - after and (a, b) != (30, 70)


def test_less_or_more_memory_the_second_time(sides, tmp_path):
    sides, imram_f64 = [side.to(torch.float64) for side in sides], lambda: imram().double()
    whole = score_all(imram_f64(), *sides).float()
    for k, bound in enumerate((40_000, 10**9)):
        out = tmp_path / f"{k}.npy"
        with pytest.raises(Stop): score_all(stops(imram_f64(), 3), *sides, max_bytes=2 * SMALL, out=out)
        tile = notes(out)["tile"]
        assert torch.allclose(score_all(imram_f64(), *sides, max_bytes=2 * bound, out=out), whole, atol=1e-6)  # one rounding to float32
        assert notes(out)["tile"] == tile


def test_what_does_not_matter(sides, tmp_path):
    "Padding, the last bits, and whether the engine computes: the same evaluation."
    out, (images, captions) = tmp_path / "s.npy", sides
    with pytest.raises(Stop): score_all(stops(imram(), 3), images, captions, max_bytes=SMALL, out=out)
    nudged = Fragments(captions.values * (1 + 1e-6 * torch.randn(captions.values.shape)), captions.mask)
    found = score_all(imram(), images.padded(9), nudged, max_bytes=SMALL, out=out, engine=False)
    assert torch.allclose(found, imram().score(images, captions), atol=1e-3)


@pytest.mark.parametrize("finished", [True, False])
def test_files_of_earlier_versions_are_gone_on_with(sides, finished, tmp_path):
    "They name arguments that models had then and that change no score."
    out, whole = tmp_path / "s.npy", score_all(imram(), *sides, max_bytes=SMALL)
    if finished: score_all(imram(), *sides, max_bytes=SMALL, out=out)
    else:
        with pytest.raises(Stop): score_all(stops(imram(), 3), *sides, max_bytes=SMALL, out=out)
    old = notes(out)
    old["settings"] |= {"engine": True, "max_words": 50}
    Path(f"{out}.cmr.json").write_text(json.dumps(old))
    assert torch.equal(score_all(imram(), *sides, out=out), whole)


def others(images, captions):
    changed = imram()
    with torch.no_grad(): changed.image_encoder.project.bias[3] += 1e-6
    swapped, longer = torch.arange(30), captions.padded(8)
    swapped[[4, 5]] = swapped[[5, 4]]
    one = captions.values.clone()
    one[40, 0] = -one[40, 0]
    longer.mask[12, 7] = True
    return {"settings": (imram(inverse_temperature=4.0), images, captions), "weights": (changed, images, captions), "settings and weights": (imram(3, steps=3), images, captions),
            "images": (imram(), images[swapped], captions), "captions": (imram(), images, Fragments(one, captions.mask)),
            "images and captions": (imram(), images[:20], captions[:60]), "captions ": (imram(), images, longer)}


@pytest.mark.parametrize("finished", [True, False])
def test_another_evaluation_is_refused(sides, finished, tmp_path):
    out = tmp_path / "s.npy"
    if finished: score_all(imram(), *sides, max_bytes=SMALL, out=out)
    else:
        with pytest.raises(Stop): score_all(stops(imram(), 3), *sides, max_bytes=SMALL, out=out)
    there = out if finished else Path(f"{out}.cmr.part")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for name, given in others(*sides).items():
        with pytest.raises(ValueError, match=f"with other {name.strip()}: delete {there}, or give another name"): score_all(*given, out=out)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    there.unlink()                                                                # as the message says
    model, images, captions = others(*sides)["weights"]
    assert torch.equal(score_all(model, images, captions, out=out), score_all(model, images, captions))


def test_what_is_no_file_of_scores_is_not_touched(sides, tmp_path):
    out = tmp_path / "s.npy"
    np.save(out, np.zeros((30, 70), np.float32))
    with pytest.raises(ValueError, match="s.npy is no file of scores that can be gone on with"): score_all(imram(), *sides, out=out)
    assert not np.load(out).any() and [p.name for p in tmp_path.iterdir()] == ["s.npy"]
    for name in ("scores", "config", "results.json"):
        with pytest.raises(ValueError, match=r"ends in \.npy"): score_all(imram(), *sides, out=tmp_path / name)
    for name in ("s.npy", "t.npy.cmr.part", "u.npy.cmr.json", "v.npy.cmr.json"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).write_text('{"someone": "else"}' if name[0] == "u" else "mine")
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ValueError, match=r"s\.npy is no file|t\.npy\.cmr\.part is no file|[uv]\.npy\.cmr\.json is "): score_all(imram(), *sides, out=tmp_path / f"{name[0]}.npy")
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"tile": [5, 5], "done": 3}', '{"tile": 5, "done": 3}'])
def test_damaged_notes(sides, text, tmp_path):
    out = tmp_path / "s.npy"
    score_all(imram(), *sides, out=out)
    Path(f"{out}.cmr.json").write_text(text)
    with pytest.raises(ValueError, match=r"s.npy.cmr.json is not what was noted.*delete .*s.npy, or give another name"): score_all(imram(), *sides, out=out)


@pytest.mark.parametrize("finished", [True, False])
def test_a_wrong_count_turns_no_zeros_into_scores(sides, finished, tmp_path):
    "Notes that say too many or too few tiles, another tile, or go with other scores: refused, and nothing is touched."
    out = tmp_path / "s.npy"
    if finished: score_all(imram(), *sides, max_bytes=SMALL, out=out)
    else:
        with pytest.raises(Stop): score_all(stops(imram(), 3), *sides, max_bytes=SMALL, out=out)
    good, there = notes(out), out if finished else Path(f"{out}.cmr.part")
    total, scores = -(-30 // good["tile"][0]) * -(-70 // good["tile"][1]), there.read_bytes()
    for change in ({"done": total if not finished else total - 1}, {"done": total + 1}, {"done": -1}, {"done": 2**70}, {"done": 2.5}, {"done": True}, {"done": "3"},
                   {"tile": [0, 3]}, {"tile": [10**9, 3]}, {"tile": good["tile"][::-1]}, {"tile": [1]}, {"digest": "0" * 64}, {"digest": 5}, {"images": {}},
                   {"captions": {"mask": "", "sketch": [None]}}, {"captions": {"mask": good["captions"]["mask"], "sketch": []}}):
        text = json.dumps({**good, **change})
        Path(f"{out}.cmr.json").write_text(text)
        with pytest.raises(ValueError) as refused: score_all(never(imram()), *sides, out=out)
        assert "\n" not in str(refused.value) and "s.npy" in str(refused.value) and "delete" in str(refused.value)
        assert there.read_bytes() == scores and Path(f"{out}.cmr.json").read_text() == text
    Path(f"{out}.cmr.json").write_text(json.dumps(good))
    there.write_bytes(scores[:128] + np.full((30, 70), 9, np.float32).tobytes())  # other scores
    with pytest.raises(ValueError, match="its scores are not those that were noted; delete it"): score_all(never(imram()), *sides, out=out)
    there.write_bytes(scores)
    assert torch.equal(score_all(imram(), *sides, out=out), score_all(imram(), *sides, max_bytes=SMALL))


def test_killed_between_any_two_steps(sides, tmp_path, monkeypatch):
    "Cut off before each rename and each writing of the array: the next call goes on, and the matrix is the whole one."
    whole, real = score_all(imram(), *sides, max_bytes=SMALL), os.replace
    for n in range(6):
        out, left = tmp_path / f"{n}.npy", [n]

        def replace(a, b, left=left):
            left[0] -= 1
            if left[0] < 0: raise Stop
            real(a, b)
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(scoring, "_new_array", (lambda path, shape: (path.write_bytes(b"half"), replace(path, path))[0]) if n == 2 else scoring._new_array)
        try: score_all(imram(), *sides, max_bytes=10**8, out=out)
        except (Stop, AttributeError, TypeError): pass
        monkeypatch.undo()
        assert torch.allclose(score_all(imram(), *sides, max_bytes=SMALL, out=out), whole, atol=1e-3)
        assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(str(n))) == [f"{n}.npy", f"{n}.npy.cmr.json"]


anything = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


@hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(key=st.sampled_from(["tile", "done", "digest", "settings", "weights", "images", "captions"]), value=anything)
def test_any_value_in_any_member_of_the_notes(sides, tmp_path_factory, key, value):
    out = tmp_path_factory.getbasetemp() / "any-notes" / "s.npy"
    whole = score_all(imram(), *sides, max_bytes=SMALL, out=out)
    good = Path(f"{out}.cmr.json").read_text()
    try:
        Path(f"{out}.cmr.json").write_text(json.dumps({**json.loads(good), key: value}))
        try: assert torch.equal(score_all(never(imram()), *sides, max_bytes=SMALL, out=out), whole)
        except ValueError as problem: assert "\n" not in str(problem) and "s.npy" in str(problem)
    finally: Path(f"{out}.cmr.json").write_text(good)


def test_damaged_scores(sides, tmp_path):
    out, part = tmp_path / "s.npy", tmp_path / "s.npy.cmr.part"
    with pytest.raises(Stop): score_all(stops(imram(), 3), *sides, max_bytes=SMALL, out=out)
    for spoilt in (part.read_bytes()[:500], b"", b"something else"):
        part.write_bytes(spoilt)
        with pytest.raises(ValueError, match="s.npy.cmr.part (is cut short|is no|is empty|is a text file|holds Python objects)"): score_all(imram(), *sides, out=out)
    with open(part, "wb") as file: np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match="s.npy.cmr.part (is cut short|is no|is empty|is a text file|holds Python objects)"): score_all(imram(), *sides, out=out)


def test_left_behind_by_a_start_that_was_killed(sides, tmp_path):
    "Notes of nothing done beside half a .part were never begun; notes without a file are of one that was deleted."
    out = tmp_path / "s.npy"
    score_all(imram(), *sides, max_bytes=SMALL, out=out)
    whole = np.load(out)
    out.unlink()
    assert notes(out)["done"] > 1
    assert np.array_equal(score_all(imram(), *sides, max_bytes=SMALL, out=out).numpy(), whole)
    out.unlink()
    Path(f"{out}.cmr.json").write_text(json.dumps({**notes(out), "done": 0}))
    Path(f"{out}.cmr.part").write_bytes(b"ha")
    assert np.array_equal(score_all(imram(), *sides, max_bytes=SMALL, out=out).numpy(), whole)


def child(work):
    "The id of a process that does some work and ends with status 0, or 1 after an error, whose text it leaves in `work.said`."
    number = os.fork()
    if number: return number
    try:
        work()
        os._exit(0)
    except BaseException as problem:
        work.said.write_text(f"{type(problem).__name__}: {problem}")
        os._exit(1)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
def test_no_room_on_the_disk_is_said_at_once(tmp_path):
    import resource
    x = Fragments(torch.ones(1000, 1, 8), torch.ones(1000, 1, dtype=torch.bool))

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
        score_all(VSE(4, 10, embed_dim=8), x, x, out=tmp_path / "s.npy")
    work.said = tmp_path / "said"
    assert os.waitstatus_to_exitcode(os.waitpid(child(work), 0)[1]) == 1
    assert work.said.read_text().startswith("OSError") and "s.npy" in work.said.read_text() and "4.0 MB" in work.said.read_text()
    assert not (tmp_path / "s.npy").exists()


@needs_fork
def test_killed_half_way_three_times(sides, tmp_path):
    "A process that scores is killed at a moment of its own each time; the next one goes on, and the matrix is that of one that was never killed."
    out, done = tmp_path / "s.npy", 0
    whole = score_all(imram(), *sides, max_bytes=SMALL)

    def work():
        model = imram()
        model.before_tile = lambda: time.sleep(0.004)
        score_all(model, *sides, max_bytes=SMALL, progress=False, out=out)
    for k in range(3):
        number, since = child(work), time.monotonic()
        while time.monotonic() - since < 60:
            if Path(f"{out}.cmr.json").is_file() and notes(out)["done"] > done + 3 + 2 * k: break
            time.sleep(0.001)
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        assert not out.exists() and notes(out)["done"] > done
        done = notes(out)["done"]
    a, b = notes(out)["tile"]
    last, calls = imram(), []
    last.before_tile = lambda: calls.append(1)
    score_all(last, *sides, max_bytes=SMALL, progress=False, out=out)
    assert len(calls) == -(-30 // a) * -(-70 // b) - done
    assert torch.equal(score_all(never(imram()), *sides, out=out), whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.npy", "s.npy.cmr.json"], "what killed runs left is cleared away"


def test_two_evaluations_of_one_name(sides, tmp_path):
    "The second is told so, and changes nothing; the first one's scores are whole."
    out, whole, told = tmp_path / "s.npy", score_all(imram(), *sides, max_bytes=SMALL), []

    def second():
        with pytest.raises(ValueError, match="s.npy is being written by another process: wait until it has ended, or give another name") as refused: score_all(imram(), *sides, out=out)
        told.append(str(refused.value))
    first = imram()
    first.before_tile = second
    assert torch.equal(score_all(first, *sides, max_bytes=SMALL, out=out), whole)
    assert told and "\n" not in told[0] and sorted(p.name for p in tmp_path.iterdir()) == ["s.npy", "s.npy.cmr.json"]


@needs_fork
def test_a_lock_ends_with_its_process(sides, tmp_path):
    from cmr.files import alone_with
    out = tmp_path / "s.npy"

    def work():
        with alone_with(out, "wait"):
            (tmp_path / "held").touch()
            time.sleep(60)
    number = child(work)
    while not (tmp_path / "held").exists(): time.sleep(0.001)
    with pytest.raises(ValueError, match="another process"): score_all(imram(), *sides, out=out)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    assert torch.equal(score_all(imram(), *sides, out=out), score_all(imram(), *sides))


@pytest.mark.parametrize("again", [False, True])
def test_scores_outlive_their_file(sides, tmp_path, again):
    "A mapped file that is cut short ends the process (SIGBUS): what fits is in memory."
    out = tmp_path / "s.npy"
    for _ in range(1 + again): found = score_all(imram(), *sides, out=out)
    out.write_bytes(b"")
    assert torch.equal(found, score_all(imram(), *sides))


def test_scores_that_do_not_fit_are_mapped(sides, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from cmr import files
    out = tmp_path / "s.npy"
    whole = score_all(imram(), *sides, out=out)
    monkeypatch.setattr(files.psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    found = files.load_npy(out, "scores", "f", (2,))
    assert isinstance(found, np.memmap) and np.array_equal(found, whole.numpy())
    found[:] = 0
    assert np.load(out).any()


# --- memory that runs out

class Cramped(VSE):
    "Runs out of memory above a number of pairs."
    most, error, sizes = 100, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ()

    def score(self, images, captions):
        self.sizes = (*self.sizes, len(images) * len(captions))
        if self.sizes[-1] > self.most: raise self.error
        return super().score(images, captions)


ERRORS = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
          RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), RuntimeError("MPS backend out of memory")]


@pytest.fixture
def vectors(): return side(30, 1, seed=1), side(70, 1, seed=2)


@pytest.mark.parametrize("error", ERRORS, ids=[type(e).__name__ + str(e)[:12] for e in ERRORS])
@pytest.mark.parametrize("written", [False, True])
def test_the_tile_is_halved_and_it_is_said_once(vectors, error, written, tmp_path):
    model = Cramped(4, 10, embed_dim=8, word_dim=4)
    model.error = error
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = score_all(model, *vectors, **({"out": tmp_path / "s.npy"} if written else {}))
    assert torch.allclose(found, VSE.score(model, *vectors), atol=1e-6)
    assert len(said) == 1 and "no memory left on cpu for a tile of 30 images by 70 captions" in str(said[0].message) and "max_bytes" in str(said[0].message)
    assert model.sizes[:5] == (2100, 1050, 540, 270, 135) and max(model.sizes[5:]) <= 100  # halved until it fits, and never tried larger again


def test_a_real_allocation_that_fails(vectors):
    class Greedy(VSE):
        def score(self, images, captions):
            if len(images) * len(captions) > 500: torch.empty(2**60, dtype=torch.uint8)
            return super().score(images, captions)
    model = Greedy(4, 10, embed_dim=8, word_dim=4)
    with pytest.warns(UserWarning, match="no memory left on cpu"): found = score_all(model, *vectors)
    assert torch.allclose(found, VSE.score(model, *vectors), atol=1e-6)


def test_the_refused_tile_is_let_go_before_its_halves_are_tried(vectors):
    import weakref
    held = []

    class Holding(VSE):
        def score(self, images, captions):
            assert not any(ref() is not None for ref in held), "the tensors of the refused tile are still there"
            table = torch.zeros(10)
            if len(images) * len(captions) > 500:
                held.append(weakref.ref(table))
                raise torch.OutOfMemoryError("out of memory")
            return super().score(images, captions)
    with pytest.warns(UserWarning): score_all(Holding(4, 10, embed_dim=8, word_dim=4), *vectors)
    assert len(held) == 3


def test_not_even_one_pair(vectors, tmp_path):
    model = Cramped(4, 10, embed_dim=8, word_dim=4)
    model.most = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MemoryError, match="cpu has no memory left for one image with one caption"): score_all(model, *vectors)


def test_scores_so_far_are_kept_where_memory_ends(sides, tmp_path):
    out = tmp_path / "s.npy"
    whole = score_all(imram(), *sides, max_bytes=SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MemoryError): score_all(stops(imram(), 5, MemoryError), *sides, max_bytes=SMALL, out=out)
    assert notes(out)["done"] == 5
    assert torch.equal(score_all(imram(), *sides, max_bytes=SMALL, out=out), whole)


def test_other_errors_are_not_taken_for_it(vectors):
    model = Cramped(4, 10, embed_dim=8, word_dim=4)
    model.error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"): score_all(model, *vectors)
    assert model.sizes == (2100,)


# --- the command

def test_sizes_as_people_write_them():
    from cmr.cli.evaluate import as_bytes
    sizes = {"500MB": 5 * 10**8, "2GB": 2 * 10**9, "1.5 GiB": 3 * 2**29, ".5gb": 5 * 10**8, "64kib": 2**16, "800b": 800, None: None}
    assert {size: as_bytes(size) for size in sizes} == sizes
    for size in ("", "2", "GB", "-1GB", "2 gigs", "1e3MB", "1.2.3MB"):
        with pytest.raises(ValueError, match="is no size: write a number and a unit"): as_bytes(size)


def test_evaluate_hands_on_file_and_bound(tmp_path, monkeypatch):
    from types import SimpleNamespace

    import cmr.training
    from cmr.cli import app
    given, model = [], Path(__file__).parent.parent / "data" / "sample"

    def evaluate(*args, **more):
        given.append((args[4], more))
        return SimpleNamespace(table=lambda: "the report"), torch.zeros(24, 120)
    from typer.testing import CliRunner
    monkeypatch.setattr(cmr.training, "evaluate", evaluate)
    words = ["evaluate", str(model / "imram"), "--data", str(model), "--split", "sample", "--device", "cpu"]
    said = [CliRunner().invoke(app, words + more) for more in ([], ["--scores", str(tmp_path / "s.npy"), "--max-memory", "1.5GB"], ["--max-memory", "much"])]
    assert given == [(None, {"out": None, "engine": True}), (15 * 10**8, {"out": tmp_path / "s.npy", "engine": True})]
    assert "24 images by 120 captions" in said[1].output and "The scores" not in said[0].output
    assert said[2].exit_code == 2 and "for example 500MB or 2GB" in said[2].output


@pytest.fixture
def two(world, tmp_path):
    "Two models of the tiny world's width and one of another, saved; and what the command says about some of them."
    from typer.testing import CliRunner

    from cmr.cli import app
    from cmr.data import Vocabulary
    from cmr.saving import save
    words = Vocabulary(["a", "red", "blue", "green", "dog", "cat", "bird", "runs", "sits"])
    for seed, (name, width) in enumerate((("one", 6), ("two", 6), ("wide", 7))):
        torch.manual_seed(seed)
        save(VSE(width, len(words), 8, 5), words, tmp_path / name)

    def said(*arguments, data=world):
        done = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--data", str(data), "--device", "cpu"])
        return done.exit_code, done.output
    return said


def test_several_models_and_their_mean(two, tmp_path):
    one, both, out = tmp_path / "one", tmp_path / "two", tmp_path / "mean.npy"
    for path in (one, both): assert two(path, "--scores", f"{path}.npy")[0] == 0
    status, said = two(one, both, "--scores", out)
    assert status == 0 and "mean of scores" in said and "2 models" in said
    alone = [np.load(f"{path}.npy") for path in (one, both)]
    assert np.allclose(np.load(out), (alone[0] + alone[1]) / 2, atol=1e-6) and not list(tmp_path.glob(".*"))
    expected = [report(torch.from_numpy(scores), np.arange(6).repeat(2)) for scores in (*alone, np.load(out))]
    lines = [line for line in said.splitlines() if any(name in line for name in ("one", "two ", "mean of"))]
    for found in expected: assert any(f"{found.rsum:.1f}" in line and f"{found.text_r5:.1f}" in line for line in said.splitlines()), (said, lines)
    status, said = two(one, both, "--scores", out)                      # a mean replaces nothing
    assert status == 2 and "mean.npy is there" in said and len(said.strip().splitlines()) == 1


def test_models_that_cannot_be_averaged(two, tmp_path):
    for given, message in (((tmp_path / "one", tmp_path / "wide"), "has regions of 6 numbers, the model was trained on 7"), ((tmp_path / "one", tmp_path / "on"), "no folder"),
                           ((tmp_path / "one", tmp_path / "two", "--folds", "4"), "--folds 4 does not divide the 6 images"),
                           ((tmp_path / "one", "--folds", "7"), "--folds 7 does not divide"), ((tmp_path / "one", "--scores", tmp_path / "x.json"), "ends in .npy"),
                           ((tmp_path / "one", "--split", "nope"), "no split")):
        status, said = two(*given)
        assert status == 2 and message in said.replace("\n", " ") and not (tmp_path / "x.json").exists()


def test_features_that_are_too_large(two, world, tmp_path):
    "Finite ones, whose squares are not, are refused naming the file and the image; not as scores that are NaN, or all zero."
    import shutil

    import h5py

    from cmr.data import open_split
    shutil.copytree(world, tmp_path / "data")
    split = open_split(tmp_path / "data", "test")
    file, names = split.source, split.ids
    for large in (1e38, 1e20, -1e20):
        shutil.rmtree(tmp_path / "data")
        shutil.copytree(world, tmp_path / "data")
        if file.suffix == ".h5":
            with h5py.File(tmp_path / "data" / file.name, "r+") as data: data["features"][3] = large
        status, said = two(tmp_path / "one", data=tmp_path / "data")
        assert status == 2 and file.name in said and f"image {names[3]} (row 3) are too large" in said.replace("\n", " ") and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("damage", ["no config", "a link to itself", "no weights"])
def test_a_damaged_best_is_not_passed_over(two, tmp_path, damage):
    import shutil
    run = tmp_path / "run"
    for name in ("best", "last"): shutil.copytree(tmp_path / "one", run / name)
    config = run / "best" / "config.json"
    (run / "best" / "model.safetensors" if damage == "no weights" else config).unlink()
    if damage == "a link to itself": config.symlink_to(config)
    status, said = two(run)
    assert status == 2 and "best" in said and ("config.json" in said or "model.safetensors" in said) and len(said.strip().splitlines()) == 1
    shutil.rmtree(run / "best")
    assert two(run)[0] == 0                                                       # only where there is no best/ at all


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_scenes_that_cannot_be_read_are_named(two, world, tmp_path, kind):
    import shutil
    shutil.copytree(world, tmp_path / "data")
    path = tmp_path / "data" / "test_scenes.json"
    path.unlink(missing_ok=True)
    {"folder": path.mkdir, "link": lambda: path.symlink_to("nowhere"), "pipe": lambda: os.mkfifo(path)}[kind]()
    status, said = two(tmp_path / "one", data=tmp_path / "data")
    assert status == 2 and "test_scenes.json" in said.replace("\n", "")


def test_two_ensembles_of_one_name(two, tmp_path):
    from cmr.files import alone_with
    with alone_with(tmp_path / "mean.npy", "wait"): status, said = two(tmp_path / "one", tmp_path / "two", "--scores", tmp_path / "mean.npy")
    assert status == 2 and "mean.npy is being written by another process" in said and not (tmp_path / "mean.npy").exists()


def test_scores_of_unlike_spread_are_averaged_with_a_note(two, tmp_path):
    from cmr.saving import load, save
    model, words = load(tmp_path / "two")
    class Loud(VSE):
        def score(self, images, captions): return 10 * super().score(images, captions)
    from cmr.matcher import MODELS
    MODELS["loud"] = Loud
    try:
        loud = Loud(6, len(words), 8, 5)
        loud.load_state_dict(model.state_dict())
        save(loud, words, tmp_path / "loud")
        status, said = two(tmp_path / "one", tmp_path / "loud")
        assert status == 0 and "Note: the scores of" in said and "loud vary by" in said.replace("\n", " ")
        assert "Note" not in two(tmp_path / "one", tmp_path / "two")[1]
    finally: MODELS.pop("loud")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(sides, tmp_path):
    whole = score_all(imram(), *sides)
    for bound in (SMALL, None): assert torch.allclose(score_all(imram().cuda(), *sides, max_bytes=bound), whole, atol=1e-4)
    assert torch.allclose(score_all(imram().cuda(), *sides, out=tmp_path / "s.npy"), whole, atol=1e-4)
