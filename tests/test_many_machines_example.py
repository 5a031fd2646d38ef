"""The parts of `make federation` that a wrong result could hide in: its certificates and its search for secrets."""

import importlib.util
import ssl
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "many_machines" / "federation.py"


@pytest.fixture(scope="module")
def federation():
    spec = importlib.util.spec_from_file_location("federation_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def shaken_hands(folder, host):
    """Whether a client that trusts ca.pem alone takes the server for `host`, over memory instead of a socket."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    client_side = ssl.create_default_context(cafile=folder / "ca.pem")
    client_side.minimum_version = ssl.TLSVersion.TLSv1_3
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(up, down, server_side=True)
    client = client_side.wrap_bio(down, up, server_hostname=host)
    for _ in range(10):
        done = 0
        for side in (client, server):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
        if done == 2:
            return True
    return False


def test_the_trials_certificate_is_good_for_this_machine_and_for_no_other(federation, tmp_path):
    federation.certificates(tmp_path)
    assert shaken_hands(tmp_path, "localhost")
    assert not shaken_hands(tmp_path, "elsewhere.example")
    assert (tmp_path / "tls.key").stat().st_mode & 0o077 == 0


def test_the_search_finds_a_planted_secret_in_every_form_and_knows_when_it_is_broken(federation, tmp_path):
    secrets = {"north": [b"0123456789abcdef"], "south": [b"of-south"]}
    folders = {name: tmp_path / name for name in secrets}
    for name, folder in folders.items():
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "own").write_bytes(b"before" + secrets[name][0] + b"after")
    assert federation.search(folders, secrets) == []
    (folders["south"] / "log").write_text(f"key {secrets['north'][0].hex()}")
    assert federation.search(folders, secrets) == ["south holds 1 times what is north's secret"]
    (folders["south"] / "log").unlink()
    (folders["north"] / "deep" / "own").unlink()
    assert "does not find north's own secrets" in federation.search(folders, secrets)[0]


def test_a_folder_that_is_no_trial_is_never_replaced(federation, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(SystemExit, match="is no trial of this script"):
        federation.main([str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_rows_say_whose_they_are_where_nobody_looks(federation, tmp_path):
    machine = federation.Machine("east", tmp_path)
    federation.write_data(machine)
    rows = (machine.folder / "rows.jsonl").read_text().splitlines()
    assert len(rows) == federation.ROWS
    assert all(federation.plant("east") in row for row in rows)
