"""onnxruntime-genai on our portable model.onnx. Speaks Node's IPC: one JSON text a line on the socket NODE_CHANNEL_FD."""

import json
import os
import socket
import sys
import time

import onnxruntime_genai as og


class Contestant:
    def __init__(self, options):
        self.model = og.Model(options["model"])
        self.context_length = options["contextLength"]

    def generator(self, tokens, new_tokens):
        params = og.GeneratorParams(self.model)
        params.set_search_options(max_length=tokens + new_tokens + 1, min_length=tokens + new_tokens, do_sample=False)
        generator = og.Generator(self.model, params)
        generator.append_tokens([300 + i % 200 for i in range(tokens)])
        return generator

    def prefill(self, tokens):
        start = time.perf_counter()
        self.generator(tokens, 1)
        return tokens / (time.perf_counter() - start)

    def decode(self, sequences, depth, new_tokens):
        if sequences > 1:
            raise ValueError("measured for one sequence only")
        generator = self.generator(depth, new_tokens)
        generator.generate_next_token()
        start = time.perf_counter()
        for _ in range(new_tokens - 1):
            generator.generate_next_token()
        return (new_tokens - 1) / (time.perf_counter() - start)


def memory():
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    kilobytes = {name: int(fields[name].split()[0]) for name in ("RssAnon", "RssFile")}
    return {"privateBytes": kilobytes["RssAnon"] * 1024, "mappedBytes": kilobytes["RssFile"] * 1024}


def answer(contestant, question):
    try:
        if question["kind"] == "prefill":
            return {"value": contestant.prefill(question["tokens"])}
        if question["kind"] == "decode":
            return {"value": contestant.decode(question["sequences"], question["depth"], question["newTokens"])}
        if question["kind"] == "memory":
            return {"memory": memory()}
        return {"error": f"{question['kind']} is not measured here"}
    except Exception as error:  # whatever it is, the benchmark says it and goes on
        return {"error": str(error)}


channel = socket.socket(fileno=int(os.environ["NODE_CHANNEL_FD"]))
lines = channel.makefile("r", encoding="utf-8")


def send(message):
    channel.sendall((json.dumps(message) + "\n").encode())


start = time.perf_counter()
contestant = Contestant(json.loads(sys.argv[1]))
contestant.decode(1, 4, 2)
send({"loadMs": (time.perf_counter() - start) * 1000})
for line in lines:
    send(answer(contestant, json.loads(line)))
