"""Seeded damage: to bytes of any kind, and to the structure of what a format consists of.

`CFG_FUZZ=10000` sets how many cases the fuzzers try; by default they are few.
"""

from __future__ import annotations

import json
import os
import random
import string
import struct
import tarfile

CASES = int(os.environ.get('CFG_FUZZ', '0'))
SLOW = 10.0  # seconds that one case may take
NUMBERS = [0, 1, -1, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, -(2**63)]
ODD = [
    None,
    True,
    False,
    0,
    -1,
    2.5,
    1e308,
    10**30,
    10**12,
    '',
    'x',
    'a' * 5000,
    '\x1b[2J',
    '\ud800',
    [],
    [1],
    [[1]],
    {},
    {'a': {'b': 1}},
]


def damage(content: bytes, dice: random.Random) -> bytes:
    """Return bytes with one to three kinds of damage."""
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        content = dice.choice(BYTES)(content, dice)
    return content


def _place(content: bytes, dice: random.Random) -> int:
    """Return a place: near an end as likely as anywhere."""
    last = max(len(content) - 1, 0)
    return dice.choice([dice.randint(0, last), dice.randint(0, min(last, 64)), max(0, last - dice.randint(0, 64))])


def flip(content: bytes, dice: random.Random) -> bytes:
    place = _place(content, dice)
    return content[:place] + bytes(byte ^ dice.randint(1, 255) for byte in content[place : place + 1]) + content[place + 1 :]


def cut(content: bytes, dice: random.Random) -> bytes:
    return content[: _place(content, dice)]


def drop(content: bytes, dice: random.Random) -> bytes:
    place = _place(content, dice)
    return content[:place] + content[place + dice.choice([1, 8, 512, 4096]) :]


def repeat(content: bytes, dice: random.Random) -> bytes:
    place, length = _place(content, dice), dice.choice([1, 8, 512, 4096])
    return content[: place + length] + content[place:]


def insert(content: bytes, dice: random.Random) -> bytes:
    place = _place(content, dice)
    return content[:place] + dice.choice([dice.randbytes(9), b'\0' * 512, b'"', b'\n', b'\xff\xfe', b'{', b',']) + content[place:]


def number(content: bytes, dice: random.Random) -> bytes:
    place, value = _place(content, dice), dice.choice(NUMBERS)
    packed = struct.pack('<q', value)[: dice.choice([1, 2, 4, 8])]
    return content[:place] + packed + content[place + len(packed) :]


def zero(content: bytes, dice: random.Random) -> bytes:
    place, length = _place(content, dice), dice.choice([8, 64, 512])
    return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]


BYTES = [flip, flip, cut, drop, repeat, insert, number, zero]


def tar_header(content: bytes, dice: random.Random) -> bytes:
    """Change a field of a header of an archive, and make its checksum right again."""
    blocks = [start for start in range(0, len(content), 512) if content[start + 257 : start + 262] == b'ustar']
    if not blocks:
        return damage(content, dice)
    start = dice.choice(blocks)
    header = bytearray(content[start : start + 512])
    field, value = dice.choice(
        [
            (
                slice(124, 136),
                dice.choice([b'-0000000001\0', b'77777777777\0', b'00000000000\0', b'           \0', b'\x80' + b'\xff' * 11]),
            ),
            (slice(124, 136), b'\xff' * 8 + struct.pack('>i', -dice.choice([1, 512, 1024]))),
            (slice(156, 157), dice.choice(list(b'0123456789xgLKSXVDMN\0')).to_bytes(1, 'little')),
            (slice(0, 100), dice.randbytes(dice.randint(0, 100)).ljust(100, b'\0')),
            (slice(345, 500), dice.randbytes(155)),
            (slice(386, 410), dice.choice([b'77777777777\0' * 2, b'00000000000\0' * 2])),  # a map of holes
        ]
    )
    header[field] = value
    header[148:156] = b'%06o\0 ' % tarfile.calc_chksums(bytes(header))[0]
    return content[:start] + bytes(header) + content[start + 512 :]


def json_line(content: bytes, dice: random.Random) -> bytes:
    """Replace a line by an object of odd values, or by JSON that is none."""
    lines = content.split(b'\n')
    made = json.dumps({dice.choice(['caption', 'id', '']): dice.choice(ODD) for _ in range(dice.randint(0, 3))}).encode()
    lines[dice.randrange(len(lines))] = dice.choice([made, made[:-1], b'[' * 50_000, b'NaN', b'1' * 5000, made + made])
    return b'\n'.join(lines)


def csv_line(content: bytes, dice: random.Random) -> bytes:
    """Put quotes and separators where they change what a record is."""
    lines = content.split(b'\n')
    lines[dice.randrange(len(lines))] = ''.join(dice.choices('",\t\r\'x' + string.whitespace, k=12)).encode()
    return b'\n'.join(lines)


def odd_json(content: object, dice: random.Random) -> object:
    """Return JSON of which one value is another, one key is gone, or one is new."""
    if isinstance(content, dict) and content and dice.random() < 0.9:
        key = dice.choice(sorted(content))
        how = dice.random()
        if how < 0.05:
            return {name: value for name, value in content.items() if name != key}
        return {**content, key: odd_json(content[key], dice), **({'new': 1} if how > 0.95 else {})}
    if isinstance(content, list) and content and dice.random() < 0.9:
        place = dice.randrange(len(content))
        return [*content[:place], odd_json(content[place], dice), *content[place + 1 :]]
    return dice.choice([value for value in ODD if value != '\ud800'])
