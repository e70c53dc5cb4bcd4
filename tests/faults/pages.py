"""What each page of a coffer's file is, found by reading the file as sqlite.org/fileformat2.html describes it."""

import struct
from collections import defaultdict
from pathlib import Path

PAGE = 65536
POINTERS = PAGE // 5  # pages that one page of the pointer map describes
LOCK_PAGE = (1 << 30) // PAGE + 1
INDEX_INTERIOR, TABLE_INTERIOR, INDEX_LEAF, TABLE_LEAF = 2, 5, 10, 13


def varint(data, at):
    value = 0
    for n in range(9):
        byte = data[at + n]
        if n == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 127
        if not byte & 128:
            return value, at + n + 1


def record(payload):
    """The values of a record that lies on one page."""
    end, at = varint(payload, 0)
    values, body = [], end
    while at < end:
        serial, at = varint(payload, at)
        size = (serial - 12) // 2 if serial >= 12 else (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)[serial]
        raw = payload[body:body + size]
        body += size
        values.append(None if serial == 0 else serial - 8 if serial in (8, 9) else int.from_bytes(raw, "big", signed=True)
                      if serial < 7 else raw.decode() if serial % 2 and serial > 12 else bytes(raw))
    return values


def local_part(length, index=False):
    """Bytes of a payload that stay on its page."""
    most = (PAGE - 12) * 64 // 255 - 23 if index else PAGE - 35
    if length <= most:
        return length
    least = (PAGE - 12) * 32 // 255 - 23
    fitting = least + (length - least) % (PAGE - 4)
    return fitting if fitting <= most else least


class Pages:
    """`kinds`: what there is, as pairs of a table (or None) and a kind, each with the numbers of its pages."""

    def __init__(self, path):
        self.data = Path(path).read_bytes()
        self.count = len(self.data) // PAGE
        self.kinds = defaultdict(list)
        self.kinds[None, "header and schema"] = [1]
        for number in range(2, self.count + 1, POINTERS + 1):
            self.kinds[None, "pointer map"].append(number if number != LOCK_PAGE else number + 1)
        self._free()
        for kind, name, table, root, _ in self._schema():
            if root:
                self._tree(root, table, kind)
        taken = [number for pages in self.kinds.values() for number in pages]
        assert len(set(taken)) == len(taken) and len(taken) + (self.count >= LOCK_PAGE) == self.count, "each page is one thing"

    def page(self, number):
        return self.data[(number - 1) * PAGE:number * PAGE]

    def _number(self, page, at, size=4):
        return int.from_bytes(self.page(page)[at:at + size], "big")

    def _schema(self):
        assert self.data[100] == TABLE_LEAF
        for at in self.cells(1):
            length, body = varint(self.page(1), at)
            _, body = varint(self.page(1), body)
            yield record(self.page(1)[body:body + length])

    def _free(self):
        trunk = self._number(1, 32)
        while trunk:
            self.kinds[None, "freelist trunk"].append(trunk)
            count = self._number(trunk, 4)
            self.kinds[None, "free"] += struct.unpack_from(f">{count}I", self.page(trunk), 8)
            trunk = self._number(trunk, 0)

    def cells(self, number):
        start = 100 if number == 1 else 0
        kind, count = self.page(number)[start], self._number(number, start + 3, 2)
        first = start + (12 if kind in (TABLE_INTERIOR, INDEX_INTERIOR) else 8)
        return [self._number(number, first + 2 * n, 2) for n in range(count)]

    def _tree(self, number, table, what):
        page = self.page(number)
        kind = page[0]
        interior = kind in (TABLE_INTERIOR, INDEX_INTERIOR)
        self.kinds[table, f"{what} {'interior' if interior else 'leaf'}"].append(number)
        for at in self.cells(number):
            if interior:
                self._tree(self._number(number, at), table, what)
                at += 4
            if kind != TABLE_INTERIOR:
                length, at = varint(page, at)
                if kind == TABLE_LEAF:
                    _, at = varint(page, at)
                local = local_part(length, kind != TABLE_LEAF)
                if local < length:
                    self._overflow(self._number(number, at + local), table)
        if interior:
            self._tree(self._number(number, 8), table, what)

    def _overflow(self, number, table):
        while number:
            self.kinds[table, "overflow"].append(number)
            number = self._number(number, 0)


def overwrite(path, number, data, at=0):
    """Writes bytes into a page of the file."""
    with open(path, "r+b") as f:
        f.seek((number - 1) * PAGE + at)
        f.write(data)
