"""Makes the fixtures in fixtures/: tiny random Gemmas, and what Hugging Face's transformers computes with them.

    python make.py                     all random configurations
    python make.py --demo <checkpoint> the embedded demo model

Each configuration becomes a folder as save_pretrained writes it (config.json, model.safetensors) and reference.safetensors:

    prompt  i64 [P]      the token ids put in
    logits  f32 [P+1, V] of every position of the prompt, and of the last but one of prompt + greedy
    greedy  i64 [64]     the ids of the highest logits, each found from the whole text before it, without a cache

Weights are drawn in f32 and saved in the configuration's type; the reference reads them back and computes in f32.
Versions and hashes of the last run: fixtures.md.
"""

import argparse
import pathlib

import torch
from safetensors.torch import save_file
from transformers import GemmaConfig, GemmaForCausalLM

HERE = pathlib.Path(__file__).parent
GREEDY = 64

# Between them: 1 and 2 KV heads, head size 64 and 256, and the three types that a checkpoint may have.
CONFIGURATIONS = {
    "kv1-head64-f32": dict(seed=11, dtype=torch.float32, heads=2, kv_heads=1, head_size=64),
    "kv2-head64-f16": dict(seed=12, dtype=torch.float16, heads=4, kv_heads=2, head_size=64),
    "kv1-head256-bf16": dict(seed=13, dtype=torch.bfloat16, heads=2, kv_heads=1, head_size=256),
}
PROMPT = 24
VOCABULARY = 384
# Ids up to this one are control tokens of the tests' tokenizer; a prompt has none but <bos>.
LAST_CONTROL = 5
BOS = 2


def random_gemma(seed, dtype, heads, kv_heads, head_size):
    torch.manual_seed(seed)
    config = GemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_size,
        max_position_embeddings=256,
        rope_theta=10000.0,
        hidden_act="gelu_pytorch_tanh",
        tie_word_embeddings=True,
        dtype=dtype,
    )
    model = GemmaForCausalLM(config)
    for name, parameter in model.named_parameters():
        # 0.3 makes the layers' part of the residual stream as large as the embedding's: the greedy text is no repetition.
        torch.nn.init.normal_(parameter, std=0.1 if "norm" in name else 0.3)
    return model.to(dtype)


@torch.no_grad()
def reference(model, prompt):
    ids = list(prompt)
    last = None
    for step in range(GREEDY):
        last = model(torch.tensor([ids])).logits[0]
        if step == 0:
            logits = last
        ids.append(int(last[-1].argmax()))
    return {
        "prompt": torch.tensor(prompt),
        "logits": torch.cat([logits, last[-1:]]).contiguous(),
        "greedy": torch.tensor(ids[len(prompt):]),
    }


def load(folder):
    return GemmaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def make_random(name, options):
    folder = HERE / "fixtures" / name
    random_gemma(**options).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    generator = torch.Generator().manual_seed(options["seed"])
    prompt = [BOS] + torch.randint(LAST_CONTROL + 1, VOCABULARY, (PROMPT - 1,), generator=generator).tolist()
    save_file(reference(load(folder), prompt), folder / "reference.safetensors")


def make_demo(checkpoint):
    # Through the fast tokenizer's own file: what matters here is only that both sides get the same ids.
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    text = "<bos><start_of_turn>user\nWhat can you do?<end_of_turn>\n<start_of_turn>model\n"
    prompt = tokenizer.encode(text, add_special_tokens=False).ids
    folder = HERE / "fixtures" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(reference(load(checkpoint), prompt), folder / "reference.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--demo", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.demo:
        make_demo(arguments.demo)
    else:
        for name, options in CONFIGURATIONS.items():
            make_random(name, options)
