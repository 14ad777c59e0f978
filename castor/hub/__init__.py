"""Published models on this machine and from the Hugging Face Hub: finding what was pulled, and pulling."""

from castor.hub.cache import find_pulled

__all__ = ["find_pulled"]
