"""Benchmarks: one command, every peer, a table with goals (`python -m tests.bench`).

Programs are plain asyncio and run unchanged on every loop; `_peers.py` says how each
loop runs one, `_own.py` measures what only we have, `_rows.py` holds the goals. All of
it but `_own.py` needs the standard library alone. `test_floors.py` runs the same rows
small, in the normal suite, to catch collapses.
"""
