"""What one server has to do with one place of the box: it is its primary, its backup, or has none of it."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from modum.box.protocol.limits import TIMEOUT
from modum.box.protocol.messages import Stand
from modum.box.protocol.replication import Begin, Member, View
from modum.box.server.core import Core
from modum.box.server.replication.council import Council
from modum.box.server.replication.follower import Follower, receive_header, receive_record
from modum.box.server.replication.log import LEASE, Log
from modum.box.server.replication.voter import Voter
from modum.box.sockets import Stream
from modum.errors import ModumError, ProtocolError

log = logging.getLogger("modum.server")

SILENCE: Final = 2 * LEASE
"""Seconds without a record after which a backup wants to be the primary: the primary's lease has ended by then, also if
one of the clocks is faster than the other by half."""
_BEAT: Final = LEASE / 5
_TICK: Final = LEASE / 10
_SEEK: Final = 0.3
"""Seconds between two tries to find a backup."""


class Place:
    """One place of the box on one server. Thread-safe.

    Args:
        number: of the place.
        member: this server.
        servers: how many there are.
        voter: of this server.
        council: of this server.
        core: makes an empty core.
        dial: for a place, connects to the server of a number, to have it follow this one; returns its run too.
    """

    def __init__(
        self,
        number: int,
        member: Member,
        servers: int,
        voter: Voter,
        council: Council,
        core: Callable[[], Core],
        dial: Callable[[int, int], tuple[Stream, str]],
    ) -> None:
        self.number = number
        self._member = member
        self._servers = servers
        self._voter = voter
        self._council = council
        self._make = core
        self._dial = dial
        self._mutex = threading.Lock()
        self._follower: Follower | None = None
        self._log: Log | None = None
        self._core: Core | None = None
        self._view: View | None = None
        self._attaching: threading.Thread | None = None
        self._next = 0.0
        self._hung_up = False
        self._told = ""
        self._fresh = False
        self._taking_over = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"modum-place-{number}", daemon=True)

    @property
    def core(self) -> Core | None:
        """What is served to clients here; None if this server is not the primary, or cannot acknowledge anything.

        The first primary of a place begins to serve when it has a backup: what is acknowledged is at two servers from
        the first request on.
        """
        log_ = self._log
        return None if log_ is None or log_.over or log_.stalled or self._fresh else self._core

    @property
    def stand(self) -> Stand | None:
        """Who serves the place, as the primary knows it."""
        view, log_ = self._view, self._log
        if view is None or log_ is None:
            return None
        backup = view.backup.server if view.backup and log_.linked and not log_.trouble else -1
        return Stand(view.number, view.primary.server, backup)

    def start(self) -> None:
        """Begin to take part."""
        self._thread.start()

    def stop(self) -> None:
        """Have everything that waits come to an end."""
        self._stopping.set()
        if self._log is not None:
            self._log.end()
        if self._core is not None:
            self._core.stop()
        with self._mutex:
            if self._follower is not None:
                self._follower.stop()

    def close(self) -> None:
        """Give everything back."""
        if self._thread.is_alive():
            self._thread.join()
        if self._attaching is not None:
            self._attaching.join()
        if self._log is not None:
            self._log.end()  # a backup may have come while it was stopped
        for core in (self._core, self._follower.core if self._follower else None):
            if core is not None:
                core.close()

    # ---- the primary's or a spare's turn

    def _run(self) -> None:
        while not self._stopping.wait(_TICK):
            try:
                if self._log is not None:
                    self._lead(self._log)
                elif self._follower is not None:
                    self._watch(self._follower)
                elif self.number == self._member.server and self._voter.votes:
                    self._found()
            except OSError as error:
                log.debug("place %d: %s", self.number, str(error))
            except Exception:
                log.exception("place %d: the keeper failed in one turn, and goes on", self.number)

    def _found(self) -> None:
        """Be the first primary of this server's own place, if nobody has ever been."""
        view = self._council.latest(self.number) or self._council.decide(self.number, View(1, self._member))
        if view == View(1, self._member):
            self._fresh = True
            self._be_primary(self._make(), view)

    def _be_primary(self, core: Core, view: View) -> None:
        core.sessions.take_over(TIMEOUT)  # who is idle does not notice that its connection has ended
        self._core, self._view = core, view
        self._log = Log(core, self.number)
        log.info("place %d is served here since view %d", self.number, view.number)

    def _lead(self, log_: Log) -> None:
        view = self._view
        assert view is not None
        decided = self._voter.decided(self.number)
        if decided is not None and decided.number > view.number and self._attaching is None:
            if not self._take(decided):
                return
            view = decided
        attaching = self._attaching
        if attaching is not None:
            if attaching.is_alive():
                if log_.trouble or log_.silent_for() > SILENCE:
                    log_.cut("it did not answer")
                log_.beat()
                return
            attaching.join()
            self._attaching = None
            return
        if log_.stalled and not self._hung_up:
            self._hung_up = True
            assert self._core is not None
            self._core.sessions.hang_up()  # whoever can is to look for another primary
        elif not log_.stalled:
            self._hung_up = False
        if log_.linked or view.backup is not None:
            log_.beat()
            if log_.trouble or not log_.linked or log_.silent_for() > SILENCE:
                if log_.over:
                    return  # this server ends: alone in a view it would keep its backup from taking the place
                log_.cut("it does not answer")
                self._shrink(log_, view)
            elif self._council.barred(self.number) > view.number:
                # who was started again votes from the next view on
                self._take(self._council.decide(self.number, View(view.number + 1, view.primary, view.backup)))
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + _SEEK
            self._attaching = threading.Thread(target=self._seek, args=(log_, view), daemon=True)
            self._attaching.start()

    def _shrink(self, log_: Log, view: View) -> None:
        """Have a view decided in which this server is alone; only then it acknowledges anything without a backup."""
        while True:
            # what was proposed for the next view before, and may be decided still, comes out here
            view = self._council.decide(self.number, View(view.number + 1, self._member))
            if not self._take(view):
                return
            if view.backup is None:
                break
        log.warning("place %d: the backup is let go of: %s", self.number, log_.trouble)
        log_.detach()

    def _take(self, view: View) -> bool:
        """Go by a view that was decided, and return whether this server is its primary."""
        if view.primary != self._member:
            self._abdicate(view)
            return False
        self._view = view
        return True

    def _abdicate(self, view: View) -> None:
        log.warning("place %d is served by server %d since view %d", self.number, view.primary.server, view.number)
        log_, core = self._log, self._core
        assert log_ is not None
        assert core is not None
        log_.end()
        self._log = self._core = self._view = None
        core.close()

    def _seek(self, log_: Log, view: View) -> None:
        """Find a backup, bring it to where this server is, and have it decided: a thread of its own."""
        for step in range(self._servers):
            server = (self.number + step) % self._servers
            if server == self._member.server or self._stopping.is_set():
                continue
            try:
                connection, run = self._dial(self.number, server)
            except (OSError, ModumError) as error:
                log.debug("place %d: server %d does not follow: %s", self.number, server, str(error))
                continue
            try:
                log_.attach(connection, view.number)
            except (OSError, ModumError) as error:
                log.info("place %d: server %d could not be brought up: %s", self.number, server, str(error))
                log_.detach()
                continue  # another one may have more room
            wish = View(view.number + 1, self._member, Member(server, run))
            try:
                decided = self._council.decide(self.number, wish)
            except OSError:
                decided = None
            if decided == wish:
                self._view = wish
                self._fresh = False
                log.info("place %d: server %d is the backup in view %d", self.number, server, wish.number)
            else:  # it may be decided still: the keeper acknowledges nothing before it knows
                log_.cut("it is in no view")
            return

    # ---- the backup's turn

    def _watch(self, follower: Follower) -> None:
        """Take the primary's place if it is silent."""
        if time.monotonic() - follower.heard <= SILENCE:
            return
        # no record is answered any more: an answer would let the primary serve reads for a while
        if not follower.stopped:
            follower.stop()
            return  # one may have come meanwhile
        with self._mutex:
            if self._follower is not follower:
                return
            self._taking_over = True  # nobody begins anew meanwhile: what is decided is decided for this follower
        try:
            latest = self._council.latest(self.number)
            taken = latest
            if latest is not None and latest.backup == self._member:
                taken = self._council.decide(self.number, View(latest.number + 1, self._member))
        finally:
            self._taking_over = False
        with self._mutex:
            self._follower = None
            if taken is None or taken.primary != self._member:
                follower.core.close()
                return
            log.warning("place %d: its primary is silent, and this server takes over", self.number)
            self._be_primary(follower.core, taken)

    def _complain(self, error: BaseException) -> None:
        """Say why this server cannot stand in; once, as the primary tries again and again."""
        if isinstance(error, ModumError) and str(error) != self._told:
            self._told = str(error)
            log.warning("place %d: this server cannot stand in for its primary: %s", self.number, self._told)

    def follow(self, connection: Stream) -> None:
        """Follow a primary over its connection, until that ends.

        Args:
            connection: after the handshake.

        Raises:
            ProtocolError: what comes is no beginning, or is older than what is known here.
            OSError: the connection broke.
        """
        header = receive_header(connection)
        if header is None:
            return
        begin = receive_record(connection, header)
        if not isinstance(begin, Begin):
            raise ProtocolError(f"a primary begins with {type(begin).__name__}")
        with self._mutex:
            decided = self._voter.decided(self.number)
            if self._log is not None or self._taking_over or (decided is not None and decided.number > begin.view):
                raise ProtocolError(f"view {begin.view} of place {self.number} is over")
            if self._follower is not None:
                self._follower.stop()
                self._follower.core.close()
                self._follower = None
            core = self._make()
            try:
                follower = self._follower = Follower(core, begin, connection)
            except BaseException as error:
                core.close()
                self._complain(error)
                raise
        follower.follow(header.sequence)
