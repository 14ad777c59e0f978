"""The demo: the model looks, listens, reads and draws, and one page shows what it saw and what it said."""

from castor.demo.items import Drawing, Inputs, Item, Question, sample_inputs, user_inputs
from castor.demo.run import run_demo

__all__ = ["Drawing", "Inputs", "Item", "Question", "run_demo", "sample_inputs", "user_inputs"]
