#!/usr/bin/env python3
"""Writes help.txt anew: what each of its "$ tandem COMMAND --help" lines prints. usage: make_help.py TANDEM"""
import pathlib
import subprocess
import sys

golden = pathlib.Path(__file__).with_name("help.txt")
text = ""
for line in golden.read_text().splitlines():
    if line.startswith("$ tandem "):
        command = line.removeprefix("$ tandem ").split()
        text += line + "\n" + subprocess.run([sys.argv[1], *command], capture_output=True, text=True, check=True).stdout
golden.write_text(text)
