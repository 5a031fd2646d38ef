"""Whether the database went back a moment under a live server: an older copy of it was put back, or a standby that
lagged behind took its place. Then it does not know any more what was noted since, `asked` above all.

    counted     how often anything was asked, which only grows. Less than was seen before: it went back
    start       which start of the database's server this is. Whatever goes back is started, or is another server
"""

from fgrpo_secure.engines.workers.database import Cursor
from fgrpo_secure.errors import CheckFailed


class WentBack(CheckFailed):
    """The database does not know what it confirmed before. All sessions that ran count as asked in."""

    def __init__(self) -> None:
        super().__init__(
            "the database went back to an earlier state: an older copy of it was put back, or a standby that lagged "
            "behind took its place. Sessions that ran count as paid; end all processes of this run and start them again"
        )


class GoingBack:
    """What one thread of a process saw of a run's database. See the module."""

    def __init__(self, run: bytes) -> None:
        self._run, self._most, self._went_back = run, -1, False

    def look(self, cursor: Cursor) -> str:
        """Which start of the database's server this is. Where the database went back since the last look, all sessions
        that run are noted as asked in, and `check` raises from then on."""
        cursor.execute(
            "SELECT extract(epoch FROM pg_postmaster_start_time())::text, (SELECT asked FROM fgrpo_run WHERE run = %s)",
            [self._run],
        )
        start, counted = cursor.fetchone() or ("", None)
        if (-1 if counted is None else counted) < self._most:
            self._went_back = True
            count_as_asked(cursor, self._run)
        else:
            self._most = -1 if counted is None else int(counted)
        return str(start)

    def check(self) -> None:
        """Returns unless a look showed that the database went back; else WentBack."""
        if self._went_back:
            raise WentBack


def count_as_asked(cursor: Cursor, run: bytes) -> None:
    """Of no session that has not ended is it known any more that nobody was asked."""
    cursor.execute("UPDATE fgrpo_session SET asked = true WHERE run = %s AND state <> 'ended'", [run])
