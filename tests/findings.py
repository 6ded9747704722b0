"""What tests of checks ask of their findings."""

from collections.abc import Sequence

from flows.cli.doctor.checkup import Finding, Level


def only(findings: Sequence[Finding], level: Level) -> Finding:
    """The one finding of that level."""
    found = [each for each in findings if each.level is level]
    assert len(found) == 1, findings
    return found[0]


def assert_all_ok(findings: Sequence[Finding]) -> None:
    assert {each.level for each in findings} == {Level.OK}, findings
