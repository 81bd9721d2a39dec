"""A trace told to a person.

What lives here turns records into text and pages; it runs nothing and knows no machine.
Read `_timeline.py` first.
"""

from rpcsim.report._failure import failure_sections, left_text, repro_line
from rpcsim.report._timeline import timeline

__all__ = ["failure_sections", "left_text", "repro_line", "timeline"]
