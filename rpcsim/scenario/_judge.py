"""Expectations into checks of a plan: each gives one line for what does not hold."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import ScenarioError
from rpcsim.harness import CheckPlan
from rpcsim.ports import NANOS, duration_text
from rpcsim.scenario._check import client_steps
from rpcsim.scenario._code import find_code
from rpcsim.scenario._values import UNSET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rpcsim.harness import RunResult, StepOutcome
    from rpcsim.scenario._document import Document
    from rpcsim.scenario._expects import Allowed, Expect

__all__ = ["REAL_TOLERANCE_NS", "checks_of"]

# Real mode: how much later than "not after" still holds. Loopback and a busy machine
# may take this long between two lines of code; "not before" is exact there too.
REAL_TOLERANCE_NS: Final = 1_000_000_000


def checks_of(scenario: Document) -> tuple[CheckPlan, ...]:
    """Give the checks of a scenario, those of steps first, in the order of the file."""
    checks: list[Callable[[RunResult], Iterator[str]]] = []
    covered: set[str] = set()
    for name, client in scenario.workload.clients.items():
        for ident, step, _path in client_steps(name, client.steps):
            if step.expect is not None:
                covered.add(ident)
                checks.append(_about_step(ident, step.expect))
    for expect in scenario.expect:
        if expect.step is not None:
            covered.add(expect.step)
            checks.append(_about_step(expect.step, expect))
        elif expect.count is not None:
            checks.append(_about_count(expect))
        else:
            checks.append(_about_run(expect))
    off = {rule.name for rule in scenario.invariants if not rule.on}
    if "no-unhandled-error" not in off:
        checks.append(_unexpected(covered))
    return tuple(CheckPlan(check=check) for check in checks)


def _about_step(ident: str, expect: Expect) -> Callable[[RunResult], Iterator[str]]:
    def check(result: RunResult) -> Iterator[str]:
        outcomes = [
            outcome
            for name, outcome in result.outcomes.items()
            if name == ident or name.startswith(f"{ident}[")
        ]
        if not outcomes:
            yield f"step {ident} did not run"
        slack = REAL_TOLERANCE_NS if result.mode == "real" else 0
        for outcome in outcomes:
            yield from _differences(outcome, expect, slack)
            if not expect.any_of:
                continue
            told = [list(_differences(outcome, item, slack)) for item in expect.any_of]
            if all(told):
                yield f"step {outcome.id}: none of any_of holds; it {_came(outcome)}"

    return check


def _differences(
    outcome: StepOutcome, expect: Expect | Allowed, slack: int
) -> Iterator[str]:
    """Tell what of an outcome is not as expected."""
    where = f"step {outcome.id}"
    if expect.value is not UNSET and (
        outcome.kind != "ok" or not _same(_plain(outcome.value), _plain(expect.value))
    ):
        yield f"{where}: expected value {expect.value!r}; it {_came(outcome)}"
    if expect.error is not None and not _is_error(outcome, expect.error):
        yield f"{where}: expected error {expect.error}; it {_came(outcome)}"
    if expect.outcome is not None and outcome.kind != expect.outcome:
        yield f"{where}: expected outcome {expect.outcome}; it {_came(outcome)}"
    if expect.matches is not UNSET and not _matches(outcome, expect.matches):
        yield f"{where}: expected a match of {expect.matches!r}; it {_came(outcome)}"
    least = expect.between[0].ns if expect.between else 0
    limit = expect.between[1] if expect.between else expect.within
    took = f"{outcome.took_ns / NANOS:.6g} s"
    if outcome.took_ns < least:
        yield f"{where}: took {took}, expected at least {duration_text(least)}"
    if limit is not None and outcome.took_ns > limit.ns + slack:
        more = f" (and {duration_text(slack)} in real mode)" if slack else ""
        yield f"{where}: took {took}, expected at most {limit}{more}"


def _came(outcome: StepOutcome) -> str:
    """Say what came of a step, for a message."""
    if outcome.error is not None:
        lines = str(outcome.error).strip().splitlines()
        text = f": {lines[0]}" if lines else ""
        return f"raised {type(outcome.error).__name__}{text} ({outcome.kind})"
    if outcome.kind == "ok":
        return f"gave {outcome.value!r}"
    return "had no outcome"


def _is_error(outcome: StepOutcome, name: str) -> bool:
    if outcome.error is None:
        return False
    names = {kind.__name__ for kind in type(outcome.error).__mro__[:-2]}
    names |= {
        f"{kind.__module__}.{kind.__qualname__}" for kind in type(outcome.error).__mro__
    }
    # An exception whose class is not known here still brings its name.
    return name in names or getattr(outcome.error, "xclass", None) == name


def _matches(outcome: StepOutcome, wanted: Any) -> bool:
    if isinstance(wanted, str):
        found = outcome.value if outcome.error is None else outcome.error
        return fnmatch.fnmatchcase(str(found), wanted)
    return outcome.error is None and _holds(_plain(outcome.value), wanted)


def _holds(found: Any, wanted: Any) -> bool:
    """Whether a value has all keys of a partial one, with matching values."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            name in found and _holds(found[name], item) for name, item in wanted.items()
        )
    if isinstance(wanted, (list, tuple)):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_holds(a, b) for a, b in zip(found, wanted, strict=True))
        )
    if isinstance(wanted, str) and isinstance(found, str):
        return fnmatch.fnmatchcase(found, wanted)
    return _same(found, wanted)


def _same(found: Any, wanted: Any) -> bool:
    """Compare as JSON does, which tells `true` from `1`."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(
            _same(found[name], item) for name, item in wanted.items()
        )
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(
            _same(a, b) for a, b in zip(found, wanted, strict=True)
        )
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)


def _plain(value: Any) -> Any:
    """Give a value as JSON would: what a file can say of it."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _about_count(expect: Expect) -> Callable[[RunResult], Iterator[str]]:
    count = expect.count
    assert count is not None  # the caller's case

    def check(result: RunResult) -> Iterator[str]:
        found = sum(
            record.kind == f"call.{count.event}"
            and fnmatch.fnmatchcase(str(record.get("method", "")), count.method)
            and fnmatch.fnmatchcase(record.host, count.host)
            for record in result.trace
        )
        told = f"{count.event} of {count.method}" + (
            "" if count.host == "*" else f" on {count.host}"
        )
        wanted = [
            (
                f"exactly {expect.equals}",
                expect.equals is None or found == expect.equals,
            ),
            (
                f"at least {expect.at_least}",
                expect.at_least is None or found >= expect.at_least,
            ),
            (
                f"at most {expect.at_most}",
                expect.at_most is None or found <= expect.at_most,
            ),
        ]
        for words, holds in wanted:
            if not holds:
                yield f"count: expected {words} {told}, found {found}"

    return check


def _about_run(expect: Expect) -> Callable[[RunResult], Iterator[str]]:
    code = find_code(expect.call)
    if not callable(code):
        raise ScenarioError(f'"{expect.call}" is not a function')
    name = getattr(code, "__name__", str(expect.call))

    def check(result: RunResult) -> Iterator[str]:
        try:
            told = code(result)
        except AssertionError as error:
            yield f"{name}: {error}" if str(error) else f"{name} does not hold"
            return
        except Exception as error:  # noqa: BLE001 - the user's own check; told as a problem
            yield f"{name} raised {type(error).__name__}: {error}"
            return
        if isinstance(told, str):
            yield f"{name}: {told}"
        elif told is False:
            yield f"{name} does not hold"

    return check


def _unexpected(covered: set[str]) -> Callable[[RunResult], Iterator[str]]:
    def check(result: RunResult) -> Iterator[str]:
        for ident, outcome in result.outcomes.items():
            if outcome.error is None or ident in covered:
                continue
            if ident.partition("[")[0] in covered:
                continue
            yield f"no-unhandled-error: step {ident} {_came(outcome)}"

    return check
