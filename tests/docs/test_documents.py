"""The documents say what is: their links lead somewhere, their commands exist, the messages they explain are in the code."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
README = (REPOSITORY / "README.md").read_text()


def source():
    """All of the code, with the line breaks of long strings undone."""
    text = "\n".join(path.read_text() for path in sorted((REPOSITORY / "src").rglob("*.rs")))
    return re.sub(r"\\\n\s*", "", text).replace('\\"', '"')


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_files_that_are_named_exist():
    for page in PAGES:
        for name in re.findall(r"`((?:src|tests|systemd|benches)/[\w./-]+)`", page.read_text()):
            assert (REPOSITORY / name.rstrip("/")).exists(), f"{page.name}: {name}"


def commands():
    """Every cofferd command of the README: its words up to the first argument."""
    known = set()
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", README, re.DOTALL) + re.findall(r"`([^`\n]+)`", README):
        for words in re.findall(r"(?:^|\$ |sudo |&& |release/)cofferd ((?:--?\w+ \S+ )?[a-z]+(?: [a-z]+)?)", block, re.MULTILINE):
            known.add(words)
    return sorted(known)


@pytest.mark.parametrize("words", commands())
def test_commands_exist(binary, words):
    command, *rest = words.split()
    with_rest = subprocess.run([binary, command, *rest, "--help"], capture_output=True, text=True)
    assert with_rest.returncode == 0 and f"cofferd {command}" in with_rest.stdout, words
    # A second word is a subcommand, or else an argument: then the command has no subcommands.
    alone = subprocess.run([binary, command, "--help"], capture_output=True, text=True).stdout
    if "Commands:" in alone:
        assert rest and re.search(rf"^  {rest[0]} ", alone, re.MULTILINE), words


def test_enough_commands_were_found():
    assert {"backup web", "instance add", "schedule add", "quota set", "snapshot"} <= {re.sub(r"\d", "", c) for c in commands()}


def test_every_key_of_the_configuration_is_explained():
    code = (REPOSITORY / "src" / "config.rs").read_text() + (REPOSITORY / "src" / "objects" / "settings.rs").read_text()
    keys = set()
    for table in re.findall(r"struct (?:File|\w+Table|Settings) \{(.*?)\n\}", code, re.DOTALL):
        keys |= set(re.findall(r"^    (?:pub )?(\w+): (?!\w+Table|BTreeMap)", table, re.MULTILINE))
    assert {"listen", "endpoint", "patience_s"} <= keys
    assert len(keys) > 15
    table = README.split("## Configuration")[1].split("\n## ")[0]
    example = (REPOSITORY / "systemd" / "cofferd.toml").read_text()
    for key in keys:
        assert f"`{key}`" in table, f"README.md: {key}"
        assert re.search(rf"^#{key} = ", example, re.MULTILINE), f"systemd/cofferd.toml: {key}"


def explained():
    table = README.split("## Questions and errors")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("message", explained())
def test_messages_that_are_explained_are_in_the_code(message):
    """The fixed parts of a message, between what is filled in, are in the code; some of the text is SQLite's or the system's."""
    filled_in = r"\.\.\.|\d+|'[^']*'|\([^)]*\)|\bN\b|\"|<|>|Address already in use|unknown field|, expected one of|cofferd\.sock|volume \d|`"
    code = source()
    parts = [part.strip(" ;:,.") for part in re.split(filled_in, message)]
    parts = [part for part in parts if len(part) > 5]
    for part in parts:
        words = part.split()
        # A word may be filled in too, but most are literal.
        pattern = r"\s*".join(rf"(?:{re.escape(word)}|\{{[^{{}}]*\}})" for word in words)
        found = [match for match in re.findall(pattern, code) if sum(word in match for word in words) * 2 > len(words)]
        assert found, part
    assert parts or "unknown field" in message


def test_design_says_what_each_dependency_is_for():
    manifest = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())
    section = (REPOSITORY / "DESIGN.md").read_text().partition("## What it is built from")[2].partition("\n## ")[0]
    explained = {crate for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for crate in re.findall(r"`([\w-]+)`", row)}
    assert explained == {*manifest["dependencies"], *manifest["dev-dependencies"]}
