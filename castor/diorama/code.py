"""Small Python functions and what they do in words, made together: an aggregate of changed, chosen numbers.

before -> after: (sum, square, even) -> "Return the sum of the squares of the even numbers in a list." and its code.
"""

import random
from dataclasses import dataclass

# name -> (in words, over the numbers that were chosen and changed; the code of it)
AGGREGATES = {
    "sum": ("the sum of {}", "sum({})"),
    "largest": ("the largest of {}", "max({}, default=0)"),
    "smallest": ("the smallest of {}", "min({}, default=0)"),
    "list": ("a list of {}", "list({})"),
    "sorted": ("a sorted list of {}", "sorted({})"),
    "reversed": ("a list, last one first, of {}", "list({})[::-1]"),
    "count": ("how many different values there are among {}", "len(set({}))"),
    "first": ("the first of {}", "next(iter({}), 0)"),
}
CHANGES = {
    "same": ("{}", "{x}"),
    "square": ("the squares of {}", "{x} * {x}"),
    "double": ("twice each of {}", "2 * {x}"),
    "negate": ("the negatives of {}", "-{x}"),
    "absolute": ("the absolute values of {}", "abs({x})"),
    "add": ("{} plus {k}", "{x} + {k}"),
    "remainder": ("the remainders by {k} of {}", "{x} % {k}"),
    "halve": ("the whole halves of {}", "{x} // 2"),
}
CHOICES = {
    "all": ("the numbers", ""),
    "even": ("the even numbers", " if {x} % 2 == 0"),
    "odd": ("the odd numbers", " if {x} % 2"),
    "positive": ("the positive numbers", " if {x} > 0"),
    "negative": ("the negative numbers", " if {x} < 0"),
    "above": ("the numbers above {m}", " if {x} > {m}"),
    "below": ("the numbers below {m}", " if {x} < {m}"),
    "multiple": ("the multiples of {m}", " if {x} % {m} == 0"),
}
FUNCTIONS = ("f", "run", "compute", "solve", "apply", "work", "process", "answer")
ARGUMENTS = ("values", "numbers", "items", "data", "xs", "given")
NAMES = ("x", "n", "value", "item", "i", "v")


@dataclass(frozen=True)
class Program:
    """What a function does; k belongs to the change, m to the choice."""

    aggregate: str
    change: str
    choice: str
    k: int
    m: int

    def text(self) -> str:
        """In words."""
        chosen = CHOICES[self.choice][0].format(m=self.m)
        changed = CHANGES[self.change][0].format(chosen, k=self.k)
        return f"Return {AGGREGATES[self.aggregate][0].format(changed)} in a list."

    def code(self, rng: random.Random) -> str:
        """As a function, with names that say nothing of it."""
        name, given, x = rng.choice(FUNCTIONS), rng.choice(ARGUMENTS), rng.choice(NAMES)
        changed = CHANGES[self.change][1].format(x=x, k=self.k)
        condition = CHOICES[self.choice][1].format(x=x, m=self.m)
        over = f"({changed} for {x} in {given}{condition})"
        if rng.random() < 0.5:
            return f"def {name}({given}):\n    return {AGGREGATES[self.aggregate][1].format(over)}\n"
        body = f"    found = [{over[1:-1]}]\n    return {AGGREGATES[self.aggregate][1].format('found')}\n"
        return f"def {name}({given}):\n{body}"

    @property
    def key(self) -> str:
        """The same for programs that mean the same."""
        numbers = [str(self.k) if "{k}" in CHANGES[self.change][1] else ""]
        numbers.append(str(self.m) if "{m}" in CHOICES[self.choice][1] else "")
        return "/".join((self.aggregate, self.change, self.choice, *numbers))


def random_program(rng: random.Random) -> Program:
    """Any of them."""
    parts = [rng.choice(list(options)) for options in (AGGREGATES, CHANGES, CHOICES)]
    return Program(*parts, k=rng.randint(2, 9), m=rng.randint(2, 9))


def changed_program(rng: random.Random, program: Program) -> Program:
    """One that differs in one part."""
    while True:
        other = random_program(rng)
        names = ("aggregate", "change", "choice")
        differing = rng.choice(names)
        values = {name: getattr(other if name == differing else program, name) for name in names}
        made = Program(**values, k=program.k, m=program.m)
        if made.key != program.key:
            return made
