"""Greedy tokens of an exported folder in onnxruntime-genai: a reference check, no part of the ordinary tests.

    python genai.py <exported folder> <number of tokens> <id,id,...>

Prints the new ids as JSON. Versions tried: onnxruntime-genai 0.17.1 on onnxruntime 1.30.0.
"""

import json
import sys

import onnxruntime_genai as og

folder, count, prompt = sys.argv[1], int(sys.argv[2]), [int(i) for i in sys.argv[3].split(",")]
model = og.Model(folder)
params = og.GeneratorParams(model)
# min_length keeps an end token from ending the comparison early: genai then gives it a score of -inf.
params.set_search_options(do_sample=False, max_length=len(prompt) + count)
generator = og.Generator(model, params)
generator.append_tokens([prompt])
while not generator.is_done():
    generator.generate_next_token()
print(json.dumps([int(i) for i in generator.get_sequence(0)[len(prompt):]]))
