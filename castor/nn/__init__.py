"""The layers a model is made of: normalisation, rotary positions, attention, blocks, key cache, losses."""
