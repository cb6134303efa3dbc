"""The words of all methods: what the command line and the bench offer."""

from prunus import methods
from prunus.methods.base import Method

__all__ = ["METHODS", "by_word"]


def by_word(names: dict[str, object]) -> dict[str, type[Method]]:
    """Word -> method, for every method with a name among the values of a module.

    Raises ValueError when a word means two.

    >>> by_word({"Method": Method})
    {}
    """
    found: dict[str, type[Method]] = {}
    for cls in names.values():
        if isinstance(cls, type) and issubclass(cls, Method) and cls.name:
            for word in cls.words():
                if word in found:
                    raise ValueError(
                        f"name: expected a word of its own, got {word!r} of {found[word].__name__}"
                    )
                found[word] = cls
    return found


METHODS = by_word(vars(methods))
