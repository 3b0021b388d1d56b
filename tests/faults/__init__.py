"""Faults made on purpose: ``python -m tests.faults`` tries them, docs/reliability.md says what is promised.

A *kind* of faults is a module with ``COUNT`` and ``try_one(number, workshop)``. The number is the seed: the same number
is the same fault, so that a case that fails can be tried alone. Each case ends in one of four outcomes (`verdict`).
"""
