r"""Foreign text where it could do something: on a terminal, in Markdown, a spreadsheet, JSON.

Names of groups, labels, tasks and models, cells, and what other programs say of them are foreign.
Whatever is shown passes through one function a target; HTML is jinja2's, over `printable`.

    printable      a terminal, a log, a page: nothing invisible, no control, no password
    one_line       the same as one line: a cell, a name, an error
    in_markdown    the same for Markdown
    in_spreadsheet the same for a cell of a csv
    in_json        the text of a JSON document
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

# Categories of characters that act or hide instead of being seen: controls, formats (directions,
# zero widths, tags), halves of pairs, ends of lines and paragraphs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Letters that look like nothing.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
# Joiners are spelling between letters of some scripts, and glue in emoji.
_JOINED = re.compile("(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")

# `user:password@` of an address; an access token of the Hub.
_PASSWORD = re.compile(r"(?<=://)[^\s/?#]*@")
_TOKEN = re.compile(r"\bhf_\w{8,}")

# Environment variables that paths were written with: value → `${NAME}`.
_concealed: dict[str, str] = {}

# Letters of Markdown where they mean something: an underscore within a word does not, nor does a
# bracket that no link can follow. At the start: lists, rules, underlines of headings.
_MEANINGFUL = (
    r"[\\`*|~#$]",
    r"(?<![^\W_])_|_(?![^\W_])",
    r"\](?=[(\[:])",
    r"^[-+](?=[\s-]|$)|^=",
)
_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
# A cell that a spreadsheet takes for a formula, and one that is a number.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Raw(str):
    """Text that is Markdown already."""

    __slots__ = ()


def printable(value: object) -> str:
    r"""Text of which everything is seen: what is not becomes its escape, save ends of lines.

    Passwords in addresses, tokens of the Hub and values of `${NAME}` in paths are left out.

    >>> printable("Ma\u200ble\x1b[2J\n"), printable("http://me:secret@host/")
    ('Ma\\u200ble\\x1b[2J\n', 'http://***@host/')
    """
    text = without_secrets(str(value)).replace("\r\n", "\n")
    if text.isascii() and text.isprintable():
        return text
    kept = {match.start() for match in _JOINED.finditer(text)}
    return "".join(
        letter if letter in "\n\t" or index in kept or is_seen(letter) else _escape(letter)
        for index, letter in enumerate(text)
    )


def one_line(value: object) -> str:
    r"""As `printable`, with ends of lines and tabs as their escapes.

    >>> one_line("a\nb\tc")
    'a\\nb\\tc'
    """
    return printable(value).replace("\n", r"\n").replace("\t", r"\t")


def in_markdown(value: object) -> str:
    r"""Text that Markdown shows as it is, on one line; `Raw` is left alone.

    >>> in_markdown("a|b](x) <i>"), in_markdown("- _c_ d_e")
    ('a\\|b\\](x) &lt;i&gt;', '\\- \\_c\\_ d_e')
    """
    if isinstance(value, Raw):
        return value
    text = one_line(re.sub(r"\s*\n\s*", " ", str(value)).strip())
    for characters in _MEANINGFUL:
        text = re.sub(characters, r"\\\g<0>", text)
    text = _NUMBERED.sub(r"\1\\\2", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def in_spreadsheet(value: object) -> object:
    """A cell of a csv that no spreadsheet runs: OWASP's apostrophe before what begins a formula.

    Numbers stay numbers, as texts, too.

    >>> in_spreadsheet("=1+1"), in_spreadsheet("-1"), in_spreadsheet(-0.5), in_spreadsheet("- no")
    ("'=1+1", '-1', -0.5, "'- no")
    """
    if not isinstance(value, str):
        return value
    text = one_line(value)
    is_formula = _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{text}" if is_formula else text


def in_json(value: Any, **options: Any) -> str:
    r"""As `json.dumps`; readable, and what is not seen is a JSON escape: the same value.

    >>> in_json(["é\u202e"])
    '["é\\u202e"]'
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c == "\n" or is_seen(c) else json.dumps(c)[1:-1] for c in text)


def is_seen(character: str) -> bool:
    """Whether a reader sees it, or its width."""
    return unicodedata.category(character) not in _UNSEEN and character not in _BLANK


def without_secrets(text: str) -> str:
    """Passwords, tokens and what `conceal` was told are replaced."""
    for value, name in sorted(_concealed.items(), key=lambda item: -len(item[0])):
        text = text.replace(value, name)
    return _TOKEN.sub("hf_***", _PASSWORD.sub("***@", text))


def conceal(value: str, name: str) -> None:
    """Show `name` where the value of an environment variable would be shown from now on."""
    if len(value) > 3:
        _concealed[value] = name


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
