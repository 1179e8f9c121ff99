"""Examines a checkpoint of the demo model with Hugging Face's own generate, sampling as Replicate's defaults do.

    python evaluate.py checkpoint [--conversations 300] [--fixture ../../test/demo/fixtures/held-out.json]

Two examinations: conversations drawn by corpus.py from what it holds out of training, each answer given the right history; and
corpus/held-out.txt, whose conversations go on from the model's own answers. An answer counts if it equals, character by
character, one that is allowed. `--fixture` writes the second one's questions and allowed answers for the tests in TypeScript.
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, GemmaForCausalLM

import corpus as c

# What lies outside may be met by any of the polite ways out.
POLITE = c.OUTSIDE_ANSWERS + c.FOREIGN_ANSWERS + c.UNCLEAR_ANSWERS
SAMPLING = dict(do_sample=True, temperature=0.7, top_p=0.95, top_k=50, max_new_tokens=256)


def answer(model, tokenizer, chats: list[list[dict]], size: int = 48) -> list[str]:
    """One answer to each chat (turns with role and content, the last one the user's)."""
    order = sorted(range(len(chats)), key=lambda i: sum(len(turn["content"]) for turn in chats[i]))
    answers = [""] * len(chats)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        texts = [tokenizer.apply_chat_template(chats[i], tokenize=False, add_generation_prompt=True) for i in part]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        with torch.inference_mode():
            out = model.generate(**inputs, **SAMPLING)
        for i, ids in zip(part, out[:, inputs["input_ids"].shape[1] :]):
            answers[i] = tokenizer.decode(ids, skip_special_tokens=True)
    return answers


def read_held_out(path: Path) -> list[list[tuple[str, str]]]:
    """Conversations of (kind, question)."""
    conversations: list[list[tuple[str, str]]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        kind, question = line.removeprefix("> ").split(": ", 1)
        if line.startswith("> "):
            conversations[-1].append((kind, question))
        else:
            conversations.append([(kind, question)])
    return conversations


def allowed(kind: str, intents: dict[str, c.Intent]) -> list[str]:
    """Every right answer to a question of held-out.txt."""
    if "|" in kind:
        return [text for each in kind.split("|") for text in allowed(each, intents)]
    name, _, value = kind.partition("=")
    if name == "sum":
        numbers = range(c.LARGEST_SUMMAND + 1)
        pairs = [tuple(map(int, value.split("+")))] if "+" in value else [(a, b) for a in numbers for b in numbers if a + b == int(value)]
        return [text for a, b in pairs for text in c.sum_answers(a, b)]
    if name == "about":
        return [text.format(value) for text in c.ASKED_ABOUT]
    fixed = {"tell": c.TELL_NAME_ANSWERS, "maths": c.OTHER_MATH_ANSWERS, "too large": c.TOO_LARGE_ANSWERS, "outside": POLITE, "foreign": POLITE, "unclear": POLITE}
    if name in fixed:
        return fixed[name]
    topic, _, follow_up = name.partition(".")
    return [intents[topic].follow_ups[follow_up]] if follow_up else intents[topic].answers


def whole_answers(intents: dict[str, c.Intent]) -> list[str]:
    """All that the model was taught to say: an answer outside this list is garbled, whatever was asked."""
    topics = [intent.topic for intent in intents.values()] + c.OTHER_TOPICS
    numbers = range(c.LARGEST_SUMMAND + 1)
    totals = range(2 * c.LARGEST_SUMMAND + 1)
    return sorted(
        {text for intent in intents.values() for text in intent.answers + list(intent.follow_ups.values())}
        | {text.format(topic) for topic in topics for text in c.ASKED_ABOUT}
        | {text for a in totals for b in numbers for text in c.sum_answers(a, b)}
        | {*POLITE, *c.TELL_NAME_ANSWERS, *c.OTHER_MATH_ANSWERS, *c.TOO_LARGE_ANSWERS, *c.NOTHING_MORE, *c.ABOUT_WHAT, *c.NOTHING_BEFORE}
    )


@dataclass
class Result:
    kind: str
    question: str
    answer: str
    right: bool


def report(title: str, results: list[Result], whole: set[str]) -> None:
    share = lambda part: f"{sum(r.right for r in part)} of {len(part)} right ({100 * sum(r.right for r in part) / max(1, len(part)):.1f} %)"
    print(f"\n{title}: {share(results)}")
    print(f"  {sum(r.answer in whole for r in results)} of {len(results)} are whole answers, right or not")
    total, good = Counter(r.kind for r in results), Counter(r.kind for r in results if r.right)
    print("  ".join(f"{kind} {good[kind]}/{total[kind]}" for kind in sorted(total) if good[kind] < total[kind]))
    for r in [r for r in results if not r.right][:60]:
        print(f"  [{r.kind}] {r.question!r} -> {r.answer!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--conversations", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1, help="how often held-out.txt is asked")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fixture", type=Path)
    parser.add_argument("--transcripts", action="store_true", help="print the conversations of held-out.txt")
    options = parser.parse_args()
    intents = {intent.name: intent for intent in c.read_intents(c.FOLDER / "intents.txt")}
    cases = read_held_out(c.FOLDER / "held-out.txt")
    right_answers = {kind: allowed(kind, intents) for kind in sorted({kind for case in cases for kind, _ in case})}
    if options.fixture:
        conversations = [[{"kind": kind, "user": question} for kind, question in case] for case in cases]
        # Sums are left out: the test sees from their form that they are whole.
        others = [text for text in whole_answers(intents) if not text[:1].isdigit()]
        fixture = {"allowed": right_answers, "conversations": conversations, "whole": others}
        options.fixture.write_text(json.dumps(fixture, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    whole = set(whole_answers(intents))
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    model = GemmaForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()

    source = c.Corpus(options.seed, evaluation=True)
    chats, turns = [], []
    for _ in range(options.conversations):
        history: list[dict] = []
        for turn in source.conversation():
            history.append({"role": "user", "content": turn.user})
            chats.append(list(history))
            turns.append(turn)
            history.append({"role": "assistant", "content": turn.answer})
    results = []
    for turn, chat, text in zip(turns, chats, answer(model, tokenizer, chats)):
        right = POLITE if turn.kind in ("outside", "foreign", "unclear") else turn.allowed
        results.append(Result(turn.kind, chat[-1]["content"], text, text in right))
    report("Drawn conversations", results, whole)

    results = []
    for _ in range(options.rounds):
        histories: list[list[dict]] = [[] for _ in cases]
        for depth in range(max(map(len, cases))):
            still_open = [i for i, case in enumerate(cases) if len(case) > depth]
            for i in still_open:
                histories[i].append({"role": "user", "content": cases[i][depth][1]})
            for i, text in zip(still_open, answer(model, tokenizer, [histories[i] for i in still_open])):
                kind, question = cases[i][depth]
                results.append(Result(kind, question, text, text in right_answers[kind]))
                histories[i].append({"role": "assistant", "content": text})
    report("held-out.txt", results, whole)
    trained_on = source.training_questions()
    report("held-out.txt, without the questions that training has too", [r for r in results if c.plain(r.question) not in trained_on], whole)
    if options.transcripts:
        for history in histories:
            if len(history) > 2:
                print("\n" + "\n".join(f"{'>' if turn['role'] == 'user' else ' '} {turn['content']}" for turn in history))


if __name__ == "__main__":
    main()
