"""Measuring a model: examples through it, answers through the tasks' scores, rows with their chance."""
