"""Arithmetic: sums, differences, products and two-step problems, answered in steps that end in "= 75".

Steps are written in digits in every language: "20 + 40 = 60; 7 + 8 = 15; 60 + 15 = 75". Some pairs of
operands are never trained on (tag "unseen_pair").
"""

import random
from dataclasses import dataclass

from castor.diorama.draw import Draw, Maker
from castor.diorama.quiz import Asked, quiz
from castor.example import Example

_NUMBER_WORDS = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty",
    "zh": "零 一 二 三 四 五 六 七 八 九 十 十一 十二 十三 十四 十五 十六 十七 十八 十九 二十",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
    "dieciséis diecisiete dieciocho diecinueve veinte",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze "
    "seize dix-sept dix-huit dix-neuf vingt",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn "
    "fünfzehn sechzehn siebzehn achtzehn neunzehn zwanzig",
    "hi": "शून्य एक दो तीन चार पाँच छह सात आठ नौ दस ग्यारह बारह तेरह चौदह पंद्रह सोलह सत्रह अठारह उन्नीस बीस",
}
NUMBER_WORDS = {language: tuple(words.split()) for language, words in _NUMBER_WORDS.items()}
OPERATOR_WORDS = {
    "en": {"+": "plus", "-": "minus", "*": "times"},
    "zh": {"+": "加", "-": "减", "*": "乘以"},
    "es": {"+": "más", "-": "menos", "*": "por"},
    "fr": {"+": "plus", "-": "moins", "*": "fois"},
    "de": {"+": "plus", "-": "minus", "*": "mal"},
    "hi": {"+": "जमा", "-": "घटा", "*": "गुणा"},
}
QUESTIONS = {
    "en": ("What is {0}?", "Calculate {0}.", "Work out {0}.", "{0} = ?"),
    "zh": ("{0} 等于多少？", "计算 {0}。", "{0} = ?"),
    "es": ("¿Cuánto es {0}?", "Calcula {0}.", "{0} = ?"),
    "fr": ("Combien font {0} ?", "Calcule {0}.", "{0} = ?"),
    "de": ("Wie viel ist {0}?", "Berechne {0}.", "{0} = ?"),
    "hi": ("{0} कितना होता है?", "{0} की गणना करो।", "{0} = ?"),
}


@dataclass(frozen=True)
class Problem:
    """An expression of Python's own syntax with its worked steps."""

    expression: str
    steps: str
    value: int
    kind: str


def is_unseen_pair(left: int, operator: str, right: int) -> bool:
    """Whether training never shows these two operands together (one pair in ten)."""
    return (31 * left + 17 * right + ord(operator)) % 10 == 3


def add_steps(left: int, right: int) -> str:
    """27 + 48 -> "20 + 40 = 60; 7 + 8 = 15; 60 + 15 = 75"."""
    tens, ones = left // 10 * 10 + right // 10 * 10, left % 10 + right % 10
    if left < 10 or right < 10 or ones == 0:
        return f"{left} + {right} = {left + right}"
    first = f"{left // 10 * 10} + {right // 10 * 10} = {tens}; {left % 10} + {right % 10} = {ones}"
    return f"{first}; {tens} + {ones} = {tens + ones}"


def subtract_steps(left: int, right: int) -> str:
    """83 - 47 -> "83 - 40 = 43; 43 - 7 = 36"."""
    tens, ones = right // 10 * 10, right % 10
    if tens == 0 or ones == 0:
        return f"{left} - {right} = {left - right}"
    return f"{left} - {tens} = {left - tens}; {left - tens} - {ones} = {left - right}"


def multiply_steps(left: int, right: int) -> str:
    """14 * 6 -> "10 * 6 = 60; 4 * 6 = 24; 60 + 24 = 84"."""
    tens, ones = left // 10 * 10, left % 10
    if tens == 0 or ones == 0 or right == 1:
        return f"{left} * {right} = {left * right}"
    return f"{tens} * {right} = {tens * right}; {ones} * {right} = {ones * right}; " + (
        f"{tens * right} + {ones * right} = {left * right}"
    )


STEPS = {"+": add_steps, "-": subtract_steps, "*": multiply_steps}


def draw_problem(rng: random.Random, kind: str, unseen: bool) -> Problem:
    """A problem of a kind: small, add, subtract, multiply, or two_step."""
    while True:
        if kind == "small":
            left, operator, right = rng.randint(0, 20), rng.choice("+-*"), rng.randint(0, 20)
            fits = left >= right if operator == "-" else (operator == "+" or (left <= 10 and right <= 10))
        elif kind == "multiply":
            left, operator, right, fits = rng.randint(2, 30), "*", rng.randint(2, 9), True
        else:
            left, right = rng.randint(2, 99), rng.randint(2, 99)
            operator = {"add": "+", "subtract": "-"}.get(kind) or rng.choice("+-*")
            if operator == "*":
                left, right = rng.randint(2, 9), rng.randint(2, 9)
            fits = operator != "-" or left >= right
        if fits and is_unseen_pair(left, operator, right) == unseen:
            break
    expression, steps = f"{left} {operator} {right}", STEPS[operator](left, right)
    value = {"+": left + right, "-": left - right, "*": left * right}[operator]
    if kind == "two_step":
        last = rng.randint(1, 9)
        operator = "-" if value >= last and rng.random() < 0.5 else "+"
        expression, steps = f"{expression} {operator} {last}", f"{steps}; {STEPS[operator](value, last)}"
        value += last if operator == "+" else -last
    return Problem(expression, steps, value, kind)


def in_words(expression: str, language: str) -> str:
    """12 + 5 -> "twelve plus five"; numbers up to 20."""
    words = [
        NUMBER_WORDS[language][int(token)] if token.isdigit() else OPERATOR_WORDS[language][token]
        for token in expression.split()
    ]
    return ("" if language == "zh" else " ").join(words)


def ask(draw: Draw, problem: Problem) -> Asked:
    """The problem as a question in the draw's language, in digits or (small ones, half the time) in words."""
    written = problem.expression
    if problem.kind == "small" and draw.rng.random() < 0.5:
        written = in_words(written, draw.language)
    elif draw.rng.random() < 0.3:
        written = written.replace("*", "×")
    question = draw.pick(QUESTIONS[draw.language]).format(written)
    return Asked(question, problem.steps, problem.kind, str(problem.value))


def arithmetic(draw: Draw) -> Example:
    """One to three problems in training, else one."""
    unseen = draw.wants_unseen()
    kinds = ("small", "small", "add", "subtract", "multiply", "two_step")
    num_turns = draw.rng.randint(1, 3) if draw.is_train else 1
    problems = [draw_problem(draw.rng, draw.pick(kinds), unseen) for _ in range(num_turns)]
    last = problems[-1]
    meta = {"expression": last.expression, "value": last.value}
    return quiz(draw, [], [ask(draw, problem) for problem in problems], meta, ("unseen_pair",) if unseen else ())


TASKS: dict[str, Maker] = {"arithmetic": arithmetic}
