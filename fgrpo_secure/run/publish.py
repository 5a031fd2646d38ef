"""What a finished run leaves for others: summary, statement, registry record, report and manifest, in that order.

From the rounds to the files:

    the ledger's last entry -> witnessed -> ledger closed -> files read as an auditor reads them -> documents -> signed
"""

from fgrpo_secure.config import files as config_file
from fgrpo_secure.evidence import attacks, audits, basis, manifest, registry, statement, summary
from fgrpo_secure.evidence import statement_form as form
from fgrpo_secure.evidence.statement import Basis
from fgrpo_secure.run.record import RunRecord
from fgrpo_secure.server.federation import Federation
from fgrpo_secure.storage import rosters, signed_file
from fgrpo_secure.storage.run_directory import RunDirectory, metrics_form, write_durably


def publish(federation: Federation, record: RunRecord) -> None:
    """Write all documents of a run, signed by the server. Closes the server's ledger.

    Of a baseline without secure aggregation the summary alone: there is nothing that a statement could vouch for.
    """
    from fgrpo_secure.report import facts, page  # drawing takes a second to import: other commands need not wait

    directory, identity, config = federation.directory, federation.identity, federation.config
    unsigned = form.Unsigned(rounds=record.rounds_done, stopped=record.stopped)
    if federation.privacy.trusted_server:
        spent = federation.epsilon_spent()
        derived = summary.summary(config, federation.privacy, unsigned, record.counts(), spent)
        directory.write_summary(derived | record.asserted())
        federation.close()
        return
    federation.end(record.rounds_done, record.stopped)
    federation.close()  # SQLite folds its journal in: from here on the ledger's file does not change
    write_durably(directory.config, config_file.dump(config).encode())
    known = basis.read(directory, rosters.pins(directory).authority)  # the authority that the run began with
    told = None if known.history else unsigned
    written = summary.derived(known, told, record.counts()) | record.asserted()
    directory.write_summary(written)
    _settle_metrics(directory, known)
    made, tried = audits.read(directory), attacks.read(directory)
    stated = statement.statement(known, summary.results(written), tuple(made.values()), told)
    signed_file.write(directory.statement, form.builtins(stated), identity)
    text = registry.dump(registry.build(form.builtins(stated), config.deployment))
    write_durably(directory.registry, text.encode())
    lines = tuple(directory.read_metrics()) if directory.metrics.exists() else ()
    listed = manifest.listed(directory) | facts.unsigned(directory)
    drawn = facts.RunFacts(known, stated, written, lines, listed, None, made, tried)
    write_durably(directory.report, page.render(drawn).encode())
    manifest.write(directory, identity)


def _settle_metrics(directory: RunDirectory, known: Basis) -> None:
    """The lines say what the ledger says: after a crash a round may have come twice, and failed in between."""
    derived = list(summary.metrics(known))
    if not derived:
        return
    lines = [line | told for line, told in zip(directory.read_metrics(), derived, strict=True)]
    write_durably(directory.metrics, "".join(map(metrics_form, lines)).encode())
