#!/usr/bin/env python3
"""Restores one volume from a coffer without cofferd, by FORMAT.md alone: extract.py COFFER MAP_ID NEW_FILE"""
import functools, os, sqlite3, struct, sys
from blake3 import blake3
from zstandard import DICT_TYPE_RAWCONTENT, ZstdCompressionDict, ZstdDecompressor

def extract(coffer, map_id, out):
    db = sqlite3.connect(f"file:{coffer}?mode=ro", uri=True)
    def row(sql, key):
        return db.execute(sql + " WHERE id = ?", (key,)).fetchone()
    @functools.lru_cache(4)
    def pack(number):
        layout, entries = row("SELECT format, entries FROM pack_toc", number)
        assert layout in (1, 2), "a newer layout"
        return list(struct.iter_unpack("<32sIIIBBxxQ", entries)), row("SELECT data FROM pack", number)[0]
    def chunk(address, length=None):
        if address == 0:
            return bytes(32), b""
        toc, data = pack(address >> 12)
        name, offset, stored, raw, encoding, _flags, base = toc[address & 4095]
        content = data[offset:offset + stored]
        if encoding in (2, 3):
            prefix = ZstdCompressionDict(chunk(base)[1], dict_type=DICT_TYPE_RAWCONTENT) if encoding == 3 else None
            content = ZstdDecompressor(prefix).decompress(content, max_output_size=raw)
        assert encoding in (1, 2, 3) and len(content) == raw == (length or raw) and blake3(content).digest() == name, "damaged"
        return name, content
    names, (want, size, step, ids) = [], row("SELECT hash, size, chunk_size, segments FROM volume_map", map_id)
    with open(out, "xb") as file:
        for number, (segment,) in enumerate(struct.iter_unpack("<q", ids)):
            name, layout, chunks = row("SELECT hash, format, chunks FROM segment", segment) if segment else (bytes(32), 1, b"")
            below = []
            for at, (address,) in zip(range(number * 1024 * step, size, step), struct.iter_unpack("<Q", chunks)):
                below.append(chunk(address, min(step, size - at)))
                os.pwrite(file.fileno(), below[-1][1], at)
            assert not segment or layout == 1 and blake3(b"".join(n for n, _ in below)).digest() == name, "damaged segment"
            names.append(name)
        file.truncate(size)
    assert blake3(struct.pack("<QQ", size, step) + b"".join(names)).digest() == want, "damaged map"

extract(sys.argv[1], int(sys.argv[2]), sys.argv[3])
