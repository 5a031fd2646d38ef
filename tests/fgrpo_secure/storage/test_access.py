"""Whom a path is open to, computed: held against the kernel itself, which another user's process asks."""

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from fgrpo_secure.storage.access import ACL, READ, WRITE, User, way_in
from tests.fgrpo_secure.engines.pipes import meeting_place, needs_root

ME, OTHER = 61_234, 61_235
MY_GROUPS = (61_234, 61_300)
TREES = 250
MODES = (0o700, 0o711, 0o750, 0o755, 0o770, 0o777, 0o1777, 0o707, 0o640, 0o604, 0o600, 0o000)
KERNEL = """
import json, os, sys
os.setgroups({groups!r}); os.setgid({uid}); os.setuid({uid})
def reads(path):
    try:
        open(path, "rb").close()
        return True
    except OSError:
        return False
def renames(path):
    try:
        os.rename(path, path + "2"); os.rename(path + "2", path)
        return True
    except OSError:
        return False
found = []
for folders, file in json.load(sys.stdin):
    found.append([reads(file), os.access(file, os.W_OK) or any(map(renames, [file, *folders]))])
print(json.dumps(found))
"""


def access_list(draw):
    """A POSIX access list as the kernel keeps it: the six kinds of entries, in their order."""
    bits = [draw.choice((0, 4, 6, 7)) for _ in range(6)]
    user, group = draw.choice((ME, OTHER)), draw.choice((*MY_GROUPS, OTHER))
    nobody = 0xFFFFFFFF
    ids = ((1, nobody), (2, user), (4, nobody), (8, group), (16, nobody), (32, nobody))
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, b, i) for (tag, i), b in zip(ids, bits, strict=True)
    )


def planted(place, draw, name):
    """outer/inner/file with owners, groups, modes and lists as they fall."""
    folders = [place / name, place / name / "inner"]
    folders[1].mkdir(parents=True)
    file = folders[1] / "file"
    file.write_bytes(b"secret")
    for path in (file, *reversed(folders)):
        os.chown(path, draw.choice((0, OTHER, OTHER, ME)), draw.choice((0, OTHER, *MY_GROUPS)))
        path.chmod(draw.choice(MODES))
        if draw.random() < 0.3:
            os.setxattr(path, ACL, access_list(draw))
    return folders, file


@needs_root
def test_who_the_kernel_lets_in_is_found_in_every_tree_and_few_others_are():
    draw, user = random.Random(11), User(ME, frozenset(MY_GROUPS))
    with meeting_place() as place:
        place.chmod(0o755)
        trees = [planted(place, draw, f"t{number}") for number in range(TREES)]
        program = KERNEL.format(groups=list(MY_GROUPS[1:]), uid=ME)
        given = json.dumps([([str(each) for each in folders], str(file)) for folders, file in trees])
        done = subprocess.run([sys.executable, "-c", program], input=given, capture_output=True, text=True, check=True)
        kernel = json.loads(done.stdout)
        ours = [(way_in(user, file, READ), way_in(user, file, WRITE)) for _, file in trees]
    missed = [
        (tree, said)
        for tree, said, lets in zip(trees, ours, kernel, strict=True)
        for s, k in zip(said, lets, strict=True)
        if k and not s
    ]
    assert missed == []
    let_in, refused = (sum(any(each) is wanted for each in kernel) for wanted in (True, False))
    assert let_in > TREES / 10
    assert refused > TREES / 10
    too_strict = sum(not any(lets) and any(said) for said, lets in zip(ours, kernel, strict=True))
    assert too_strict < refused / 2, "what says yes of everything would pass, too"


def test_a_link_is_followed_to_what_it_leads_to_and_its_own_folder_counts(tmp_path):
    with meeting_place() as place:  # everybody may put something there, and nobody rename what is another's
        (place / "open").mkdir()
        (place / "open").chmod(0o777)
        rows = place / "rows.jsonl"
        rows.write_text("x")
        rows.chmod(0o600)
        link = place / "open" / "link"
        link.symlink_to(rows)
        stranger = User(ME, frozenset({ME}))
        assert way_in(stranger, rows) is None
        assert "could replace what is in" in (way_in(stranger, link) or "")
        rows.chmod(0o604)
        assert way_in(stranger, rows) == f"could read {rows}"
        assert way_in(stranger, rows, WRITE) is None
        assert way_in(stranger, place / "not there", READ) is None
        assert "could put something of its own at" in (way_in(stranger, place / "not there") or "")
        assert way_in(stranger, rows.parent / "rows.jsonl" / "not a folder") is None


def test_a_path_that_goes_in_a_circle_is_no_promise(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "cannot be looked at" in (way_in(User(ME, frozenset()), tmp_path / "a") or "")


def test_a_file_with_a_second_name_is_open_wherever_its_first_name_lies(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    rows = closed / "rows.jsonl"
    rows.write_text("x")
    rows.chmod(0o644)
    stranger = User(ME, frozenset({ME}))
    assert way_in(stranger, rows) is None
    os.link(rows, tmp_path / "other")
    assert way_in(stranger, rows) == f"could read {rows}, a file of several names"
    assert way_in(stranger, rows, WRITE) is None
    rows.chmod(0o600)
    assert way_in(stranger, rows) is None


def test_a_way_up_from_a_link_is_the_way_up_from_what_it_leads_to():
    with meeting_place() as place:
        place.chmod(0o755)
        for name, mode in (("open", 0o777), ("open/inner", 0o755), ("closed", 0o755)):
            (place / name).mkdir()
            (place / name).chmod(mode)
        (place / "closed" / "link").symlink_to(place / "open" / "inner")
        (place / "closed" / "rows").write_text("x")
        (place / "closed" / "rows").chmod(0o600)
        stranger = User(ME, frozenset({ME}))
        assert way_in(stranger, place / "closed" / "rows") is None
        up = place / "closed" / "link" / ".." / ".." / "closed" / "rows"
        assert f"could replace what is in {place}/open" == way_in(stranger, up)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711])
def test_a_folder_that_others_may_enter_is_open(mode):
    with meeting_place() as place:
        books = place / "books"
        books.mkdir()
        books.chmod(mode)
        member = User(ME, frozenset({Path(books).stat().st_gid}))
        assert way_in(member, books) == f"could read {books}"
