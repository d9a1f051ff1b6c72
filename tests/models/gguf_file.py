"""GGUF files taken apart and put together again, so that tests can change their metadata."""

import struct

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY, U32, F32, BOOL = 8, 9, 4, 6, 7


class Gguf:
    """`values` maps a key to (type, its bytes as stored), `offsets` a tensor's name to its place in `data`;
    tensors stay as they are."""

    def __init__(self, path):
        self.bytes = path.read_bytes()
        magic, self.version, self.n_tensors, n_values = struct.unpack_from("<4sIQQ", self.bytes)
        assert magic == b"GGUF"
        self.at = 24
        self.values = {}
        for _ in range(n_values):
            key = self.string()[8:].decode()
            kind = struct.unpack("<I", self.take(4))[0]
            self.values[key] = (kind, self.value(kind))
        begin = self.at
        self.offsets = {}
        for _ in range(self.n_tensors):
            name = self.string()[8:].decode()
            dims = struct.unpack("<I", self.take(4))[0]
            self.take(8 * dims + 4)
            self.offsets[name] = struct.unpack("<Q", self.take(8))[0]
        self.infos = self.bytes[begin:self.at]
        self.data = self.bytes[self.at + -self.at % 32:] if self.n_tensors else b""

    def take(self, count):
        self.at += count
        return self.bytes[self.at - count:self.at]

    def string(self):
        head = self.take(8)
        return head + self.take(struct.unpack("<Q", head)[0])

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.take(SIZES[kind])
        head = self.take(12)
        element, count = struct.unpack("<IQ", head)
        if element == STRING:
            return head + b"".join(self.string() for _ in range(count))
        return head + self.take(SIZES[element] * count)

    def text(self, key):
        return self.values[key][1][8:].decode()

    def set_text(self, key, text):
        self.values[key] = (STRING, struct.pack("<Q", len(text.encode())) + text.encode())

    def set_bool(self, key, value):
        self.values[key] = (BOOL, struct.pack("<?", value))

    def write(self, path):
        out = struct.pack("<4sIQQ", b"GGUF", self.version, self.n_tensors, len(self.values))
        for key, (kind, value) in self.values.items():
            out += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value
        out += self.infos
        path.write_bytes(out + b"\0" * (-len(out) % 32) + self.data)


def without(path, out, *keys):
    """A copy of a GGUF that lacks these keys."""
    file = Gguf(path)
    for key in keys:
        file.values.pop(key, None)
    file.write(out)
    return out
