"""The pages people read, taken apart: commands, configurations, files that a page writes out, links and anchors."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from acr.recipes import SECTIONS
from tests.running import ROOT

PATTERNS = ("*.md", "docs/*.md", "config/*.md", ".github/*.md")
PAGES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern) if path.name != "CHANGELOG.md")
FENCED = re.compile(r"^```(\w*)\n((?:.*\n)*?)```$", re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)( {4}.*\n(?:(?: {4}.*)?\n)*)")
SHELLS = ("sh", "bash", "console")
KEYS = {"dataset", "datasets", "execution", "extensions", *SECTIONS}
# what is a command within a sentence too, where it says more than options; in a block every line is one
PROGRAMS = ("snakemake", "python", "make", "pytest", "bash")


@dataclass(frozen=True)
class Command:
    """One command of a page: where it stands, the section it stands in, and what it is marked as needing."""

    page: Path
    section: str
    text: str
    needs: str | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text}"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


@dataclass(frozen=True)
class Block:
    """Code of a fence, or of indented lines, whose language is sh; `above` is the line of text before it."""

    language: str
    code: str
    above: str

    @property
    def needs(self) -> str | None:
        """What a comment above it says that no test has."""
        comment = re.fullmatch(r"<!-- not run: needs (.+) -->", self.above)
        return comment[1] if comment else None


def sections(page: Path) -> list[str]:
    """The text before the first heading of the second rank, then each of these with what is below it."""
    hidden = FENCED.sub(lambda fence: "\0" * len(fence[0]), page.read_text())
    starts = [0, *(heading.start() for heading in re.finditer(r"^## ", hidden, re.MULTILINE))]
    text = f"{page.read_text()}\n"
    return [text[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def blocks(section: str) -> list[Block]:
    fences = [(fence.start(), fence[1], fence[2]) for fence in FENCED.finditer(section)]
    hidden = FENCED.sub(lambda fence: "-" * len(fence[0]), section)
    indented = [(lines.start(), "sh", re.sub(r"^ {4}", "", lines[1], flags=re.M)) for lines in INDENTED.finditer(hidden)]
    return [
        Block(language, code, section[:start].rstrip().rpartition("\n")[2])
        for start, language, code in sorted(fences + indented)
    ]


def configuration(text: str) -> dict | None:
    """The configuration that a text is; None of any other text."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return content if isinstance(content, dict) and content and set(content) <= KEYS else None


def merged(base: dict, over: dict) -> dict:
    """`over` laid over `base`, as snakemake merges config files."""
    both = {k: merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **over, **both}


def spans(section: str) -> list[str]:
    """What stands in code within sentences."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", section))


def configurations(section: str) -> list[dict]:
    """Those in blocks; where there is none, those within sentences."""
    texts = [block.code for block in blocks(section) if block.language in ("yaml", "sh")]
    found = [content for text in texts if (content := configuration(text))]
    return found or [content for text in spans(section) if (content := configuration(text))]


def commands(page: Path) -> Iterator[Command]:
    """Every command of a page; three dots stand for the words of the last one of snakemake."""
    last = ""
    for section in sections(page):
        found = [(line, block.needs) for block in blocks(section) for line in _lines(block)]
        found += [(text, None) for text in spans(section) if _says_more_than_options(text)]
        for text, needs in found:
            whole = text.replace("snakemake ...", last)
            last = whole if whole.startswith("snakemake") else last
            yield Command(page, section, whole, needs)


def _lines(block: Block) -> list[str]:
    if block.language not in SHELLS or configuration(block.code):
        return []
    lines = block.code.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.removeprefix("$ ").split("&&")]
    return [part for part in parts if part and not part.startswith("#")]


def _says_more_than_options(text: str) -> bool:
    program, *rest = text.split()
    return program in PROGRAMS and not all(word.startswith("-") for word in rest)


def written(page: Path) -> dict[str, str]:
    """Files that a page writes out: blocks below a line that ends with the name of one in code and a colon."""
    named = ((re.search(r"`([\w.-]+\.\w+)`:$", block.above), block.code) for block in _all_blocks(page))
    return {name[1]: code for name, code in named if name}


def _all_blocks(page: Path) -> list[Block]:
    return [block for section in sections(page) for block in blocks(section)]


def codes(page: Path, language: str) -> list[str]:
    """The code of every block of a language."""
    return [block.code for block in _all_blocks(page) if block.language == language]


def links(page: Path) -> list[str]:
    """Where the links of a page lead, those of pictures included; what stands in code is none."""
    text = INDENTED.sub("", FENCED.sub("", page.read_text()))
    return re.findall(r"\]\(([^)\s]*)\)", re.sub(r"`[^`\n]+`", "", text))


def addresses(page: Path) -> list[str]:
    """Every address of a page, linked or not."""
    return re.findall(r"\bhttps?:[^\s)>\]\"'`]*", page.read_text())


def anchors(page: Path) -> set[str]:
    """The names of a page's headings as GitHub makes them, in which a repeated one is numbered."""
    names, seen = set(), Counter[str]()
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).replace(" ", "-")
        names.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names
