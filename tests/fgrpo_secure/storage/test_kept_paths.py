"""Paths as they fall, each with one weak spot in turn: the pipe's user is refused for every one, and for nothing else.

What an owner names is reached through links of every kind, in any number, at any place. A spot is a folder or a file
whose mode lets anybody in; without it the very same paths pass.
"""

import os
import random
import sys

import pytest

from fgrpo_secure.config import own_file
from fgrpo_secure.engines.https.unix_pipe import _why_not
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.learning.tasks.files import UnusableData, read_rows
from fgrpo_secure.storage import kept
from fgrpo_secure.storage.access import User
from fgrpo_secure.storage.client_folder import ClientFolder
from tests.fgrpo_secure.engines.pipes import meeting_place

PIPES = User(61_234, frozenset({61_234}))
CASES = 60
ENDS = {  # what is named -> what client.toml says, NAME being where it starts
    "data": 'data = "NAME"\nreward = "exact"\n',
    "hard link": 'data = "NAME"\nreward = "exact"\n',
    "data set": 'data = "NAME"\nreward = "exact"\n',
    "reward": 'task = "add"\nreward = ["partial", "NAME:pay"]\n',
    "trainer": 'task = "add"\ntrainer = "NAME:train"\n',
    "package": 'task = "add"\nreward = "NAME:pay"\n',
    "tensorboard": 'task = "add"\n',
    "client.rounds.jsonl": 'task = "add"\n',
}
SECRET = ("data", "data set", "hard link", "tensorboard", "client.rounds.jsonl")


@pytest.fixture
def place():
    with meeting_place() as folder:
        folder.chmod(0o755)
        yield folder


def made(path, mode, text=None):
    """A folder, or a file that holds `text`."""
    if text is None:
        path.mkdir()
    else:
        path.write_text(text)
    path.chmod(mode)
    return path


def ended(place, kind):
    """(what is at the end of all links, spots: path -> a mode that opens it)."""
    home = made(place / "end", 0o755)
    spots = {home: 0o777}
    if kind == "data set":
        end, pool = made(home / "set", 0o700), made(place / "pool", 0o711)
        blob = made(pool / "blob", 0o600, "rows")
        (end / "part.parquet").symlink_to(blob)
        return end, spots | {end: 0o711, pool: 0o733, blob: 0o604}
    if kind == "tensorboard":
        end = made(home / kind, 0o700)
        return end, spots | {end: 0o733}
    if kind == "hard link":
        home.chmod(0o700)
        end, pool = made(home / "rows.jsonl", 0o600, "rows"), made(place / "pool", 0o711)
        os.link(end, pool / "other")
        return end, {end: 0o604}
    if kind in SECRET:
        end = made(home / (kind if "." in kind else "rows.jsonl"), 0o600, "rows")
        return end, spots | {end: 0o604}
    if kind == "package":
        home = made(home / "rewards", 0o755)
        spots |= {made(home / "__init__.py", 0o644, ""): 0o646, home: 0o777}
    end, cache = made(home / "pay.py", 0o644, "import helper\n"), made(home / "__pycache__", 0o755)
    part, deep = made(home / "helpers", 0o755), made(home / "helpers" / "part.py", 0o644, "")
    opened = {end: 0o646, cache: 0o757, made(cache / "pay.cpython-311.pyc", 0o644, ""): 0o646, part: 0o777, deep: 0o646}
    return end, spots | opened | {made(home / "helper.py", 0o644, ""): 0o646}


def linked(place, draw, target, number):
    """(a name in a folder of its own that leads to `target`, that folder)."""
    home, kind = made(place / f"hop{number}", 0o711), draw.choice(("relative", "absolute", "folder"))
    if kind == "folder":
        (home / "way").symlink_to(target.parent)
        return home / "way" / target.name, home
    (home / target.name).symlink_to(target if kind == "absolute" else os.path.relpath(target, home))
    return home / target.name, home


def planted(place, draw, kind):
    """An owner's folder that names something through links, and its spots."""
    folder = ClientFolder.make(place / "owner")
    made(folder.identity, 0o600, "x")
    path, spots = ended(place, kind)
    for number in range(draw.randrange(4)):
        path, home = linked(place, draw, path, number)
        spots[home] = 0o733
    base, file = folder.root, folder.own_file
    if draw.random() < 0.3:  # client.toml lies elsewhere, and with it what its relative paths are meant from
        base = made(place / "etc", 0o711)
        file = base / "centre.toml"
        folder.own_file.symlink_to(file)
        spots |= {base: 0o733, file: 0o604}
    name = str(path)
    if path.name in ("tensorboard", "client.rounds.jsonl"):
        (folder.root / path.name).symlink_to(path)
    elif draw.random() < 0.6:
        name = path.name
        (base / name).symlink_to(path)
    made(file, 0o600, f'name = "owner"\n[data]\n{ENDS[kind].replace("NAME", name)}')
    return folder, spots


def refusal(folder):
    """What is said of the pipe's user."""
    return _why_not(PIPES, folder.kept())


@pytest.mark.parametrize("kind", ENDS)
def test_one_weak_spot_anywhere_on_the_way_is_refused_and_none_is_not(kind, monkeypatch):
    monkeypatch.setattr(sys, "path", [])  # of this process: the same in every case, and looked at below
    draw, tried = random.Random(f"weak spots of {kind}"), 0
    for _ in range(max(4, CASES // len(ENDS))):
        with meeting_place() as place:
            place.chmod(0o755)
            folder, spots = planted(place, draw, kind)
            assert refusal(folder) is None, "nothing is open"
            for spot, mode in spots.items():
                before = spot.stat().st_mode & 0o7777
                spot.chmod(mode)
                found = refusal(folder)
                assert found is not None, f"{spot.relative_to(place)} is open"
                assert spot.name in found
                spot.chmod(before)
                tried += 1
            assert refusal(folder) is None
    assert tried > len(ENDS)


def owner(place, table):
    folder = ClientFolder.make(place / "owner")
    made(folder.identity, 0o600, "x")
    made(folder.own_file, 0o600, f'name = "owner"\n[data]\n{table}')
    return folder


@pytest.mark.parametrize("table", [ENDS["data"].replace("NAME", "rows.jsonl"), ENDS["reward"].replace("NAME", "r.py")])
def test_a_relative_path_is_never_meant_from_the_working_folder(place, table, monkeypatch):
    elsewhere = made(place / "elsewhere", 0o755)
    made(elsewhere / "rows.jsonl", 0o606, '{"prompt": "p", "answer": "a"}\n')
    made(elsewhere / "r.py", 0o606, "def pay(): ...\n")
    monkeypatch.chdir(elsewhere)
    folder = owner(place, table)
    read = own_file.load(folder.own_file).client()
    assert str(folder.root) in str(read.data) + str(read.reward)
    if read.data:
        with pytest.raises(UnusableData, match=f"there is no data file {folder.root}/rows.jsonl"):
            read_rows(read.data)


def test_a_built_in_reward_that_looks_like_a_file_is_none(place):
    folder = owner(place, 'task = "add"\nreward = "format(a.py:b)"\n')
    assert own_file.load(folder.own_file).client().reward == "format(a.py:b)"
    assert refusal(folder) is None


@pytest.mark.parametrize("spot", ["lab", "lab/rewards", "lab/rewards/deep/pay.py", "lab/__pycache__", "lab/x.pth"])
def test_an_installed_reward_is_found_without_being_imported(place, spot, monkeypatch):
    lab = made(place / "lab", 0o755)
    made(lab / "rewards", 0o755)
    made(lab / "rewards" / "__init__.py", 0o644, "raise SystemExit('imported')\n")
    made(lab / "rewards" / "deep", 0o755)
    made(lab / "rewards" / "deep" / "pay.py", 0o644, "")
    made(lab / "__pycache__", 0o755)
    made(lab / "x.pth", 0o644, "")
    folder = owner(place, 'task = "add"\nreward = "rewards.deep.pay:pay"\n')
    monkeypatch.setattr(sys, "path", [*sys.path, str(lab)])
    assert refusal(folder) is None
    (place / spot).chmod(0o777)
    assert str(place / spot) in (refusal(folder) or "")


@pytest.mark.parametrize("package", ["fgrpo_secure", "protocols"])
def test_every_module_of_ours_counts(package):
    code = {str(path) for path in kept.imported()}
    assert any(path.endswith(f"{package}/wire.py" if package == "protocols" else "client/round.py") for path in code)


def test_a_folder_on_the_import_path_where_anybody_may_put_a_file_is_open(place, monkeypatch):
    folder, sticky = owner(place, 'task = "add"\n'), made(place / "sticky", 0o1777)
    monkeypatch.setattr(sys, "path", [*sys.path, str(sticky)])
    assert f"could change {sticky}" in (refusal(folder) or "")
    monkeypatch.setattr(sys, "path", [*sys.path[:-1], str(sticky / "none yet")])
    assert f"could put something of its own at {sticky}/none yet" in (refusal(folder) or "")


def test_more_files_than_can_be_looked_at_are_refused_in_one_sentence(place, monkeypatch):
    folder = owner(place, ENDS["data set"].replace("NAME", "set"))
    made(folder.root / "set", 0o700)
    monkeypatch.setattr(kept, "MOST_ENTRIES", 400)
    assert refusal(folder) is None
    for number in range(400):
        (folder.root / "set" / f"{number}.parquet").touch()
    with pytest.raises(UnusableInput, match="set holds more than 400 files that others must not reach"):
        folder.kept()
