"""Diorama: a small procedural world whose every answer is known exactly.

`world.World` makes the examples; each other module is one part of the world. Leaves out how answers
are scored as tasks and how examples become training batches.
"""
