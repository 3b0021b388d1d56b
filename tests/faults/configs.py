"""Configs with a few mistakes each: values of the wrong kind, unknown keys, text that is no YAML.

Survived: ``gkd validate`` and then ``gkd run --dry-run`` end well, or with exit code 2 and a sentence. Lost: another
end, or none: the process dies or hangs. Silently different: what a run would write into its ``config.yaml`` is another
experiment when it is read again. Traceback: an exception comes through.
"""

from __future__ import annotations

import copy
import json
import random as standard_random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from gkd.config.load import load
from gkd.config.shipped import load_method
from gkd.core.errors import UserError
from tests.faults.nasty import KEYS, ODD, STAGE_KEYS, TERM_KEYS, VALUES
from tests.faults.scenarios import CONFIG, SCENARIOS
from tests.faults.snapshot import first_difference
from tests.faults.verdict import Outcome, Verdict, judged_by_ending, survived
from tests.faults.workshop import Workshop, seeded
from tests.processes import command_line

COUNT = 2000
MEMORY = 12 * 2**30  # bytes of address space; what asks for more is told so, as on a smaller machine
OTHER_EXPERIMENT = 77  # an exit code that gkd has no use for
Content = dict[str, Any]


def checked(*words: str) -> int:
    """Validate a config, read back what a run would write of it, and rehearse it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    return checked_here(*words)


def checked_here(*words: str) -> int:
    """As `checked`, with all the memory that there is."""
    code = command_line("validate", *words)
    if code != 0:
        return code
    resolved = load(words[0], list(words[1:]))
    written = Path("again.yaml")
    written.write_text(resolved.annotated_yaml())
    try:
        again = load(written, [])
        # The file states every option of a term, the experiment only those that are set: the identity knows both.
        stated, read = (
            each.experiment.model_dump(mode="json", exclude={"method"}) for each in (resolved, again)
        )
        differs = first_difference(stated, read) or first_difference(resolved.identity, again.identity)
    except UserError as error:
        differs = f"it is refused: {error}"
    if differs:
        print(differs)
        return OTHER_EXPERIMENT
    return command_line("run", words[0], "--dry-run", *words[1:])


def try_one(number: int, workshop: Workshop) -> Verdict:
    """A config with a few mistakes, validated and rehearsed."""
    random = seeded("configs", number)
    name = random.choice(list(SCENARIOS))
    told: list[str] = []
    with workshop.folder() as folder:
        SCENARIOS[name].write(folder)
        path = folder / CONFIG
        content = yaml.safe_load(path.read_text())
        overrides: list[str] = []
        for _ in range(random.choice((1, 1, 2, 3))):
            random.choice(MISTAKES)(content, overrides, random, told)
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False).encode()
        if random.random() < 0.15:
            text = random.choice(TEXTS)(text, random, told)
        path.write_bytes(text)
        shown = f"{name}: {'; '.join(told)}"[:400]
        body = checked if workshop.may_die else checked_here
        ended = workshop.command(folder, CONFIG, *overrides, body=body)
        wrong = judged_by_ending(shown, ended, allowed=(0, 2, OTHER_EXPERIMENT))
        if wrong is not None:
            return wrong
        if ended.code == OTHER_EXPERIMENT:
            return Verdict(Outcome.DIFFERENT, f"{shown}: config.yaml says something else: {ended.last_line}")
    return survived(f"{shown}: ended with {ended.code}")


def _set(content: Content, dotted: str, value: Any) -> None:
    """Set a dotted key, making mappings of what stands in its way."""
    *parents, last = dotted.split(".")
    for key in parents:
        if not isinstance(content.get(key), dict):
            content[key] = {} if key != "method" else {"name": content.get(key, "student")}
        content = content[key]
    content[last] = value


def _key(content: Content, random: standard_random.Random) -> str:
    """A dotted key: of the schema, of the method's stages and terms, or one that is there."""
    chosen = random.random()
    if chosen < 0.6:
        return random.choice(KEYS)
    if chosen < 0.8:
        there = _leaves(content)
        return random.choice(there) if there else "task"
    method = content.get("method")
    stages = load_method(method).stages if isinstance(method, str) else {}
    if not stages:
        return "method.stages.one.terms.cross_entropy.weight"
    stage = random.choice(list(stages))
    if random.random() < 0.5:
        return f"method.stages.{stage}.{random.choice(STAGE_KEYS)}"
    term = random.choice([*stages[stage].terms, "nonsense"])
    return f"method.stages.{stage}.terms.{term}.{random.choice(TERM_KEYS)}"


def _leaves(content: Content, prefix: str = "") -> list[str]:
    found = []
    for key, value in content.items():
        inner = _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else []
        found += inner or [f"{prefix}{key}"]
    return [key for key in found if isinstance(key, str)]


def _wrong_value(
    content: Content, overrides: list[str], random: standard_random.Random, told: list[str]
) -> None:
    key, value = _key(content, random), copy.deepcopy(random.choice(VALUES))
    _set(content, key, value)
    told.append(f"{key}: {str(value)[:40]!r}")


def _wrong_override(
    content: Content, overrides: list[str], random: standard_random.Random, told: list[str]
) -> None:
    key, value = _key(content, random), random.choice(VALUES)
    written = value if isinstance(value, str) else json.dumps(value)
    overrides.append(f"{key}={written}".replace("\0", ""))  # no word of a command line holds one
    told.append(overrides[-1][:60])


def _odd_number(
    content: Content, overrides: list[str], random: standard_random.Random, told: list[str]
) -> None:
    """A value of the right kind that few would choose: most of these configs get past the schema."""
    key = random.choice(list(ODD))
    value = random.choice(ODD[key])
    overrides.append(f"{key}={json.dumps(value)}")
    told.append(overrides[-1])


def _lost_key(
    content: Content, overrides: list[str], random: standard_random.Random, told: list[str]
) -> None:
    there = _leaves(content)
    if not there:
        return
    *parents, last = random.choice(there).split(".")
    for key in parents:
        content = content[key]
    content.pop(last, None)
    told.append(f"without {'.'.join([*parents, last])}")


def _misspelt_key(
    content: Content, overrides: list[str], random: standard_random.Random, told: list[str]
) -> None:
    key = random.choice(list(content)) if content else ""
    if isinstance(key, str) and key:
        place = random.randrange(len(key))
        content[key[:place] + random.choice("abcxyz") + key[place + 1 :]] = content.pop(key)
        told.append(f"misspelt {key}")


def _swapped_values(
    content: Content, overrides: list[str], random: standard_random.Random, told: list[str]
) -> None:
    if len(content) > 1:
        one, other = random.sample(list(content), 2)
        content[one], content[other] = content[other], content[one]
        told.append(f"{one} and {other} swapped")


MISTAKES = (
    _odd_number,
    _odd_number,
    _odd_number,
    _wrong_value,
    _wrong_value,
    _wrong_override,
    _lost_key,
    _misspelt_key,
    _swapped_values,
)


def _flipped(text: bytes, random: standard_random.Random, told: list[str]) -> bytes:
    changed = bytearray(text)
    for _ in range(random.choice((1, 3, 10))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    told.append("bits of the text flipped")
    return bytes(changed)


def _cut(text: bytes, random: standard_random.Random, told: list[str]) -> bytes:
    told.append("text cut short")
    return text[: random.randrange(len(text))]


def _added(text: bytes, random: standard_random.Random, told: list[str]) -> bytes:
    """Something before, behind or within the text that YAML gives a meaning of its own."""
    added = random.choice(
        [
            b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\t", b"--- \n", b"%YAML 9.9\n---\n", b"? [a]\n", b"*nothing\n", b"]",
            b"run: {seed: 1}\nrun: {seed: 2}\n", b"a: &a [*a]\n", b"!!python/object/apply:os.system [true]\n",
            b"x: " + b"[" * 3000 + b"\n", b"n: " + b"9" * 5000 + b"\n", b"d: 2026-01-01\n", b"s: !!set {a}\n",
            b"a: &a {b: 1}\n<<: *a\n", b"\xc3", b"b: !!binary AAAA\n",
            b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + b"".join(
                b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 10)
            ),
        ]
    )  # fmt: skip
    place = random.choice([0, len(text), random.randrange(len(text) + 1)])
    told.append(f"{added[:20]!r} at {place}")
    return text[:place] + added + text[place:]


TEXTS: tuple[Callable[[bytes, standard_random.Random, list[str]], bytes], ...] = (
    _flipped,
    _cut,
    _added,
    _added,
)
