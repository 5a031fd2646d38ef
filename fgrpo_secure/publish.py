"""What a finished run leaves for others: summary, statement, registry record, report and manifest, in that order."""

from fgrpo_secure import enrolment
from fgrpo_secure.evidence import audits, manifest, registry, signed_file, statement, witness
from fgrpo_secure.evidence.statement import Origins
from fgrpo_secure.federation import Federation
from fgrpo_secure.run_directory import write_durably
from fgrpo_secure.run_record import RunRecord


def publish(federation: Federation, record: RunRecord) -> None:
    """Write summary, statement, record and manifest, signed by the server. Closes the server's ledger.

    Of a baseline without secure aggregation the summary alone: there is nothing that a statement could vouch for.
    """
    from fgrpo_secure.report import facts, page  # drawing takes a second to import: other commands need not wait

    directory, identity = federation.directory, federation.identity
    summary = record.summary(federation)
    directory.write_summary(summary)
    if federation.privacy.trusted_server:
        federation.close()
        return
    origins = Origins(
        server=identity.public.hex(),
        authority=enrolment.pins(directory).authority.hex(),  # the one that the run began with
        roster_digest=federation.roster.digest.hex(),
        roster_version=federation.roster.version,
        ledger=witness.origin(identity.public, federation.run),
    )
    stated = statement.build(
        federation.config,
        federation.privacy.facts(),
        summary,
        origins,
        federation.ledger,
        federation.policy.adapter_digest(),
        federation.privacy.claim,
        audits.read(directory),
    )
    signed_file.write(directory.statement, stated, identity)
    text = registry.dump(registry.build(stated, federation.config.deployment))
    write_durably(directory.registry, text.encode())
    federation.close()  # SQLite folds its journal in: from here on the ledger's file does not change
    write_durably(directory.report, page.render(directory, facts.read(directory)).encode())
    manifest.write(directory, identity)
