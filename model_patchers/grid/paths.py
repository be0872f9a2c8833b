"""Names of files for the values of axes: safe on every system, stable, and readable."""

import hashlib
import re
import unicodedata

LONGEST_KEY = 40  # letters of one value's key
LONGEST_PATH = 160  # letters of a cell's path: Windows takes 260 with the folder's own
FORBIDDEN = re.compile(r'[<>:"/\\|?*~]')
RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])(\..*)?"
)


def short_hash(text: str, length: int = 6) -> str:
    """Some hexadecimal digits that tell texts apart."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def key(title: str) -> str:
    """A name of files for a title: the title where every system takes it as it is, else a part of it and a hash."""
    text = unicodedata.normalize("NFC", title)
    letters = ("_" if unicodedata.category(letter)[0] in "CZ" and letter != " " else letter for letter in text)
    name = FORBIDDEN.sub("_", "".join(letters)).strip(" .")[:LONGEST_KEY].strip(" .")
    if RESERVED.fullmatch(name.lower()):
        name = f"_{name}"
    if name == title:
        return name
    return f"{name}~{short_hash(title)}" if name else f"value~{short_hash(title)}"


def distinct(titles: list[str], contents: list[str]) -> list[str]:
    """A key for each title, where `contents` tells values of the same title apart.

    The first of several values with one key keeps it, so values that are added later change no key. File systems that
    ignore the case of letters keep the keys apart, too.
    """
    keys, used = [], set()
    for title, content in zip(titles, contents, strict=True):
        name = key(title)
        if name.casefold() in used:
            name = f"{name}~{short_hash(content)}"
        while name.casefold() in used:
            name = f"{name}~{short_hash(name)}"
        used.add(name.casefold())
        keys.append(name)
    return keys


def cell_path(keys: list[str], digest: str) -> str:
    """The path of a cell's files, without suffix: the keys of its values, and what tells its workflow apart."""
    path = "/".join(keys)
    if len(path) > LONGEST_PATH:
        path = f"{path[:LONGEST_PATH].rpartition('/')[0]}/{short_hash(path, 12)}"
    return f"{path}.{digest[:8]}"
