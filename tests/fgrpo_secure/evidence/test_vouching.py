"""Every figure of statement, summary and metrics has exactly one voucher; report and docs have the same table."""

import dataclasses
from pathlib import Path

import msgspec
import pytest

from fgrpo_secure.evidence import statement_form as form
from fgrpo_secure.evidence import summary, vouching
from fgrpo_secure.evidence.vouching import Voucher
from fgrpo_secure.storage.run_directory import RoundMetrics

ROOT = Path(__file__).parents[3]


def fields_of(kind, place):
    """The places of all leaves of a msgspec type."""
    found = msgspec.inspect.type_info(kind) if not isinstance(kind, msgspec.inspect.Type) else kind
    match found:
        case msgspec.inspect.StructType() | msgspec.inspect.DataclassType():
            for each in found.fields:
                yield from fields_of(each.type, f"{place}.{each.encode_name}")
        case msgspec.inspect.UnionType():
            for each in found.types:
                yield from fields_of(each, place)
        case msgspec.inspect.VarTupleType():
            yield from fields_of(found.item_type, f"{place}.0")
        case msgspec.inspect.DictType():
            yield f"{place}.key"
        case msgspec.inspect.NoneType():
            pass
        case _:
            yield place


def places(finished):
    yield from fields_of(form.Statement, "statement")
    yield from (f"summary.{name}" for name in msgspec.json.decode(finished.summary.read_bytes()))
    yield from (f"metrics.{each.name}" for each in dataclasses.fields(RoundMetrics))


def test_every_figure_has_one_voucher(finished):
    found = list(places(finished))
    assert len(found) > 120
    for place in found:
        vouching.figure_of(place)
    used = {vouching.figure_of(place).key for place in found}
    assert used == {figure.key for figure in vouching.FIGURES}, "a figure that no document has"
    with pytest.raises(LookupError, match="nobody"):
        vouching.figure_of("summary.something_new")


def test_only_what_the_statement_lists_as_asserted_is_the_servers_word_or_what_it_decoded(finished):
    """What `verify` compares with nothing is called asserted, and nothing of it is called proven."""
    uncompared = {f"summary.{name}" for name in summary.ASSERTED} | {f"metrics.{name}" for name in summary.MEASURED}
    for place in places(finished):
        voucher = vouching.figure_of(place).voucher
        if place in uncompared or place.startswith("statement.asserted."):
            assert voucher is Voucher.ASSERTED, place


def test_what_clients_sign_becomes_the_servers_word_in_a_run_that_nobody_signs():
    assert not [each for each in vouching.figures(signed=False, measured=False) if each.voucher is Voucher.SIGNED]
    assert [each for each in vouching.figures(signed=True, measured=True) if each.voucher is Voucher.MEASURED]


def test_the_docs_have_the_table():
    assert vouching.markdown() in (ROOT / "docs/how-to/audit-a-run.md").read_text()
