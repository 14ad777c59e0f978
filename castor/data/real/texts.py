"""Real text: translation in six languages, numbers, sums, questions, instructions, summaries, plain prose."""

import random
from typing import ClassVar

from castor.content import Message
from castor.data.real.files import Row, json_lines, share_of
from castor.data.real.source import TEST_SHARE, Source
from castor.example import Example

LANGUAGE_NAMES = {
    "en": "English", "zh": "Chinese", "es": "Spanish", "fr": "French", "de": "German", "hi": "Hindi",
}  # fmt: skip
CHUNK_CHARS = 600  # of running prose in one example


class Translation(Source):
    """What sets of parallel sentences share: rows with "texts" (language -> sentence), split by "key"."""

    task, modalities = "real_translation", ("text",)

    def is_test(self, row: Row) -> bool:
        return share_of(row["key"]) < TEST_SHARE

    def make(self, row: Row, rng: random.Random) -> Example:
        source, target = rng.sample(sorted(row["texts"]), 2)
        question = f"Translate into {LANGUAGE_NAMES.get(target, target)}: {row['texts'][source]}"
        answer = row["texts"][target]
        return self.told(row, (question,), answer, language=target, source_language=source)


class Tatoeba(Translation):
    """Everyday sentences in five languages and English."""

    name, licence = "text/tatoeba", "A"
    codes: ClassVar[dict[str, str]] = {"cmn": "zh", "spa": "es", "fra": "fr", "deu": "de", "hin": "hi"}

    def load(self) -> list[Row]:
        rows = []
        for number, pair in enumerate(json_lines(self.folder / "pairs.jsonl.gz")):
            if pair["lang"] in self.codes:
                texts = {self.codes[pair["lang"]]: pair["src"], "en": pair["en"]}
                rows.append({"id": f"tatoeba_{number}", "key": pair["en"].strip().lower(), "texts": texts})
        return rows


class TatoebaAll(Translation):
    """Everyday sentences in over a hundred further languages, into English."""

    name, where, licence, task = "text/tatoeba_all", "text/tatoeba", "A", "translate_to_english"

    def load(self) -> list[Row]:
        pairs = json_lines(self.folder / "pairs.jsonl.gz")
        kept = [(i, pair) for i, pair in enumerate(pairs) if pair["lang"] not in Tatoeba.codes]
        return [{"id": f"tatoeba_{i}", "key": pair["en"].strip().lower(), **pair} for i, pair in kept]

    def make(self, row: Row, rng: random.Random) -> Example:
        question = f"Translate into English: {row['src']}"
        return self.told(row, (question,), row["en"], source_language=row["lang"])


class Ntrex(Translation):
    """News sentences in six languages, split by document."""

    name, licence = "text/ntrex", "B"
    codes: ClassVar[dict[str, str]] = {
        "eng": "en", "zho-CN": "zh", "spa": "es", "fra": "fr", "deu": "de", "hin": "hi",
    }  # fmt: skip

    def load(self) -> list[Row]:
        rows = []
        for number, line in enumerate(json_lines(self.folder / "dev_docs.jsonl.gz")):
            texts = {language: line[code] for code, language in self.codes.items() if line.get(code)}
            if len(texts) > 1:
                rows.append({"id": f"ntrex_{number}", "key": line["doc"], "texts": texts})
        return rows


class Multi30k(Translation):
    """Photo captions in English, German, French; the set's own validation part is the test."""

    name, licence = "text/multi30k", "C"

    def load(self) -> list[Row]:
        rows = []
        for part in ("train", "val"):
            for line in json_lines(self.folder / f"{part}.jsonl.gz"):
                texts = {language: line[language] for language in ("en", "de", "fr")}
                rows.append({"id": f"multi30k_{part}_{line['id']}", "part": part, "texts": texts})
        return rows

    def is_test(self, row: Row) -> bool:
        return row["part"] == "val"


class Gsm8k(Source):
    """School problems with worked steps; the answer stands after the last "####"."""

    name, task, licence, modalities = "text/gsm8k", "word_problem", "A", ("text",)

    def load(self) -> list[Row]:
        lines = json_lines(self.folder / "train.jsonl.gz")
        return [{"id": f"gsm8k_{number}", **line} for number, line in enumerate(lines)]

    def make(self, row: Row, rng: random.Random) -> Example:
        number = row["answer"].rpartition("####")[2].strip()
        return self.told(row, (row["question"],), row["answer"], number=number)


class NumberWords(Source):
    """Numbers from 0 to 100 in words, both ways, in the languages of ours that the set has."""

    name, where, task, licence, modalities = "text/number_words", "text", "number_words", "A", ("text",)

    def load(self) -> list[Row]:
        rows = []
        for line in json_lines(self.folder / "number_words.jsonl"):
            if line["lang"] in LANGUAGE_NAMES:
                for number, words in enumerate(line["words"]):
                    row_id = f"number_{line['lang']}_{number}"
                    rows.append({"id": row_id, "language": line["lang"], "number": number, "words": words})
        return rows

    def make(self, row: Row, rng: random.Random) -> Example:
        to_words = f"Write {row['number']} in {LANGUAGE_NAMES[row['language']]} words."
        to_digits = f"Write this number in digits: {row['words']}"
        question, answer = rng.choice(((to_words, row["words"]), (to_digits, str(row["number"]))))
        return self.told(row, (question,), answer, language=row["language"])


class Xquad(Source):
    """Questions about a paragraph, answered by a piece of it, in five of our languages."""

    name, task, licence, modalities = "text/xquad", "paragraph_question", "B", ("text",)

    def load(self) -> list[Row]:
        rows = []
        for line in json_lines(self.folder / "even_articles.jsonl.gz"):
            if line["lang"] in LANGUAGE_NAMES:
                rows.extend({"id": f"{line['lang']}_{qa['id']}", **line, "qa": qa} for qa in line["qas"])
        return rows

    def is_test(self, row: Row) -> bool:
        """By article, so that no paragraph is seen in another language or beside another question."""
        return share_of(row["pid"].partition("p")[0]) < TEST_SHARE

    def make(self, row: Row, rng: random.Random) -> Example:
        return self.told(row, (f"{row['context']}\n{row['qa']['q']}",), row["qa"]["a"], language=row["lang"])


class Instructions(Source):
    """Written instructions, some with an input, and an answer."""

    name, task, licence, modalities = "text/instructions", "instruction", "A", ("text",)

    def load(self) -> list[Row]:
        return json_lines(self.folder / "self_instruct_seed_tasks.jsonl.gz")

    def make(self, row: Row, rng: random.Random) -> Example:
        case = rng.choice(row["instances"])
        question = "\n".join(text for text in (row["instruction"], case["input"]) if text)
        return self.told(row, (question,), case["output"])


class Summaries(Source):
    """Abstracts of papers in one sentence."""

    name, task, licence, modalities = "text/summarization", "summary", "A", ("text",)

    def load(self) -> list[Row]:
        return json_lines(self.folder / "scitldr_train.jsonl.gz")

    def make(self, row: Row, rng: random.Random) -> Example:
        text = row["source"] if isinstance(row["source"], str) else " ".join(row["source"])
        targets = [row["target"]] if isinstance(row["target"], str) else row["target"]
        question = f"Summarise in one sentence: {text}"
        return self.told(row, (question,), rng.choice(targets), references=list(targets))


class MedicalQuestions(Source):
    """Questions of medical studies: yes, no or maybe, from their abstract."""

    name, task, licence, modalities = "text/domain_qa", "study_question", "A", ("text",)

    def load(self) -> list[Row]:
        return json_lines(self.folder / "pubmedqa_dev.jsonl.gz")

    def make(self, row: Row, rng: random.Random) -> Example:
        question = "\n".join((*row["contexts"], f"{row['question']} Answer yes, no or maybe."))
        return self.told(row, (question,), row["answer"])


class Xcopa(Source):
    """The likelier of two causes or effects, in eleven languages; split by item, the same in all of them."""

    name, where, task, licence, modalities = "text/xcopa", "text/reasoning", "cause_or_effect", "A", ("text",)

    def load(self) -> list[Row]:
        lines = json_lines(self.folder / "xcopa_val.jsonl.gz")
        return [{"id": f"xcopa_{line['lang']}_{line['idx']}", **line} for line in lines]

    def is_test(self, row: Row) -> bool:
        return share_of(f"xcopa/{row['idx']}") < TEST_SHARE

    def make(self, row: Row, rng: random.Random) -> Example:
        asked = "What was the cause?" if row["question"] == "cause" else "What happened then?"
        question = f"{row['premise']} {asked}\nA: {row['choice1']}\nB: {row['choice2']}"
        return self.told(row, (question,), "AB"[row["label"]], language=row["lang"])


class Prose(Source):
    """Running prose in pieces, to be said without a question. The end of the file is held out."""

    task, modalities = "prose", ("text",)
    file: ClassVar[str]
    where = "text/lm"

    def load(self) -> list[Row]:
        path = self.folder / self.file
        if not path.is_file():
            return []
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error})") from None
        pieces = [text[start : start + CHUNK_CHARS].strip() for start in range(0, len(text), CHUNK_CHARS)]
        last_train = int(len(pieces) * (1 - TEST_SHARE))
        rows = [{"id": f"{self.name}/{i}", "text": x, "late": i >= last_train} for i, x in enumerate(pieces)]
        return [row for row in rows if row["text"]]

    def is_test(self, row: Row) -> bool:
        return row["late"]

    def make(self, row: Row, rng: random.Random) -> Example:
        meta = {"id": row["id"], "source": self.name, "licence": self.licence}
        return Example(messages=(Message.model(row["text"]),), task=self.task, meta=meta)


class Shakespeare(Prose):
    """Plays."""

    name, licence, file = "text/shakespeare", "A", "tinyshakespeare_train.txt"


class Wikitext(Prose):
    """Encyclopedia articles."""

    name, licence, file = "text/wikitext", "B", "wikitext2_valid.txt"


TEXT_SOURCES: tuple[type[Source], ...] = (
    Tatoeba, TatoebaAll, Ntrex, Multi30k, Gsm8k, NumberWords, Xquad, Instructions, Summaries,
    MedicalQuestions, Xcopa, Shakespeare, Wikitext,
)  # fmt: skip
