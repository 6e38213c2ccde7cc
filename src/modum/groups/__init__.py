"""Workers that step together, and what they agree on."""

from modum.groups.alone import Alone
from modum.groups.base import Group
from modum.groups.box import BoxGroup

__all__ = ["Alone", "BoxGroup", "Group"]
