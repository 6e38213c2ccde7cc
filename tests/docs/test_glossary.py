"""docs/glossary.md has each word once, and all those that the field and the code go by."""

import re

from tests.docs.scripts import ROOT

FIELD = (
    "worker, group, rank, world size, step, segment, stripe, chunk, moving rate, interval, staleness, exchange, "
    "accumulate"
)
CODE = (
    "session, slot, reply cache, job, update rule, averaging, rendezvous, liveness, transport, buffer, front end, seam"
)


def words() -> list[str]:
    """Return the words that are explained."""
    return re.findall(r"^\| \*\*([^*]+)\*\*", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)


def test_words_of_the_field_and_of_the_code_are_explained() -> None:
    assert {*FIELD.split(", "), *CODE.split(", ")} <= set(words())


def test_a_word_is_explained_once() -> None:
    assert len(words()) == len(set(words()))
