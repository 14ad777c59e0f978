"""A model that answers: sampling, generation, and what `castor.load` gives."""
