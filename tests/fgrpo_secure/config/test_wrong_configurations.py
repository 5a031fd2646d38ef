"""Each key of a configuration, wrong in each way that a hand or an editor makes it: one sentence, never a traceback.

    python -m pytest tests/fgrpo_secure/config/test_wrong_configurations.py -s

prints how many were tried, what was accepted, and every sentence, for an eye to read.
"""

import json
import re
import sys

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config import reference
from fgrpo_secure.config.files import ConfigError

CLIENT = 'name = "here"\ntask = "add"\n'
BUDGETS = ("epsilon", "noise_multiplier")
WAYS = {  # what stands after `key = `; some keys accept some of them, which is right, too
    "a text for a number": '"3"',
    "a word": '"wrong"',
    "no text": '""',
    "a long text": f'"{"x" * 5000}"',
    "a zero byte": '"a\\u0000b"',
    "a number for a text": "3",
    "a fraction": "1.5",
    "a truth": "true",
    "below": "-1",
    "nothing of it": "0",
    "not a number": "nan",
    "without end": "inf",
    "a hundred digits": "9" * 100,
    "too many digits": "9" * 5000,
    "tiny": "1e-320",
    "huge": "1e308",
    "a list": "[1, 2]",
    "an empty list": "[]",
    "a list of lists": '[["a"]]',
    "a table": "{ a = 1 }",
    "a date": "2026-11-29",
    "a time": "07:32:00",
    "deep": "[" * 2000 + "]" * 2000,
}
SHOWN_OF_OURS = re.compile(r"Traceback|pydantic|\^\[|datetime\.|Section|tuple|dict\b|\d{60}|Error\b|input should")


def keys():
    return [key.name for table in reference.tables() for key in table.keys]


def written(key, value):
    """A small configuration in which `key` has this value, and nothing else is wrong."""
    section, _, name = key.rpartition(".")
    client = CLIENT
    if section == "client":
        client = "".join(line + "\n" for line in CLIENT.splitlines() if not line.startswith(f"{name} "))
        return f"[[client]]\n{client}{name} = {value}\n"
    budget = "[privacy]\nepsilon = 8.0\n" if section.startswith("privacy") and name not in BUDGETS else ""
    heading = "" if section == "privacy" and budget else f"[{section}]\n"
    return f"[[client]]\n{client}\n{budget}{heading}\n{name} = {value}\n"


def cases():
    for key in keys():
        for way, value in WAYS.items():
            yield key, way, written(key, value)
        section, _, name = key.rpartition(".")
        misspelt = f"{section}.{name[:-1]}" if len(name) > 4 else f"{section}.{name}x"
        yield misspelt, "misspelt", written(misspelt, "1")
        yield key, "twice", written(key, "1") + f"{name} = 1\n"
        yield key, "no value", written(key, "")
        yield (
            section,
            "a value for a table",
            f"{section} = 3\n"
            + ("" if section == "client" else written("engine.processes" if section != "engine" else "run.seed", 1)),
        )


def said(tmp_path, text):
    """The sentence that refuses a configuration; None if it is accepted."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    try:
        config_file.load(str(file))
    except ConfigError as refusal:
        return str(refusal)
    return None


def problem(key, way, sentence, file):
    """What is wrong with a sentence; empty if nothing is."""
    name = key.rpartition(".")[2]
    if "\n" in sentence or len(sentence) > 500:
        return "not one sentence"
    if not sentence.startswith(file):
        return "names no file"
    if SHOWN_OF_OURS.search(sentence):
        return "shows what is ours"
    if way in (
        "too many digits",
        "deep",
        "twice",
        "no value",
    ):  # no configuration at all: the reader of TOML says where
        return "" if re.search(r"line \d+|too many digits", sentence) else "names no line"
    if name not in sentence:
        return "names no key"
    return ""


def tried(tmp_path):
    file = str(tmp_path / "mine.toml")
    for key, way, text in cases():
        sentence = said(tmp_path, text)
        yield key, way, sentence, "" if sentence is None else problem(key, way, sentence, file)


def for_an_eye(found):
    sentences = {sentence.rpartition("/")[2] for _, _, sentence, _ in found if sentence is not None}
    accepted = ", ".join(f"{key} ({way})" for key, way, sentence, _ in found if sentence is None)
    faulty = sum(bool(wrong) for *_, wrong in found)
    counts = {"tried": len(found), "refused": sum(each[2] is not None for each in found), "faulty sentences": faulty}
    return "\n".join([json.dumps(counts), f"accepted: {accepted}", *sorted(sentences)]) + "\n"


def test_every_wrong_value_of_every_key_is_refused_in_one_sentence_that_names_file_and_key(tmp_path):
    found = list(tried(tmp_path))
    sys.stdout.write(for_an_eye(found))
    assert [(key, way, sentence, wrong) for key, way, sentence, wrong in found if wrong] == []
    assert len(found) > 2000
    assert sum(sentence is not None for _, _, sentence, _ in found) > 1500


def test_a_wrong_value_is_named_with_the_line_that_writes_it(tmp_path):
    sentence = said(tmp_path, '# mine\n[[client]]\nname = "a"\ntask = "add"\n\n[[client]]\nname = "b"\ntask = 3\n')
    assert sentence is not None
    assert "mine.toml, line 8: client.b.task must be a text, not 3" in sentence
    sentence = said(
        tmp_path, '[[client]]\nname = "a"\ntask = "add"\n[privacy]\nepsilon = 1.0\nadaptive_clip.range = 0\n'
    )
    assert sentence is not None
    assert "line 6: privacy.adaptive_clip.range must be a number at least 1 and at most 1e+06, not 0" in sentence
