"""The judge of tests/reliability finds what is wrong: a check that cannot fail proves nothing."""

import os
import pickle
import signal
from dataclasses import replace

import numpy as np
import pytest

from reliability import damage, judge, report
from reliability.kills import Killed
from reliability.limits import Memory

CASE = judge.Case("npy features", "scan/train_ims.npy", "no rows", lambda path: None, ("train", "--data", "scan"), ("scan",))
GOOD = "reading: 50%|#####     |\rNote: something\nError: scan/train_ims.npy is empty: save it again\n"


@pytest.mark.parametrize("said, wrong", [
    (GOOD, ""),
    ("Error: the file is empty\n", "no culprit"),
    (GOOD + "and more\n", "more lines"),
    ("Traceback (most recent call last):\n" + GOOD, "traceback"),
    ("train: 0%|   |Error: train_ims.npy\n", "0 lines"),
    (GOOD + GOOD, "2 lines"),
    ("Error: \x1b[31mtrain_ims.npy\n", "control"),
    ("Error: KeyError: 'train_ims.npy' (an error of the package: CMR_DEBUG=1 shows where)\n", "last net"),
])
def test_one_clear_line(said, wrong):
    found = judge.one_clear_line(CASE, said)
    assert (wrong in found) if wrong else found == ""


@pytest.mark.parametrize("status, left, same, verdict", [
    (2, [], False, "one line"), (2, ["unfinished: out/a.part"], False, "fault"), (None, [], False, "fault"), (-signal.SIGSEGV, [], False, "fault"),
    (1, [], False, "fault"), (0, [], True, "let in, same result"), (0, [], False, "fault"), (0, ["changed: victim.h5"], True, "fault"),
    (2, ["new: PICKLE_WAS_RUN"], False, "fault"), (70, [], False, "fault"),
])
def test_verdicts(status, left, same, verdict):
    assert judge.judge(CASE, status, GOOD if status == 2 else "", left, same)[0] == verdict


def test_what_is_let_in_has_a_reason():
    assert judge.judge(replace(CASE, damage="bit flipped (3)"), 0, "", [], False) == ("let in", judge.LET_IN["npy features", "bit flipped*", "*"])
    assert judge.judge(replace(CASE, words=("check", "scan")), 1, "found", [], False)[0] == "reported"


def test_changed_and_unfinished_files_are_seen(tmp_path):
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "a").write_text("1")
    before = judge.tree(tmp_path)
    assert judge.leftovers(before, judge.tree(tmp_path), CASE, False) == []
    (tmp_path / "scan" / "a").write_text("2")
    (tmp_path / "out").mkdir()
    for name in ("out/b.part", "out/whole.h5", "victim"): (tmp_path / name).write_text("")
    assert judge.leftovers(before, judge.tree(tmp_path), CASE, False) == ["changed: scan/a", "new: victim", "unfinished: out/b.part"]
    own = replace(CASE, own=("scan",))
    assert "changed: scan/a" in judge.leftovers(before, judge.tree(tmp_path), own, False)  # a refusal changes nothing
    assert "changed: scan/a" not in judge.leftovers(before, judge.tree(tmp_path), own, True)


def test_the_malicious_pickle_does_run_where_it_is_let(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(damage.OTHER_FILES["a pickle that runs a command"])
    assert (tmp_path / "PICKLE_WAS_RUN").exists()


def test_damage_is_done(tmp_path):
    path = tmp_path / "a.npy"
    for _, do in [*damage.in_bytes(), *damage.in_array()]:
        if path.is_dir() and not path.is_symlink(): path.rmdir()
        path.unlink(missing_ok=True)
        np.save(path, np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float32))
        before = judge.tree(tmp_path), os.stat(path).st_mode
        do(path)
        assert judge.tree(tmp_path) != before[0] or os.lstat(path).st_mode != before[1]


def test_every_case_of_damage_has_a_name_of_its_own():
    for ways in (damage.in_bytes(), damage.in_array(), damage.in_lines(), damage.in_json('{"a": [1, {"b": "c"}]}')):
        names = [name for name, _ in ways]
        assert len(names) == len(set(names)) > 15


def test_the_page_counts():
    outcomes = [judge.Outcome(CASE, 2, GOOD, "one line"), judge.Outcome(CASE, 0, "", "fault", "let in with another result")]
    page = report.page([report.files(outcomes), report.kills([Killed("train", 3, 2, 2, 1, 0, ("train: not the same",))]),
                        report.memory([Memory("steps", 500, 100.0, 101.5)])], 0, "python tests/reliability --write", 60.0)
    assert "| npy features | 2 | 1 | 0 | 0 | 0 | 1 |" in page and "- npy features, no rows, `cmr train`" in page
    assert "| cmr train | 3 | 2 | 2 | 1 | 0 |" in page and "+1.5" in page and "What cannot be promised" in page
