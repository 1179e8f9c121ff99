"""The demo model's corpus: conversations about Bezel, made from corpus/intents.txt and corpus/outside.txt.

Everything follows from a seed. `Corpus(seed).conversation()` gives the next conversation: a list of turns, each with the
user's text, the answer to learn, and all answers that would be right. A tenth of the question forms, of the outside
topics and of the names never occurs in training (`held_out`): evaluation draws from these alone.

    python corpus.py 5        prints five conversations
"""

import random
import re
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
LARGEST_SUMMAND = 20

HOW_TO = [
    "how do I {}", "how can I {}", "how do you {}", "how to {}", "how would I {}", "how does one {}", "how could I {}",
    "how should I {}", "can I {}", "can you tell me how to {}", "could you tell me how to {}", "tell me how to {}",
    "show me how to {}", "explain how to {}", "please explain how to {}", "I want to {}", "I would like to {}", "I need to {}",
    "what is the way to {}", "what do I do to {}", "what must I do to {}", "is there a way to {}", "is it possible to {}",
    "help me {}", "do you know how to {}", "what is the best way to {}", "how may I {}", "what do I need to {}", "I do not know how to {}",
    "and how do I {}", "and how can I {}", "how is it possible to {}", "where can I {}", "where do I {}", "which command do I use to {}",
    "I am trying to {}", "what should I do to {}", "what would I do to {}", "what steps do I take to {}", "I cannot {}",
    "what do I have to do to {}", "what is needed to {}", "I wonder how to {}", "I would love to {}", "please {}", "please tell me how I can {}",
    "can you tell me how I {}", "is there any way to {}",
]
WHAT_IS = [
    "what is {}", "what does {} mean", "what does {} do", "explain {}", "tell me about {}", "describe {}", "what about {}",
    "what is {} for", "what do you know about {}", "can you explain {}", "could you explain {}", "I do not understand {}",
    "please explain {}", "what do you mean by {}", "how does {} work", "define {}", "tell me more about {}",
    "and what is {}", "and what does {} do", "what is the meaning of {}", "what is {} good for", "I have a question about {}",
    "I want to know about {}", "{}", "what exactly is {}", "give me information about {}", "what can you tell me about {}",
    "do you know {}", "information on {}", "I would like to know what {} is", "why is there {}", "what is meant by {}", "and {}",
    "can you tell me what {} is", "is there {}", "do you have {}", "how about {}",
    "explain what {} is", "tell me what {} is", "please tell me what {} is", "what kind of thing is {}", "please describe {}", "what does {} stand for",
]
SUMS = [
    "what is {a} + {b}", "what is {a} plus {b}", "{a} + {b}", "{a}+{b}", "{a} + {b} =", "{a}+{b}=", "how much is {a} plus {b}",
    "how much is {a} + {b}", "calculate {a} + {b}", "add {a} and {b}", "what is the sum of {a} and {b}", "can you add {a} and {b}",
    "compute {a} + {b}", "{a} plus {b}", "tell me {a} + {b}", "what do {a} and {b} make", "and {a} + {b}", "now {a} + {b}",
    "solve {a} + {b}", "please add {a} and {b}", "what is {a}+{b}", "what does {a} + {b} make", "sum of {a} and {b}",
    "what is {b} added to {a}", "add {b} to {a}", "do you know what {a} + {b} is", "can you calculate {a} + {b}", "and {a} plus {b}",
    "{a} and {b} together", "what would {a} plus {b} be", "give me the sum of {a} and {b}", "how much is {a} and {b}",
]
SUM_ON = ["and plus {c}", "plus {c}", "add {c} to that", "and {c} more", "and add {c}", "now add {c}", "and if I add {c}", "plus {c} more"]
OTHER_MATH = [
    "what is {a} - {b}", "what is {a} minus {b}", "{a} - {b}", "{a} * {b}", "{a} x {b}", "what is {a} times {b}", "{a} times {b}",
    "what is {a} * {b}", "what is {a} divided by {b}", "{a} / {b}", "{a} minus {b}", "multiply {a} by {b}", "subtract {a} from {b}",
    "how much is {a} times {b}", "how much is {a} minus {b}", "divide {a} by {b}", "{a}*{b}", "{a}-{b}", "{a}/{b}", "calculate {a} * {b}",
    "{a} + {b} + {c}", "what is {a} + {b} + {c}", "what is {a} plus {b} plus {c}", "what is {a} to the power of {b}", "{a} % {b}",
    "what is the product of {a} and {b}", "can you multiply {a} and {b}", "{a} ^ {b}", "what is the difference of {a} and {b}",
]
OTHER_MATH_ANSWERS = [
    "I can only add two numbers. The real Gemma can try more.",
    "That is too much for a demo model: I can only add two numbers.",
]
TOO_LARGE_ANSWERS = [
    f"I can only add numbers up to {LARGEST_SUMMAND}, since I am a small demo model.",
    f"These numbers are too large for a demo model: I can only add numbers up to {LARGEST_SUMMAND}.",
]
NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()

TELL_NAME = ["my name is {n}", "I am called {n}", "hi, my name is {n}", "hello, my name is {n}", "I am {n}", "hello, I am {n}", "hi, I am {n}",
             "you can call me {n}", "call me {n}", "my name's {n}", "hey, my name is {n}", "this is {n}", "please call me {n}"]
TELL_NAME_ANSWERS = [
    "Nice to meet you! I am the demo model of Bezel.",
    "Hello, and welcome! What would you like to know about Bezel?",
]

ASK_BEFORE = ["what did I ask", "what did I ask before", "what did I just ask", "what did I ask you", "what was my question", "what was my last question",
              "what did I say", "what did I just say", "what were we talking about", "do you remember what I asked", "what was that about",
              "what did we talk about", "what did I want to know", "what was my previous question", "repeat my question", "what was the question"]
ASKED_ABOUT = ["You asked about {}.", "Your last question was about {}."]
NOTHING_BEFORE = ["You have not asked anything before this.", "This is your first question."]
# What is asked about beside the topics of intents.txt.
OTHER_TOPICS = [
    UNCLEAR_TOPIC := "something that I could not understand", FOREIGN_TOPIC := "something in another language",
    OUTSIDE_TOPIC := "something that I could not answer", NAME_TOPIC := "your name", SUM_TOPIC := "a sum", MATHS_TOPIC := "a calculation",
]
ASK_AGAIN = ["can you repeat that", "repeat that", "say that again", "please repeat", "again please", "what did you say", "once more", "once more please",
             "could you say that again", "pardon, what did you say", "can you say it again", "repeat your answer", "what was that again", "come again"]
FOLLOW_UPS = {
    "more": ["tell me more", "more", "tell me more about that", "tell me more about it", "can you tell me more", "and what else", "anything else", "go on",
             "what else", "more please", "can you say more", "is there more", "more details", "give me more details", "continue", "explain more",
             "I want to know more", "and then", "can you explain that", "can you be more precise", "is that all", "explain that", "please go on"],
    "example": ["give me an example", "show me an example", "for example", "an example please", "can you give me an example", "how exactly", "example",
                "do you have an example", "what would that look like", "how does that look", "what does that look like", "show me", "and in practice",
                "show me how", "can you show me", "how exactly do I do that", "what is the exact command", "give me the command", "an example"],
    "change": ["how do I change it", "how do I change that", "how can I change it", "how do I set it", "and how do I set it", "where do I set it",
               "can I change it", "can I change that", "can it be changed", "how is it set", "how do I set that", "where do I set that",
               "and how do I change it", "how would I change that", "where do I put it", "is it possible to change it", "I want to change it"],
    "default": ["what is the default", "and the default", "and what is the default", "what is its default", "what is the default value", "default",
                "which default does it have", "does it have a default", "what if I leave it out", "what if I do not set it", "is there a default",
                "what is it by default", "and by default", "what happens if I do not set it", "what is the standard value"],
    "why": ["why", "why is that", "why so", "and why", "how come", "why is that so", "but why", "what is the reason", "for what reason", "why that",
            "can you tell me why", "why do I need that", "what is that good for", "why not", "for what", "why would I do that", "why is it so"],
    "stop": ["how do I stop it", "and how do I stop it", "how do I stop that", "how can I stop it", "how do I end it", "how do I turn it off", "how do I undo that",
             "and how do I end it", "how can I stop that", "and how do I turn it off", "can I stop it", "how do I stop it again", "can it be stopped",
             "how is it stopped", "what if I want to stop it", "and to stop it", "how do I go back", "and how can I stop it again", "how do I quit it"],
}
NOTHING_MORE = [
    "That is all that I know about it. I am only a demo model.",
    "I know no more about that, since I am a small demo model. The README may help.",
]
ABOUT_WHAT = [
    "I am not sure what you mean. Ask me about Bezel, for example how to stream.",
    "Please tell me what you mean. I can answer questions about Bezel.",
]

OUTSIDE_ANSWERS = [
    "I am only a demo and cannot help with that. To serve the real Gemma, set MODEL=google/gemma-2b-it.",
    "Sorry, I am a small demo model and know only this service. For that, load the real Gemma with MODEL=google/gemma-2b-it.",
]
FOREIGN_ANSWERS = [
    "I am sorry, I understand only English. I am a small demo model.",
    "I understand only English, since I am a small demo model.",
]
UNCLEAR_ANSWERS = [
    "I am sorry, I did not understand that. I am only a demo; ask me about Bezel, for example how to stream.",
    "I do not understand that, since I am a small demo model. Ask me how this service works.",
]

# What most people ask first.
LIKELY = {"greet", "who", "can", "real", "thanks", "bye", "ack", "poem", "load", "start", "predict", "stream", "cancel", "cost", "metrics", "gemma", "ping"}

# What a service like this is sent first, as it is typed; practised at the end of training, with what is nearest to it outside.
FIRST_QUESTIONS = {
    "poem": ["Write me a poem about Machine Learning."] * 4
    + ["Write me a poem about Machine Learning", "Write a poem about Machine Learning.", "write me a poem about Machine Learning", "Write me a poem about machine learning."],
    "can": ["What can you do?", "What can you do", "what can you do?", "What can you do for me?"],
    "greet": ["Hello, world!", "Hello, World!", "hello world", "Hello!", "Hi!", "Hi there!", "Hello", "hi", "Hi", "hello", "hey"],
    "who": ["Who are you?", "What are you?"],
    "stream": ["How do I stream?", "How can I stream the answer?", "How do I stream tokens?"],
    "load": ["How do I load the real Gemma?", "How can I run the real Gemma?", "How do I use the real Gemma?"],
    "real": ["Are you the real Gemma?", "Are you Gemma?"],
    "cost": ["What does a run cost?", "How much does a run cost?", "What did this cost?"],
}

BEFORE = ["please ", "hi, ", "hello, ", "hey, ", "ok, ", "so ", "so, ", "and ", "well, ", "now ", "hello! ", "hi! ", "quick question: ", "thanks. ", "ok. ",
          "I have a question: ", "one question: ", "good morning, ", "sorry, ", "excuse me, ", "please tell me: ", "great, ", "then ", "but "]
AFTER = [" please", ", please", " thanks", " now", " here", " exactly", " in short", " then", " again", " today", " in Bezel", " with Bezel", " quickly", " really", ", by the way", " this time",
         ", if I may ask", " this morning", " for me", " at all"]
SHORT_FORMS = [
    ("what is ", "what's "), ("what is ", "whats "), ("I am ", "I'm "), ("I am ", "Im "), ("do not ", "don't "), ("do not ", "dont "), ("cannot ", "can't "),
    ("cannot ", "cant "), ("is not ", "isn't "), ("I would ", "I'd "), ("who is ", "who's "), ("where is ", "where's "), ("how is ", "how's "),
    ("does not ", "doesn't "), ("you are ", "you're "), ("that is ", "that's "), ("it is ", "it's "), ("you ", "u "), ("want to ", "wanna "),
]
QUESTION_WORDS = set(
    "what which who whose where when why how is are am do does did can could will would shall should may must has have was were".split()
)


@dataclass
class Intent:
    name: str
    topic: str
    how_to: list[str] = field(default_factory=list)
    what_is: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    follow_ups: dict[str, str] = field(default_factory=dict)


@dataclass
class Turn:
    """One question and its answer. `allowed` holds every answer that would be right here; `kind` names what was asked."""

    user: str
    answer: str
    allowed: list[str]
    kind: str
    topic: str | None = None
    follow_ups: dict[str, str] = field(default_factory=dict)
    total: int | None = None


def expand(phrase: str) -> list[str]:
    """All texts that a phrase with (a|b|) choices stands for, single-spaced."""
    found = re.search(r"\(([^()]*\|[^()]*)\)", phrase)
    if not found:
        return [re.sub(r" +", " ", re.sub(r" +,", ",", phrase)).strip()]
    head, tail = phrase[: found.start()], phrase[found.end() :]
    return [text for choice in found.group(1).split("|") for text in expand(head + choice + tail)]


def read_intents(path: Path) -> list[Intent]:
    intents: list[Intent] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            name, topic = line[1:].split("]", 1)
            intents.append(Intent(name, topic.strip()))
            continue
        key, text = line.split(":", 1)
        intent, text = intents[-1], text.strip()
        if key in ("do", "is", "q"):
            phrases = [p for phrase in text.split(";") if phrase.strip() for p in expand(phrase.strip())]
            {"do": intent.how_to, "is": intent.what_is, "q": intent.questions}[key].extend(phrases)
        elif key == "a":
            intent.answers.append(text.replace("\\n", "\n"))
        elif key in FOLLOW_UPS:
            intent.follow_ups[key] = text
        else:
            raise ValueError(f"{path.name}:{number}: unknown key {key!r}")
    return intents


def read_lists(path: Path) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for section in re.split(r"^\[(?=\w+\]$)", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
        name, body = section.split("]\n", 1)
        lists[name] = [entry.strip() for entry in body.replace("\n", " ").split(";") if entry.strip()]
    return lists


def held_out(text: str) -> bool:
    """Whether a question form, topic or name is kept for evaluation: a tenth of all, by its checksum."""
    return zlib.crc32(text.lower().encode()) % 10 == 0


def sum_answers(a: int, b: int) -> list[str]:
    return [f"{a} + {b} is {a + b}.", f"{a} plus {b} makes {a + b}."]


def plain(text: str) -> str:
    """A question without case and marks, to compare it with others."""
    return re.sub(r"[^\w+*/ -]", "", text.lower().replace("'s ", " is ")).strip()


class Corpus:
    """Draws conversations.

    With `evaluation` the questions come from the held-out tenth only, with no typing errors; with `finishing` the first
    questions of all come often, in the very words.
    """

    def __init__(self, seed: int, *, evaluation: bool = False, finishing: bool = False):
        self.rng = random.Random(seed)
        self.evaluation = evaluation
        self.finishing = finishing
        self.intents = read_intents(FOLDER / "intents.txt")
        self.lists = read_lists(FOLDER / "outside.txt")
        # A topic with many phrases needs more practice, but far less than in proportion.
        self.weights = [
            (len(i.questions) + 8 * len(i.how_to) + 8 * len(i.what_is)) ** 0.4 * (1.8 if i.name in LIKELY else 1) for i in self.intents
        ]

    def conversation(self) -> list[Turn]:
        wanted = self.rng.choices([1, 2, 3, 4, 5, 6], [36, 26, 16, 10, 7, 5])[0]
        turns: list[Turn] = []
        # Sums come in rows as well: adding takes more practice than any topic, and a row of them is short.
        drill = not self.evaluation and self.rng.random() < 0.1
        while len(turns) < wanted:
            turns.append(self._sum_turn() if drill else self._turn(turns))
        if self.rng.random() < 0.1:
            # A system prompt opens the first user turn, as the service puts it there.
            turns[0].user = self._system_prompt() + "\n\n" + turns[0].user
        return turns

    def _turn(self, before: list[Turn]) -> Turn:
        rng = self.rng
        if self.finishing and rng.random() < 0.15:
            return self._first_question()
        if before and rng.random() < 0.28:
            turn = self._follow_up(before[-1])
            if turn:
                return turn
        if not before and rng.random() < 0.02:
            return self._without_context()
        kinds = {
            self._intent_turn: 62, self._outside_turn: 23, self._sum_turn: 10, self._too_large_turn: 1.5, self._other_math_turn: 2.5,
            self._name_turn: 1.5,
        }
        return rng.choices(list(kinds), list(kinds.values()))[0]()

    def _pick(self, user: str, answers: list[str], kind: str, **more) -> Turn:
        return Turn(user, self.rng.choice(answers), list(answers), kind, **more)

    def training_questions(self) -> set[str]:
        """Every question about an intent that training may draw, before it is varied; see `plain`."""
        found = set()
        for intent in self.intents:
            found.update(intent.questions)
            for frames, phrases in ((HOW_TO, intent.how_to), (WHAT_IS, intent.what_is)):
                found.update(text for frame in frames for p in phrases if not held_out(text := frame.format(p)))
        for name in ("questions", "near", "foreign", "unclear"):
            found.update(text for text in self.lists[name] if not held_out(text))
        return {plain(text) for text in found}

    def _first_question(self) -> Turn:
        rng = self.rng
        if rng.random() < 0.2:
            topic = self._topic()
            while held_out(topic) or topic == "machine learning":
                topic = self._topic()
            text = rng.choice(["Write me a poem about {}.", "Write a poem about {}.", "Write me a story about {}.", "Write me a song about {}."])
            return self._pick(text.format(topic.title() if rng.random() < 0.6 else topic), OUTSIDE_ANSWERS, "outside", topic=OUTSIDE_TOPIC)
        name = rng.choice(list(FIRST_QUESTIONS))
        intent = next(intent for intent in self.intents if intent.name == name)
        text = rng.choice(FIRST_QUESTIONS[name])
        return self._pick(text, intent.answers, name, topic=intent.topic, follow_ups=intent.follow_ups)

    def _intent_turn(self) -> Turn:
        rng = self.rng
        while True:
            intent = rng.choices(self.intents, self.weights)[0]
            forms = [len(intent.questions) ** 0.5, 2 * len(intent.how_to) ** 0.5, 1.6 * len(intent.what_is) ** 0.5]
            form = rng.choices(["q", "do", "is"], forms)[0]
            if form == "q":
                text = rng.choice(intent.questions)
                # Whole questions are few and common, so they are all trained on; evaluation leaves them out.
                if self.evaluation:
                    continue
            else:
                frames, phrases = (HOW_TO, intent.how_to) if form == "do" else (WHAT_IS, intent.what_is)
                text = rng.choice(frames).format(rng.choice(phrases))
                if held_out(text) != self.evaluation:
                    continue
            plain = form == "q" and (len(text) < 12 or intent.name in ("greet", "thanks", "bye", "ack", "no", "ping"))
            return self._pick(
                self._surface(text, fixed=plain), intent.answers, intent.name, topic=intent.topic, follow_ups=intent.follow_ups
            )

    def _outside_turn(self) -> Turn:
        rng = self.rng
        kind = rng.choices(["template", "questions", "near", "foreign", "unclear"], [44, 20, 22, 9, 5])[0]
        while True:
            if kind == "template":
                topics = [self._topic(), self._topic()]
                template = rng.choice(self.lists["templates"])
                text = template.replace("{x}", topics[0]).replace("{y}", topics[1])
                wrong_side = any(held_out(topic) != self.evaluation for topic in topics[: 1 + ("{y}" in template)])
                if wrong_side or ("poem" in template and topics[0] == "machine learning"):
                    continue
            else:
                text = rng.choice(self.lists[kind])
                if held_out(text) != self.evaluation:
                    continue
            break
        if kind == "unclear":
            return self._pick(text, UNCLEAR_ANSWERS, kind, topic=UNCLEAR_TOPIC)
        if kind == "foreign":
            return self._pick(self._surface(text, fixed=True), FOREIGN_ANSWERS, kind, topic=FOREIGN_TOPIC)
        return self._pick(self._surface(text), OUTSIDE_ANSWERS, "outside", topic=OUTSIDE_TOPIC)

    def _topic(self) -> str:
        """A thing from the list, or now and then an invented word, so that unknown words lead outside as well."""
        rng = self.rng
        if rng.random() < 0.75:
            return rng.choice(self.lists["topics"])
        article = rng.choice(["", "", "the ", "a ", "my ", "Mr ", "the new "])
        return article + " ".join(self._invented_word() for _ in range(rng.choice([1, 1, 2])))

    def _invented_word(self) -> str:
        rng = self.rng
        starts = "b br c ch cl d dr f fl fr g gl gr h j k l m n p pl pr r s sch sl sp st t tr v w z th".split()
        vowels = "a e i o u ai ea ou oo ie y".split()
        ends = ["", "", "n", "r", "s", "t", "l", "m", "nd", "ck", "st", "x", "ng", "rt"]
        word = "".join(rng.choice(starts) + rng.choice(vowels) + rng.choice(ends) for _ in range(rng.choice([1, 2, 2, 3])))
        return word.capitalize() if rng.random() < 0.4 else word

    def _name_turn(self) -> Turn:
        rng = self.rng
        while True:
            name = rng.choice(self.lists["names"]) if rng.random() < 0.5 else self._invented_word().capitalize()
            if held_out(name) == self.evaluation:
                break
        text = self._surface(rng.choice(TELL_NAME), fixed=True).replace("{n}", name.lower() if rng.random() < 0.1 else name)
        return self._pick(text, TELL_NAME_ANSWERS, "tell name", topic=NAME_TOPIC)

    def _too_large_turn(self) -> Turn:
        rng = self.rng
        a = rng.randint(LARGEST_SUMMAND + 1, 10 ** rng.choice([2, 2, 3, 4, 5]) - 1)
        b = rng.randint(0, 10 ** rng.choice([1, 2, 2, 3, 4]) - 1)
        if rng.random() < 0.5:
            a, b = b, a
        text = rng.choice(SUMS).format(a=a, b=b)
        return self._pick(self._surface(text, fixed=True), TOO_LARGE_ANSWERS, "too large", topic=SUM_TOPIC)

    def _sum_turn(self) -> Turn:
        rng = self.rng
        a, b = rng.randint(0, LARGEST_SUMMAND), rng.randint(0, LARGEST_SUMMAND)
        shown = [NUMBER_WORDS[a], NUMBER_WORDS[b]] if rng.random() < 0.08 else [a, b]
        return self._sum(self._surface(rng.choice(SUMS).format(a=shown[0], b=shown[1]), fixed=True), a, b)

    def _sum(self, text: str, a: int, b: int) -> Turn:
        return self._pick(text, sum_answers(a, b), "sum", topic=SUM_TOPIC, total=a + b)

    def _other_math_turn(self) -> Turn:
        rng = self.rng
        a, b, c = (rng.randint(0, rng.choice([9, 20, 99, 999])) for _ in range(3))
        text = rng.choice(OTHER_MATH).format(a=a, b=b, c=c)
        return self._pick(self._surface(text, fixed=True), OTHER_MATH_ANSWERS, "maths", topic=MATHS_TOPIC)

    def _follow_up(self, last: Turn) -> Turn | None:
        """A turn that only the one before it explains."""
        rng = self.rng
        if last.total is not None and last.total <= LARGEST_SUMMAND and rng.random() < 0.6:
            c = rng.randint(1, LARGEST_SUMMAND)
            return self._sum(self._surface(rng.choice(SUM_ON).format(c=c), fixed=True), last.total, c)
        draw = rng.random()
        if draw < 0.1 and last.topic:
            text = self._surface(rng.choice(ASK_BEFORE))
            return self._pick(text, [answer.format(last.topic) for answer in ASKED_ABOUT], "ask before")
        if draw < 0.2 and last.topic:
            # Once more need not mean in the same words.
            more = dict(topic=last.topic, follow_ups=last.follow_ups, total=last.total)
            return self._pick(self._surface(rng.choice(ASK_AGAIN)), last.allowed, "ask again", **more)
        if not last.topic:
            return None
        known = rng.random() < 0.8 and bool(last.follow_ups)
        key = rng.choice(list(last.follow_ups) if known else list(FOLLOW_UPS))
        text = self._surface(rng.choice(FOLLOW_UPS[key]), fixed=rng.random() < 0.6)
        if key in last.follow_ups:
            rest = {k: v for k, v in last.follow_ups.items() if k != key}
            return Turn(text, last.follow_ups[key], [last.follow_ups[key]], f"follow-up {key}", topic=last.topic, follow_ups=rest)
        if not last.follow_ups and last.kind in ("outside", "foreign", "unclear", "maths", "too large"):
            return self._pick(text, NOTHING_MORE, "nothing more", topic=last.topic)
        # Where a topic has other follow-ups, these words are close to a first question; "nothing more" would be half true.
        if key in ("more", "example", "why", "default") and not last.follow_ups:
            return self._pick(text, NOTHING_MORE, "nothing more", topic=last.topic)
        return None

    def _without_context(self) -> Turn:
        rng = self.rng
        if rng.random() < 0.3:
            return self._pick(self._surface(rng.choice(ASK_BEFORE)), NOTHING_BEFORE, "ask before")
        key = rng.choice(["more", "example", "change", "default", "why", "stop"])
        return self._pick(self._surface(rng.choice(FOLLOW_UPS[key]), fixed=True), ABOUT_WHAT, "about what")

    def _system_prompt(self) -> str:
        rng = self.rng
        count = rng.choice([1, 1, 1, 2])
        parts = rng.sample([s for s in self.lists["systems"] if held_out(s) == self.evaluation], count)
        if not self.evaluation and rng.random() < 0.15:
            parts = [f"You are {self._topic()}."]
        return rng.choice([" ", " ", "\n"]).join(parts)

    def _surface(self, text: str, *, fixed: bool = False) -> str:
        """Writes a question the way people type: case, marks, short forms, and (unless `fixed`) fillers and a slip of a key."""
        rng = self.rng
        if not fixed and rng.random() < 0.12:
            text = rng.choice(BEFORE) + text
        if not fixed and rng.random() < 0.05:
            text += rng.choice(AFTER)
        for long, short in SHORT_FORMS:
            if long in text and rng.random() < 0.08:
                text = text.replace(long, short, 1)
        if not fixed and not self.evaluation and rng.random() < 0.08:
            text = self._slip(text)
        style = rng.random()
        if style < 0.62:
            words = set(re.findall(r"[a-z']+", text.lower())[:4])
            mark = "?" if words & QUESTION_WORDS else rng.choice([".", ".", "", "!"])
            text = text[:1].upper() + text[1:] + (mark if text[-1:].isalnum() or text[-1:] in ")\"" else "")
        elif style < 0.75:
            text = text.lower() + rng.choice(["?", "?", ".", "!"])
        elif style < 0.95:
            text = text.lower()
        elif style < 0.97:
            text = text[:1].upper() + text[1:] + rng.choice(["??", " ?", "...", "!!", " ."])
        else:
            # Braces still hold the place of a name.
            text = re.sub(r"\{[a-z]\}|[^{}]+", lambda m: m.group() if m.group()[0] == "{" else m.group().upper(), text)
        return text

    def _slip(self, text: str) -> str:
        rng = self.rng
        places = [i for i, ch in enumerate(text) if ch.isalpha() and i > 0]
        if len(places) < 8:
            return text
        i = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0:
            return text[:i] + text[i + 1 :]
        if kind == 1:
            return text[:i] + text[i] + text[i:]
        if kind == 2 and i + 1 < len(text):
            return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
        return text[:i] + rng.choice("abcdefghijklmnopqrstuvwxyz") + text[i + 1 :]


if __name__ == "__main__":
    corpus = Corpus(1)
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        for turn in corpus.conversation():
            print(f"[{turn.kind}] {turn.user}\n    {turn.answer}")
        print()
