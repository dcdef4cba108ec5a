"""Lists that a program wrote into one cell as text, as pandas does in a csv."""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
from typing import Any

# How Python writes a collection that no brackets alone stand for, such as `set()`.
_NAMED = re.compile(r"(?:array|frozenset|list|set|tuple|Index)\((.*)\)", re.DOTALL)
_OPTION = re.compile(r",\s*dtype=[^\[\](){}]*$")
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_WORDS = {"None": None, "nan": math.nan, "True": True, "False": False}


def is_bracketed(text: str) -> bool:
    """Whether the text begins and ends as a list does."""
    plain = len(text) > 1 and _CLOSING.get(text[0]) == text[-1]
    return plain or bool(_NAMED.fullmatch(text))


def read_list(text: str) -> list[Any] | None:
    """The items of a list as JSON, Python or numpy write it; None if it is no such text.

    >>> [read_list(text) for text in ('["a", "b"]', "['a', None]", "['a' 'b']", "[a, b]")]
    [['a', 'b'], ['a', None], ['a', 'b'], None]
    >>> [read_list(text) for text in ("set()", "array(['a'], dtype=object)", "frozenset({'a'})")]
    [[], ['a'], ['a']]
    """
    text = text.strip()
    if named := _NAMED.fullmatch(text):
        text = _OPTION.sub("", named[1].strip()) or "[]"
    if not is_bracketed(text):
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = _by_words(text)
    if not isinstance(items, list) or any(isinstance(item, (list, dict)) for item in items):
        return None
    return items


def _by_words(text: str) -> list[Any] | None:
    # Not `literal_eval` of the whole, which reads numpy's ['a' 'b'] as one word.
    items: list[Any] = []
    end = (0, 0)
    try:
        for token in tokenize.generate_tokens(io.StringIO(f"({text[1:-1]})").readline):
            if token.type in (tokenize.STRING, tokenize.NUMBER):
                if token.start == end:
                    return None  # 'it''s' is one word elsewhere
                end = token.end
                items.append(ast.literal_eval(token.string))
            elif token.type == tokenize.NAME and token.string in _WORDS:
                items.append(_WORDS[token.string])
            elif token.string.strip() not in ("", ",", "(", ")"):
                return None
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    whole = all(item is None or isinstance(item, (str, int, float)) for item in items)
    return items if whole else None
