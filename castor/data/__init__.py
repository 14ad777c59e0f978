"""Where examples come from, in what proportions, and how they become batches."""
