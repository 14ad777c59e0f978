"""Reasoning: short word problems in six languages, answered in worked steps.

Four sorts: a story of things put in and taken out, equal groups, who is the tallest (a chain of comparisons),
and who has most. The answer's last word or number is the result: "5 + 3 = 8; 8 - 2 = 6", or
"Anna > Ben > Carl: Anna".
"""

import random

from castor.diorama.draw import Draw, Maker
from castor.diorama.quiz import Asked, quiz
from castor.example import Example

_NAMES = {
    "en": "Anna Ben Carl Dora Emil Fay Gus Hana",
    "zh": "小明 小红 小华 小丽 小刚 小美 小龙 小芳",
    "es": "Ana Beto Carla Diego Elena Félix Gema Hugo",
    "fr": "Basile Claire David Fabien Gaël Julie Lucas Marie",
    "de": "Anna Ben Clara David Emma Felix Greta Hans",
    "hi": "अमन बीना चेतन दीपा गीता हरि कमल मीना",
}
NAMES = {language: tuple(words.split()) for language, words in _NAMES.items()}
_THINGS = {  # plural; every one masculine where the sentences agree with it
    "en": "apples balls books coins pens toys",
    "zh": "苹果 球 盒子 玩具 杯子 气球",
    "es": "libros lápices globos coches sombreros juguetes",
    "fr": "livres crayons ballons stylos jetons jouets",
    "de": "Bücher Stifte Bälle Autos Äpfel Hüte",
    "hi": "सेब खिलौने सिक्के केले डिब्बे गुब्बारे",
}
THINGS = {language: tuple(words.split()) for language, words in _THINGS.items()}
STORIES = {  # start, added, taken out, question
    "en": (
        "There are {0} {1} in the bag.",
        "{0} are added.",
        "{0} are taken out.",
        "How many {1} are in the bag now?",
    ),
    "zh": ("袋子里有{0}个{1}。", "放进{0}个。", "拿出{0}个。", "现在袋子里有几个{1}？"),
    "es": (
        "Hay {0} {1} en la bolsa.",
        "Se añaden {0}.",
        "Se sacan {0}.",
        "¿Cuántos {1} hay ahora en la bolsa?",
    ),
    "fr": (
        "Il y a {0} {1} dans le sac.",
        "On en ajoute {0}.",
        "On en retire {0}.",
        "Combien de {1} y a-t-il maintenant dans le sac ?",
    ),
    "de": (
        "In der Tasche sind {0} {1}.",
        "{0} kommen dazu.",
        "{0} werden herausgenommen.",
        "Wie viele {1} sind jetzt in der Tasche?",
    ),
    "hi": ("थैले में {0} {1} हैं।", "{0} और डाले गए।", "{0} निकाले गए।", "अब थैले में कितने {1} हैं?"),
}
GROUPS = {
    "en": "There are {0} bags with {2} {1} each. How many {1} are there?",
    "zh": "有{0}个袋子，每个袋子里有{2}个{1}。一共有几个{1}？",
    "es": "Hay {0} bolsas con {2} {1} cada una. ¿Cuántos {1} hay?",
    "fr": "Il y a {0} sacs avec {2} {1} chacun. Combien de {1} y a-t-il ?",
    "de": "Es gibt {0} Taschen mit je {2} {1}. Wie viele {1} gibt es?",
    "hi": "{0} थैले हैं और हर थैले में {2} {1} हैं। कुल कितने {1} हैं?",
}
CHAINS = {  # statement, question on the most, question on the least
    "en": (("{0} is taller than {1}.", "Who is the tallest?", "Who is the shortest?"),
           ("{0} is older than {1}.", "Who is the oldest?", "Who is the youngest?"),
           ("{0} is faster than {1}.", "Who is the fastest?", "Who is the slowest?")),
    "zh": (("{0}比{1}高。", "谁最高？", "谁最矮？"), ("{0}比{1}大。", "谁最大？", "谁最小？"),
           ("{0}比{1}快。", "谁最快？", "谁最慢？")),
    "es": (("{0} mide más que {1}.", "¿Quién mide más?", "¿Quién mide menos?"),
           ("{0} corre más que {1}.", "¿Quién corre más?", "¿Quién corre menos?")),
    "fr": (("{0} mesure plus que {1}.", "Qui mesure le plus ?", "Qui mesure le moins ?"),
           ("{0} court plus vite que {1}.", "Qui court le plus vite ?", "Qui court le moins vite ?")),
    "de": (("{0} ist größer als {1}.", "Wer ist am größten?", "Wer ist am kleinsten?"),
           ("{0} ist älter als {1}.", "Wer ist am ältesten?", "Wer ist am jüngsten?"),
           ("{0} ist schneller als {1}.", "Wer ist am schnellsten?", "Wer ist am langsamsten?")),
    "hi": (("{0} का कद {1} से ज़्यादा है।", "सबसे लंबा कद किसका है?", "सबसे छोटा कद किसका है?"),
           ("{0} की उम्र {1} से ज़्यादा है।", "सबसे ज़्यादा उम्र किसकी है?", "सबसे कम उम्र किसकी है?")),
}  # fmt: skip
SHARES = {  # statement, who has the most, who has the fewest
    "en": ("{0} has {1} {2}.", "Who has the most {2}?", "Who has the fewest {2}?"),
    "zh": ("{0}有{1}个{2}。", "谁的{2}最多？", "谁的{2}最少？"),
    "es": ("{0} tiene {1} {2}.", "¿Quién tiene más {2}?", "¿Quién tiene menos {2}?"),
    "fr": ("{0} a {1} {2}.", "Qui a le plus de {2} ?", "Qui a le moins de {2} ?"),
    "de": ("{0} hat {1} {2}.", "Wer hat die meisten {2}?", "Wer hat die wenigsten {2}?"),
    "hi": ("{0} के पास {1} {2} हैं।", "सबसे ज़्यादा {2} किसके पास हैं?", "सबसे कम {2} किसके पास हैं?"),
}


def _join(language: str, *sentences: str) -> str:
    return ("" if language == "zh" else " ").join(sentences)


def story(rng: random.Random, language: str) -> Asked:
    """Things put in and taken out, one to three times."""
    start, added, taken, question = STORIES[language]
    things, total, steps = rng.choice(THINGS[language]), rng.randint(3, 20), []
    sentences = [start.format(total, things)]
    for _ in range(rng.choice((1, 2, 2, 3))):
        takes = total >= 4 and rng.random() < 0.5
        change = rng.randint(2, min(9, total - 2) if takes else 9)
        after = total - change if takes else total + change
        steps.append(f"{total} {'-' if takes else '+'} {change} = {after}")
        sentences.append((taken if takes else added).format(change))
        total = after
    return Asked(_join(language, *sentences, question.format(0, things)), "; ".join(steps), "story", str(total))


def groups(rng: random.Random, language: str) -> Asked:
    """Equal groups: a product."""
    num_groups, size, things = rng.randint(2, 9), rng.randint(2, 9), rng.choice(THINGS[language])
    question = GROUPS[language].format(num_groups, things, size)
    return Asked(question, f"{num_groups} * {size} = {num_groups * size}", "groups", str(num_groups * size))


def chain(rng: random.Random, language: str) -> Asked:
    """Who is the tallest: comparisons in any order, to be put into one chain."""
    names = rng.sample(NAMES[language], rng.choice((3, 3, 4)))
    statement, most, least = rng.choice(CHAINS[language])
    clues = [statement.format(more, less) for more, less in zip(names, names[1:], strict=False)]
    rng.shuffle(clues)
    asks_most = rng.random() < 0.5
    final = names[0] if asks_most else names[-1]
    question = _join(language, *clues, most if asks_most else least)
    return Asked(question, f"{' > '.join(names)}: {final}", "chain", final)


def shares(rng: random.Random, language: str) -> Asked:
    """Who has the most: numbers to be put in order."""
    names = rng.sample(NAMES[language], 3)
    amounts = dict(zip(names, rng.sample(range(2, 31), 3), strict=True))
    statement, most, least = SHARES[language]
    things, asks_most = rng.choice(THINGS[language]), rng.random() < 0.5
    ordered = sorted(amounts, key=amounts.__getitem__, reverse=True)
    final = ordered[0] if asks_most else ordered[-1]
    sentences = [statement.format(name, amount, things) for name, amount in amounts.items()]
    question = _join(language, *sentences, (most if asks_most else least).format(0, 0, things))
    return Asked(question, f"{' > '.join(str(amounts[name]) for name in ordered)}: {final}", "shares", final)


def reasoning(draw: Draw) -> Example:
    """One word problem; one or two in training."""
    num_turns = draw.rng.randint(1, 2) if draw.is_train else 1
    asked = [draw.pick((story, story, groups, chain, chain, shares))(draw.rng, draw.language) for _ in range(num_turns)]
    return quiz(draw, [], asked, meta={"problem": asked[-1].question})


TASKS: dict[str, Maker] = {"reasoning": reasoning}
