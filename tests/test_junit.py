"""Test reports as tools write them, and as nobody should."""

import io
import resource
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.outputs.junit import TEXT_LENGTH, Budget, ReportUnreadable, read_report
from flows.results import Case

MIB = 1024**2


def read(report: str | bytes, elements: int = 100_000) -> list[Case]:
    stream = io.BytesIO(report.encode() if isinstance(report, str) else report)
    cases: list[Case] = []
    read_report(stream, Budget(256 * MIB, elements), cases.append)
    return cases


def suite(inner: str) -> str:
    return f'<testsuites><testsuite name="all">{inner}</testsuite></testsuites>'


PYTEST = """<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite
name="pytest" errors="0" failures="1" skipped="1" tests="3" time="0.05" hostname="h">
<testcase classname="tests.test_a.TestFoo" name="test_bar[1-2]" time="0.001"><failure
message="AssertionError: assert 1 == 2">def test_bar():
&gt;   assert 1 == 2</failure></testcase>
<testcase classname="tests.test_a" name="test_skip" time="0.000"><skipped type="pytest.skip"
message="no network">tests/test_a.py:9: no network</skipped></testcase>
<testcase classname="tests.test_a" name="test_ok" time="0.001" /></testsuite></testsuites>"""
SUREFIRE = """<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" version="3.0"
name="com.acme.FooTest" time="1,234.5" tests="3" errors="1" skipped="0" failures="0">
<properties><property name="java.version" value="17"/></properties>
<testcase name="flaky" classname="com.acme.FooTest" time="0.1"><flakyFailure message="first"
type="java.lang.AssertionError"><stackTrace>at x</stackTrace></flakyFailure></testcase>
<testcase name="always" classname="com.acme.FooTest" time="1,234.5"><error
type="java.io.IOException"><![CDATA[java.io.IOException: gone
 at com.acme]]></error><rerunError message="again"/></testcase>
<testcase name="fine" classname="com.acme.FooTest"/></testsuite>"""
JEST = """<testsuites name="jest tests" tests="1" failures="1" time="1.2"><testsuite name="Button"
errors="0" failures="1"><testcase classname="Button renders" name="Button renders" time="0.012">
<failure>Error: expect(received).toBe(expected)
    at Object.&lt;anonymous&gt;</failure></testcase></testsuite></testsuites>"""
GTEST = """<testsuites tests="3" failures="1" disabled="1"><testsuite name="Math" tests="3">
<testcase name="Adds" status="run" result="completed" time="0." classname="Math" />
<testcase name="DISABLED_Later" status="notrun" result="suppressed" classname="Math" />
<testcase name="Divides" status="run" result="completed" time="0.5" classname="Math">
<failure message="m.cpp:7&#x0A;Expected equality" type=""><![CDATA[m.cpp:7]]></failure></testcase>
</testsuite></testsuites>"""
CTEST = """<testsuite name="Linux" tests="2" failures="1"><testcase name="unit" classname="unit"
time="0.1" status="fail"><failure message="Failed (1)"/><system-out>out</system-out></testcase>
<testcase name="off" classname="off" time="0" status="disabled"/></testsuite>"""
DOTNET = """\ufeff<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="Game.dll"
tests="2" failures="1"><testcase classname="Game.Tests.Rules" name="Wins(x: 1)" time="0.01">
<failure type="failure" message="Assert.Equal() Failure">at Game</failure></testcase>
<testcase classname="Game.Tests.Rules" name="Draws" time="0"><skipped /></testcase>
<system-out>log</system-out></testsuite></testsuites>"""
GO = """<testsuites tests="1" failures="1"><testsuite tests="1" name="example.org/team/pkg">
<properties><property name="go.version" value="go1.22"></property></properties>
<testcase classname="example.org/team/pkg" name="TestX" time="0.000000"><failure message="Failed"
type="">=== RUN TestX</failure></testcase></testsuite></testsuites>"""
NESTED = """<testsuites><testsuite name="outer"><testsuite name="inner"><testcase name="t"/>
</testsuite><testcase name="u"/></testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("report", "found"),
    [
        (PYTEST, ["failed TestFoo.test_bar[1-2]", "skipped test_a.test_skip",
                  "passed test_a.test_ok"]),
        (SUREFIRE, ["passed FooTest.flaky", "error FooTest.always", "passed FooTest.fine"]),
        (JEST, ["failed Button renders"]),
        (GTEST, ["passed Math.Adds", "skipped Math.DISABLED_Later", "failed Math.Divides"]),
        (CTEST, ["failed unit", "skipped off"]),
        (DOTNET, ["failed Rules.Wins(x: 1)", "skipped Rules.Draws"]),
        (GO, ["failed example.org/team/pkg.TestX"]),
        (NESTED, ["passed inner.t", "passed outer.u"]),
    ],
    ids=["pytest", "surefire", "jest", "gtest", "ctest", "dotnet", "go", "nested"],
)  # fmt: skip
def test_a_tools_report_is_understood(report: str, found: list[str]) -> None:
    assert [f"{case.result} {case.short_name}" for case in read(report)] == found


def test_a_message_is_the_attribute_or_else_the_text() -> None:
    assert read(PYTEST)[0].message == "AssertionError: assert 1 == 2"
    assert read(PYTEST)[1].message == "no network"
    assert read(SUREFIRE)[1].message.startswith("java.io.IOException: gone")
    assert read(JEST)[0].message.startswith("Error: expect(received)")
    assert read(GTEST)[2].message == "m.cpp:7\nExpected equality"


def test_a_test_that_passed_when_it_was_run_again_is_flaky_and_has_not_failed() -> None:
    flaky, always, _ = read(SUREFIRE)
    assert (flaky.result, flaky.flaky) == ("passed", True)
    assert (always.result, always.flaky, always.seconds) == ("error", False, 1234.5)


def test_a_suite_that_failed_around_its_tests_counts_as_a_failure() -> None:
    (case,) = read(suite('<error message="fixture broke"/>'))
    assert (case.result, case.short_name, case.message) == ("error", "all", "fixture broke")


def test_the_first_failure_of_a_test_says_what_it_was() -> None:
    inner = '<testcase name="t"><failure message="first"/><error message="second"/><skipped/>'
    (case,) = read(suite(inner + "</testcase>"))
    assert (case.result, case.message) == ("failed", "first")


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "-1", "1e300", "9" * 400])
def test_a_time_that_is_none_is_left_out(text: str) -> None:
    (case,) = read(suite(f'<testcase name="t" time="{text}"/>'))
    assert case.seconds is None


def test_long_texts_are_cut() -> None:
    long = "x" * (MIB // 2)
    inner = f'<testcase name="{long}" classname="{long}"><failure>{long}</failure></testcase>'
    (case,) = read(suite(inner))
    assert {len(case.name), len(case.suite), len(case.message)} == {TEXT_LENGTH}


LAUGHS = (
    '<!DOCTYPE l [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {x} "{f"&{y};" * 10}">' for x, y in zip("bcdefgh", "abcdefg", strict=True))
    + "]><testsuite>&h;</testsuite>"
)
OUTSIDE = '<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><testsuite>&a;</testsuite>'


HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "billion laughs": (lambda: LAUGHS, "document type or entities"),
    "file outside": (lambda: OUTSIDE, "document type or entities"),
    "remote document type": (
        lambda: '<!DOCTYPE l SYSTEM "http://localhost/x.dtd"><testsuite/>',
        "document type or entities",
    ),
    "unknown entity": (lambda: "<testsuite>&nosuch;</testsuite>", "not well-formed"),
    "nothing": (lambda: "", "not well-formed"),
    "cut off": (lambda: PYTEST[:400], "not well-formed"),
    "zeros": (lambda: "\0" * 100, "not well-formed"),
    "another format": (lambda: "<coverage/>", "begins with <coverage>"),
    "deep": (lambda: "<testsuite>" * 5000, "more than 100 deep"),
    "attribute": (lambda: f'<testsuite name="{"a" * 100 * MIB}"/>', "more than 1 MiB"),
    "comment": (lambda: f"<testsuite><!--{'a' * 10 * MIB}--></testsuite>", "more than 1 MiB"),
    "tag": (lambda: f"<{'a' * 10 * MIB}/>", "more than 1 MiB"),
    "elements": (lambda: suite("<a/>" * 200_000), "more elements"),
    "names": (lambda: suite("".join(f"<a{i}/>" for i in range(2000))), "kinds of"),
    "attributes": (
        lambda: "<testsuite " + " ".join(f"a{i}=''" for i in range(2000)) + "/>",
        "kinds of",
    ),
    "no encoding": (
        lambda: '<?xml version="1.0" encoding="klingon"?><testsuite/>',
        "unknown encoding",
    ),
    "odd encoding": (
        lambda: '<?xml version="1.0" encoding="utf-7"?><testsuite/>',
        "cannot be read",
    ),
}


@pytest.mark.parametrize("which", HOSTILE)
def test_a_broken_or_hostile_report_is_refused_quickly_and_in_little_memory(which: str) -> None:
    make, reason = HOSTILE[which]
    data = make().encode()
    began, before = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ReportUnreadable, match=reason):
        read(data)
    assert time.thread_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_report_with_much_output_is_read_in_little_memory() -> None:
    out = f"<system-out>{'line of output' * 1000}</system-out>".encode()
    whole = b"<testsuite>" + b"".join(
        b'<testcase name="t%d">%b</testcase>' % (number, out) for number in range(4000)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read(whole + b"</testsuite>")) == 4000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_a_report_in_another_encoding_is_read(encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + suite('<testcase name="größer"/>')
    assert read(text.encode(encoding))[0].name == "größer"


tokens = st.sampled_from(
    ["<testsuites>", "</testsuites>", "<testsuite name='s'>", "</testsuite>", "<testcase name='t'>",
     "</testcase>", "<failure>", "</failure>", "<error message='m'/>", "<skipped/>", "text", "&lt;",
     "<![CDATA[x]]>", "<x>", "</x>", "<?pi?>", "<!-- c -->"]
)  # fmt: skip


@given(st.lists(tokens, max_size=30))
def test_whatever_the_elements_are_a_report_is_read_or_refused(inner: list[str]) -> None:
    try:
        cases = read("<testsuite>" + "".join(inner) + "</testsuite>")
    except ReportUnreadable:
        return
    assert all(case.result in ("failed", "error", "skipped", "passed") for case in cases)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_a_report_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(ReportUnreadable):
        read(data)
