"""`fgrpo identity new`."""

import stat

import pytest

from fgrpo_secure.storage import identity_file
from protocols.roster import read_enrolment_line


def test_an_identity_is_secret_enrols_by_its_line_and_is_never_overwritten(fgrpo, tmp_path, refused):
    made = fgrpo("identity", "new", "--name", "clinic-3")
    path = tmp_path / "clinic-3.identity"
    assert made.exit_code == 0
    assert read_enrolment_line(made.stdout) == ("clinic-3", identity_file.read(path).public)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert identity_file.read_seed(path).hex() not in made.output
    assert "never overwritten" in refused("identity", "new", "--name", "clinic-3")


@pytest.mark.parametrize("name", ['a"b', "../a", "", "a b"])
def test_a_name_that_is_none_is_refused(refused, name):
    assert "is no name" in refused("identity", "new", "--name", name)
