#!/usr/bin/env python3
"""Renders all conversations with real templates by jinja2; writes rendered.json.

usage: make_template_goldens.py FOLDER SMOLLM2.gguf

FOLDER holds the *.jinja files of llama.cpp's models/templates (tests/fetch_vocabularies fetches them). Needs PyPI's jinja2
(3.1.6 was used) and gguf. For each template and conversation the first 16 hex digits of the SHA-256 of the text, or
"error" where jinja2 fails; the texts of a few in full.
"""
import hashlib
import json
import pathlib
import sys

import gguf
import hf_jinja

BOS, EOS = "<s>", "</s>"
FULL = [("SmolLM2-135M-Instruct", "one"), ("SmolLM2-135M-Instruct", "hard_text"), ("SmolLM2-135M-Instruct", "lookalike"),
        ("meta-llama-Llama-3.1-8B-Instruct", "tool_result"), ("Qwen-Qwen3-0.6B", "call_empty_content"),
        ("google-gemma-2-2b-it", "turns_no_system"), ("openai-gpt-oss-120b", "turns")]


def templates(folder, model):
    field = gguf.GGUFReader(model).fields["tokenizer.chat_template"]
    found = {"SmolLM2-135M-Instruct": bytes(field.parts[field.data[0]]).decode()}
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        found[path.stem] = path.read_bytes().decode()
    return found


def main():
    here = pathlib.Path(__file__).parent
    cases = json.loads((here / "conversations.json").read_text())
    rendered, texts = {}, []
    for name, source in templates(sys.argv[1], sys.argv[2]).items():
        rendered[name] = {}
        for case_name, case in cases.items():
            variables = {"documents": None, **case.get("variables", {}), "messages": case["messages"],
                         "tools": case.get("tools"), "add_generation_prompt": case["add_generation_prompt"],
                         "bos_token": BOS, "eos_token": EOS}
            text = hf_jinja.render(source, variables)
            rendered[name][case_name] = "error" if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]
            if (name, case_name) in FULL:
                texts.append({"template": name, "case": case_name, "text": text})
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(cases)}" for name, cases in rendered.items())
    full = ",\n".join("  " + json.dumps(entry) for entry in texts)
    (here / "rendered.json").write_text(f'{{"hashes": {{\n{lines}\n}},\n"texts": [\n{full}\n]}}\n')
    errors = sum(value == "error" for values in rendered.values() for value in values.values())
    print(f"{len(rendered)} templates, {sum(map(len, rendered.values()))} renderings, {errors} of them errors")


if __name__ == "__main__":
    main()
