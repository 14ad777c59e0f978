"""`castor bench`: how fast a model reads prompts and writes answers here, beside what the machine could do."""

from castor.bench.run import BenchConfig, bench

__all__ = ["BenchConfig", "bench"]
