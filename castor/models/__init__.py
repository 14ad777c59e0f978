"""The models: their configs, the decoder, media embedders, sizes, and how they are read and written."""
