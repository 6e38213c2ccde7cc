"""Conformance suites for transports, rules, groups, vectors and cluster environments, including your own."""

from modum.testing.environment import check_environment
from modum.testing.group import check_group
from modum.testing.rule import check_rule
from modum.testing.transport import check_transport
from modum.testing.vector import check_vector

__all__ = ["check_environment", "check_group", "check_rule", "check_transport", "check_vector"]
