"""`fgrpo roster`: the walk-through as users type it, and input that must change nothing."""

import shlex
from pathlib import Path

import pytest

from fgrpo_secure.storage import identity_file
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.roster import Roster, open_roster, renew, sign_roster

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "rosters.md"
BY = ("--authority", "a.identity")


def test_the_walk_through_works_as_it_is_written(fgrpo, tmp_path):
    known, outputs = None, []
    for line in PAGE.read_text().split("```console\n")[1].split("```")[0].splitlines():
        words = shlex.split(line)
        redirect = next((word for word in words if word in (">", ">>")), None)
        command = words[1 : words.index(redirect)] if redirect else words[1:]
        outcome = fgrpo(*command)
        assert outcome.exit_code == 0, (line, outcome.output)
        outputs.append(outcome.output)
        if redirect:
            with (tmp_path / words[-1]).open("w" if redirect == ">" else "a") as file:
                file.write(outcome.stdout)
        if (tmp_path / "roster.bin").exists():
            data = (tmp_path / "roster.bin").read_bytes()
            first = identity_file.read(tmp_path / "authority.identity").public
            known = open_roster(data, first, 1) if known is None else renew(known, data)
    assert known.version == 5
    assert [entry.id for entry in known.members] == [0, 1, 2, 4]
    assert known.revoked == (3,)
    assert known.public(1) == identity_file.read(tmp_path / "clinic-1.new.identity").public
    assert known.authority == identity_file.read(tmp_path / "authority-2.identity").public
    assert "2099-12-31" in outputs[-1]
    assert open_roster(data, first, 1).digest == known.digest, "who pinned the first authority can follow"
    for path in tmp_path.glob("*.identity"):
        assert identity_file.read_seed(path).hex() not in "".join(outputs)


@pytest.fixture
def lines(fgrpo):
    """Enrolment lines of c0 and c1, who are in r.bin, and of c2, who is not; a.identity is the authority."""
    fgrpo("identity", "new", "--name", "a")
    made = [fgrpo("identity", "new", "--name", f"c{i}").stdout.strip() for i in range(3)]
    assert fgrpo("roster", "add", "r.bin", *made[:2], *BY).exit_code == 0
    return made


def test_a_key_or_name_that_is_enrolled_is_refused(fgrpo, refused, lines):
    assert "same name" in refused("roster", "add", "r.bin", lines[0], *BY)
    other = fgrpo("identity", "new", "--name", "c0", "--out", "x.identity").stdout.strip()
    assert "same name" in refused("roster", "add", "r.bin", lines[2], other, *BY)
    assert "has this key already" in refused("roster", "add", "r.bin", lines[0], "--replace", *BY)


def test_a_revoked_id_and_its_key_never_come_back(fgrpo, refused, lines, tmp_path):
    assert fgrpo("roster", "revoke", "r.bin", "1", *BY).exit_code == 0
    assert "not enrolled" in refused("roster", "revoke", "r.bin", "1", *BY)
    assert "key that it retired" in refused("roster", "add", "r.bin", lines[1], *BY)
    assert fgrpo("roster", "add", "r.bin", lines[2], *BY).exit_code == 0
    key = identity_file.read(tmp_path / "a.identity").public
    assert [entry.id for entry in open_roster((tmp_path / "r.bin").read_bytes(), key, 3).members] == [0, 2]


def test_neither_a_stranger_nor_a_member_nor_the_server_signs(refused, lines, tmp_path):
    assert "not signed by this authority" in refused("roster", "revoke", "r.bin", "0", "--authority", "c2.identity")
    assert "authority" in refused("roster", "sign", "r.bin", "--hand-over-to", "c0.identity", *BY)
    assert "itself" in refused("roster", "sign", "r.bin", "--hand-over-to", "a.identity", *BY)
    RunDirectory(Path()).private.mkdir()
    RunDirectory(Path()).server_key.write_bytes(identity_file.read_seed(tmp_path / "a.identity"))
    assert "server" in refused("roster", "revoke", "r.bin", "0", *BY)
    (tmp_path / "server.key").write_bytes(identity_file.read_seed(tmp_path / "a.identity"))
    assert "server" in refused("roster", "revoke", "r.bin", "0", "--authority", "server.key")


def test_unusable_lines_days_and_files_change_nothing_and_are_not_quoted(refused, lines, tmp_path):
    assert "f00d" not in refused("roster", "add", "r.bin", "c9 f00d f00d", *BY)
    assert "not one that" in refused("roster", "add", "r.bin", lines[2].replace("c2", "c3"), *BY)
    assert "cannot be read" in refused("roster", "add", "r.bin", "absent.txt", *BY)
    for day in ("soon", "today", "2099-02-30", "1969-12-31"):
        assert "YYYY-MM-DD" in refused("roster", "sign", "r.bin", "--last-day", day, *BY)
    assert "hexadecimal" in refused("roster", "show", "r.bin", "--authority", "abc")
    (tmp_path / "r.bin").write_bytes((tmp_path / "r.bin").read_bytes()[:-9])
    assert "not a usable roster" in refused("roster", "show", "r.bin")
    assert "not a usable roster" in refused("roster", "add", "r.bin", lines[2], *BY)


def test_show_tells_expiry_and_fails_for_another_authority(fgrpo, lines, tmp_path):
    signer, stranger = (identity_file.read(tmp_path / f"{name}.identity") for name in ("a", "c2"))
    assert "the one you gave" in fgrpo("roster", "show", "r.bin", "--authority", signer.public.hex()).stdout
    failed = fgrpo("roster", "show", "r.bin", "--authority", stranger.public.hex())
    assert (failed.exit_code, failed.stdout) == (1, "")
    (tmp_path / "old.bin").write_bytes(sign_roster(signer, Roster(1, signer.public, (), last_day=1)))
    assert "1970-01-02 (expired)" in fgrpo("roster", "show", "old.bin").stdout
