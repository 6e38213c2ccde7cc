"""Coordination of workers through the box: liveness, consistency, rendezvous, leases, and what they decide for all."""

from modum.coordination.consistency import agree, compare, open_alike
from modum.coordination.control import Control
from modum.coordination.leases import held
from modum.coordination.liveness import Member, Roster
from modum.coordination.rendezvous import Rendezvous

__all__ = ["Control", "Member", "Rendezvous", "Roster", "agree", "compare", "held", "open_alike"]
