"""Judging what happened: outcomes by what is surely known, rules over histories.

Pure functions of records and errors: no clock, no input or output, and no knowledge of
what made the records, so that a verdict can be formed again from a stored trace. Read
`_outcomes.py` first.
"""

from rpcsim.check._outcomes import OUTCOMES, OutcomeKind, outcome_of

__all__ = ["OUTCOMES", "OutcomeKind", "outcome_of"]
