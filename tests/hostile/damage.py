"""Damage for the generators: valid bytes that are cut, flipped, doubled, or given numbers that mean much."""

from __future__ import annotations

import random

# Lengths, counts and offsets that overflow, wrap or ask for everything.
_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def damage(data: bytes, chance: random.Random) -> bytes:
    """`data` with one to eight faults in it."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        if not result:
            return bytes(chance.randbytes(chance.randint(0, 64)))
        place = chance.randrange(len(result))
        match chance.randrange(6):
            case 0:
                result[place] ^= 1 << chance.randrange(8)
            case 1:
                size = chance.choice((1, 2, 4, 8))
                number = chance.choice(_NUMBERS) & ((1 << (8 * size)) - 1)
                result[place : place + size] = number.to_bytes(size, chance.choice(("little", "big")))
            case 2:
                del result[place : place + chance.randint(1, 64)]
            case 3:
                result[place:place] = chance.randbytes(chance.randint(1, 32))
            case 4:
                length = chance.randint(1, 256)
                other = chance.randrange(len(result))
                result[place : place + length] = result[other : other + length]
            case 5:
                del result[place:]
    return bytes(result)


def damage_text(text: str, chance: random.Random) -> str:
    """`text` with one to six faults in it: characters that mean something to somebody, lines doubled or gone."""
    strange = ["\0", "\x1b[2J", "\x1b]0;title\x07", "\r", "\n", "\u202e", "\u2028", "\ud800", "`", "|", "${{", "../", "/", "\\",
               "%s", "{", "}", "[", "]", '"', "'", ";", "a" * 5000, "9" * 5000, "\U0001f600", "\x85", "\ufeff"]  # fmt: skip
    lines = text.split("\n")
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(lines))
        line = lines[place]
        column = chance.randint(0, len(line))
        match chance.randrange(5):
            case 0:
                lines[place] = line[:column] + chance.choice(strange) + line[column:]
            case 1:
                lines[place] = line[:column]
            case 2:
                lines.insert(place, chance.choice(lines))
            case 3 if len(lines) > 1:
                del lines[place]
            case _:
                lines[place] = line[:column] + chance.choice(strange) * chance.choice((1, 10, 1000)) + line[column:]
    return "\n".join(lines)
