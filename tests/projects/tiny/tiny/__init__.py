from ._core import answer as answer
